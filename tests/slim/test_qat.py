"""Quantization-aware training: the arithmetic, training and resuming, the int8 export, and wrong settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from optimized import int8_convolutions
from paddle import nn
from tiny_yolof import tiny_model, write_training_config

from ppdet_repro.core.config import build, load_config
from ppdet_repro.engine.distributed import running_statistics
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.model_weights import load_pretrained, weights_of
from ppdet_repro.engine.models import build_untrained, load_trained
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.train import train
from ppdet_repro.paddle_private.program import operator_types as operators
from ppdet_repro.paddle_private.program import read_program
from ppdet_repro.paddle_private.quantization import activation_ranges as ranges
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.slim import qat as module
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.slim.qat import QAT, plain_name, without_clipping
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state, save_state

# As in PaddleDetection's configs/slim/quant
SLIM_CONFIG = """
pretrain_weights: PRETRAINED
slim: QAT

QAT:
  quant_config: {
    'activation_preprocess_type': 'PACT',
    'weight_quantize_type': 'channel_wise_abs_max', 'activation_quantize_type': 'moving_average_abs_max',
    'weight_bits': 8, 'activation_bits': 8, 'dtype': 'int8', 'window_size': 10000, 'moving_rate': 0.9,
    'quantizable_layer_type': ['Conv2D', 'Linear']}
  print_model: True

epoch: 2
LearningRate:
  base_lr: 0.0005
  schedulers:
  - !PiecewiseDecay
    gamma: 0.1
    milestones:
    - 30
    - 45
  - !LinearWarmup
    start_factor: 0.
    steps: 2
OptimizerBuilder: {optimizer: {type: Momentum, momentum: 0.9}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `data`, tiny.yml, quant.yml and float32 weights."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_training_config(folder)
    save_state(folder / "float.pdparams", weights_of(tiny_model(config)))
    (folder / "quant.yml").write_text(SLIM_CONFIG.replace("PRETRAINED", str(folder / "float.pdparams")))
    return folder


def config(folder, *overrides):
    return load_config(folder / "tiny.yml", overrides, folder / "quant.yml")


@pytest.fixture(scope="module")
def trained(folder):
    """The folder of a training run of two epochs."""
    train(config(folder, f"save_dir={folder / 'output'}"), evaluate=False)
    return folder / "output" / "quant"


def clipping(model):
    """The PACT layers of a model."""
    kind = import_paddleslim().dygraph.quant.qat.PACT
    return [layer for layer in model.sublayers() if isinstance(layer, kind)]


def quantized(layer, **settings):
    """A model of one layer, quantized."""
    model = nn.Sequential(layer)
    QAT(settings).quantize(model)
    return model


# The arithmetic -------------------------------------------------------------------------------------------


def test_inputs_and_weights_are_rounded_to_steps_of_a_127th_of_their_range():
    layer = nn.Conv2D(2, 1, 1, bias_attr=False)
    layer.weight.set_value(paddle.to_tensor([0.5, -1.27]).reshape([1, 2, 1, 1]))  # 50 and -127 hundredths
    model = quantized(layer)
    x = paddle.to_tensor([0.3, 2.54]).reshape([1, 2, 1, 1])
    for _ in range(300):  # until the moving average of the largest inputs is 2.54; a step is 0.02
        y = model(x)
    # the inputs are exactly 15 and 127 steps
    assert y.item() == pytest.approx(0.3 * 0.5 - 2.54 * 1.27, rel=1e-5)
    y.backward()
    assert model(paddle.to_tensor([0.309, 2.54]).reshape([1, 2, 1, 1])).item() == pytest.approx(y.item(), rel=1e-5)
    assert layer.weight.grad.numpy().ravel() == pytest.approx([0.3, 2.54], rel=1e-5)  # as without rounding


def test_evaluation_does_not_change_ranges():
    model = quantized(nn.Conv2D(1, 1, 1))
    fresh = [value.numpy().copy() for value in ranges(model)]
    model(paddle.full([1, 1, 1, 1], 2.0))
    known = [value.numpy().copy() for value in ranges(model)]
    assert all(not np.array_equal(now, before) for now, before in zip(known, fresh))
    model.eval()
    model(paddle.full([1, 1, 1, 1], 50.0))
    assert all(np.array_equal(value.numpy(), before) for value, before in zip(ranges(model), known))


def test_pact_learns_where_to_clip():
    pact = clipping(quantized(nn.Conv2D(1, 1, 1), activation_preprocess_type="PACT"))[0]
    pact.alpha.set_value(paddle.to_tensor([2.0]))
    y = pact(paddle.to_tensor([-3.0, -1.0, 0.5, 5.0, 7.0]))
    assert y.numpy().tolist() == [-2.0, -1.0, 0.5, 2.0, 2.0]
    y.sum().backward()
    assert pact.alpha.grad.item() == 1.0  # +1 for each of the two above, -1 for the one below


def test_an_export_has_clipped_weights_and_no_clipping():
    layer = nn.Conv2D(2, 1, 1, bias_attr=False)
    layer.weight.set_value(paddle.to_tensor([0.5, -1.27]).reshape([1, 2, 1, 1]))
    model = quantized(layer, weight_preprocess_type="PACT", activation_preprocess_type="PACT")
    for pact in clipping(model):
        pact.alpha.set_value(paddle.to_tensor([0.6]))
    copy = without_clipping(model)
    assert len(clipping(model)) == 2 and not clipping(copy)
    weights = [one[0]._layer.weight.numpy().ravel() for one in (model, copy)]
    assert weights[0] == pytest.approx([0.5, -1.27]) and weights[1] == pytest.approx([0.5, -0.6])


def test_names_of_weights_are_those_of_existing_checkpoints():
    model = nn.Sequential(nn.Conv2D(1, 1, 1), nn.Linear(1, 1))
    QAT({"weight_preprocess_type": "PACT", "activation_preprocess_type": "PACT"}).quantize(model)
    quantizers = [
        "_fake_quant_weight._scale",
        *(f"_fake_quant_input.{name}" for name in ("_scale", "_state", "_accum")),
    ]
    inside = ["weight", "bias", "_act_preprocess.alpha", "_weight_preprocess.alpha", *quantizers]
    layers = [f"{i}._layer.{name}" for i in (0, 1) for name in inside]
    outputs = [f"{i}._ma_output_scale.{name}" for i in (0, 1) for name in ("_scale", "_state", "_accum")]
    assert sorted(model.state_dict()) == sorted(layers + outputs)


def test_ranges_are_among_the_statistics_that_distributed_training_averages():
    model = quantized(nn.Conv2D(1, 1, 1))
    found = {id(value) for value in running_statistics(model)}
    assert found and found == {id(value) for value in ranges(model)}


# Training -----------------------------------------------------------------------------------------------------


def test_weights_of_the_unquantized_model_are_found(folder):
    model = build_untrained(config(folder))
    report = load_pretrained(model, folder / "float.pdparams")
    state = read_state(folder / "float.pdparams")
    assert not report.unused and not report.reshaped and len(report.loaded) == len(state)
    assert all("_fake_quant" in name or "preprocess" in name or "_ma_output" in name for name in report.new), report.new
    own = model.state_dict()
    name = next(name for name in own if name.endswith("._layer.weight"))
    assert np.array_equal(own[name].numpy(), state[plain_name(name)])


def test_a_resumed_run_ends_with_the_same_weights(folder, trained):
    first = list_checkpoints(trained)[0]
    cfg = config(folder, f"save_dir={folder / 'again'}")
    train(cfg, resume=str(first), evaluate=False)
    whole, resumed = (read_state(path / "model_final.pdparams") for path in (trained, folder / "again" / "quant"))
    assert sorted(whole) == sorted(resumed)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    before = read_state(folder / "float.pdparams")
    assert not np.array_equal(whole["head.cls_score._layer.weight"], before["head.cls_score.weight"])


def test_the_int8_export_gives_the_same_boxes_as_the_quantized_model(folder, trained, tmp_path):
    low = "YOLOFHead.nms.score_threshold=0.01"  # so that no box that is compared is at the threshold
    cfg = config(folder, f"weights={trained / 'model_final.pdparams'}", low)
    model = load_trained(cfg)
    path = export_model(model, cfg, tmp_path)
    assert path == tmp_path / "quant"
    kinds = operators(read_program(path / "model.pdmodel"))
    assert "quantize_linear" in kinds and not any(kind.startswith("fake_") for kind in kinds)
    assert int8_convolutions(path / "model.pdmodel", tmp_path / "int8") > 20
    pairs = set(zip(kinds, kinds[1:]))  # engines fold batch norms: their inputs have no range of their own
    assert ("conv2d", "batch_norm") in pairs and ("dequantize_linear", "batch_norm") not in pairs
    assert clipping(model)  # the model itself is unchanged
    batch = next(
        iter(build(cfg, "EvalReader").batches(build(cfg, "EvalDataset"), epoch=0, epochs_total=1, seed=0, workers=0))
    )
    with paddle.no_grad():
        expected = without_clipping(model)(batch)["bbox"].numpy()
    inputs = {name: batch[name].numpy() for name in ("image", "im_shape", "scale_factor")}
    found = PaddleNetwork(path / "model.pdmodel").run(inputs)[0]
    best = expected[np.argsort(-expected[:, 1])[:3]]
    assert len(best) == 3
    for row in best:
        same = found[found[:, 0] == row[0]]
        nearest = np.abs(same[:, 2:] - row[2:]).max(axis=1).argmin()
        assert np.abs(same[nearest, 2:] - row[2:]).max() < 3 and abs(same[nearest, 1] - row[1]) < 0.05


def test_weights_of_a_quantized_model_need_their_slim_config(folder, trained):
    cfg = load_config(folder / "tiny.yml", [f"weights={trained / 'model_final.pdparams'}"])
    with pytest.raises(UserError, match="they are of quantization-aware training: give its --slim_config"):
        load_trained(cfg)  # what eval, infer and export do


@pytest.mark.parametrize("slim, lines", [("QAT", 1), (None, 0)])
def test_a_line_says_that_the_trained_form_simulates_int8(slim, lines, monkeypatch):
    said = []
    monkeypatch.setattr(module, "get_logger", lambda: SimpleNamespace(info=said.append))
    module.note_simulation(slim)
    assert len(said) == lines and all("simulated in float32" in line for line in said)


# Wrong settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ("{weight_bits: 4}", r"weight_bits 4 is not one of \[8\]"),
        ("{activation_preprocess_type: LSQ}", "'LSQ' is not one of"),
        ("{quantizable_layer_type: [Conv3D]}", "is not a list of Conv2D, Linear"),
        ("{fuse_conv_bn: true}", "PaddleSlim folds batch norms in a copy of the model and throws it away"),
        ("{window_size: wide}", "window_size 'wide' is not a whole number"),
        ("{moving_rate: 1.0}", r"moving_rate 1.0 is not in \(0, 1\)"),
        ("{bits: 8}", "has no key 'bins'|has no key 'bits'; it has weight_preprocess_type"),
    ],
)
def test_the_error_names_the_wrong_setting(folder, settings, message):
    cfg = load_config(folder / "tiny.yml", ["slim=QAT", f"QAT.quant_config={settings}"])
    with pytest.raises(UserError, match=message):
        build(cfg, "QAT")


def test_verification_needs_a_float32_model(folder, tmp_path):
    cfg = config(folder)
    with pytest.raises(UserError, match="compare their AP"):
        export_model(build_untrained(cfg), cfg, tmp_path, verify_on=["a.jpg"])
