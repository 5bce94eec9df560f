"""PaddleSlim's losses between named layers: values, one pass, weights of `align_params`, and wrong settings."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from small_detectors import small_config
from tiny_yolof import write_images

from ppdet_repro.core.config import build, build_model
from ppdet_repro.slim.distill import Distilled
from ppdet_repro.slim.distill_paddleslim import PaddleSlimLoss
from ppdet_repro.slim.distill_pass import run
from ppdet_repro.utils.errors import UserError

CONV, NORM = "neck.lateral_conv", "neck.lateral_norm"
ALIGN = {"align_type": "1x1conv", "in_channel": 64, "out_channel": 48}
WIDE = "DilatedEncoder.out_channels=[48]", "YOLOFHead.conv_feat.feat_in=48", "YOLOFHead.conv_feat.feat_out=48"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def batch(data):
    cfg = small_config("yolof", data)
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    return next(iter(build(cfg, "TrainReader").batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)))


def entry(*names, function="L1Loss", **others):
    return {"loss_function": function, "layers": [{"layers_name": list(names or (CONV, CONV))}], **others}


def model_of(data, *configs, teacher=("yolof",), seed=0):
    """A distilled small YOLOF in training mode."""
    paddle.seed(seed)
    student, taught = (
        build_model(small_config("yolof", data)),
        build_model(small_config(teacher[0], data, *teacher[1:])),
    )
    loss = PaddleSlimLoss(list(configs))
    loss.connect(student, taught)
    model = Distilled(student, taught, {}, {}, {"PaddleSlimLoss": loss})
    model.train()
    return model


def test_the_values_of_several_losses(data, batch):
    first = entry(weight=0.5, temperature=2.0)
    second = {"loss_function": "MSELoss", "layers": [{"layers_name": [CONV, CONV]}, {"layers_name": [NORM, CONV]}]}
    third = entry(NORM, CONV, io=["input", "output"], idx=[0, 0])
    model = model_of(data, first, second, third)
    losses = model(batch)
    watched = [[CONV, NORM], [CONV]]
    model.student.train()
    own, theirs = (run(one, batch["image"], names) for one, names in zip((model.student, model.teacher), watched))
    (_, a), (inputs, b), (_, c) = own.calls[CONV][0], own.calls[NORM][0], theirs.calls[CONV][0]
    assert losses["distill_L1Loss_0"].item() == pytest.approx(0.5 * (a / 2 - c / 2).abs().mean().item(), rel=1e-5)
    squares = ((a - c) ** 2).mean().item() + ((b - c) ** 2).mean().item()
    assert losses["distill_MSELoss"].item() == pytest.approx(squares, rel=1e-5)
    assert losses["distill_L1Loss_2"].item() == pytest.approx((inputs[0] - c).abs().mean().item(), rel=1e-5)
    total = sum(value.item() for name, value in losses.items() if name != "loss")
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)


def test_both_networks_run_once_without_a_trace(data, batch):
    """PaddleSlim itself would run the first batch twice, which updates batch norms and draws random numbers twice."""
    model = model_of(data, entry())
    plain = build_model(small_config("yolof", data))
    plain.set_state_dict(model.student.state_dict())
    plain.train()
    calls = []
    for detector in (model.student, model.teacher):
        detector.backbone.register_forward_post_hook(lambda layer, inputs, output: calls.append(layer))
    functions = dict(vars(paddle.nn.functional))
    paddle.seed(3)
    expected_draw = paddle.rand([1]).item()
    paddle.seed(3)
    for _ in range(2):
        model(batch), plain(batch)
    assert len(calls) == 4 and paddle.rand([1]).item() == expected_draw
    expected, state = plain.state_dict(), model.student.state_dict()
    assert all(np.array_equal(state[name].numpy(), expected[name].numpy()) for name in expected)
    assert vars(paddle.nn.functional) == functions  # nothing is patched


def test_other_widths_and_strides_are_aligned_by_trained_layers(data, batch):
    model = model_of(data, entry(align_params=ALIGN), teacher=("yolof", *WIDE))
    (weight,) = [name for name in model.state_dict() if name.endswith("align_func.align_op.weight")]
    assert weight.startswith("distillation.PaddleSlimLoss.")
    model(batch)["distill_L1Loss"].backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert trained[weight].abs().sum().item() > 0
    assert trained["student.neck.lateral_conv.weight"].abs().sum().item() > 0
    assert not any("teacher" in name for name in model.state_dict())
    fine = model_of(data, entry(CONV, "backbone.res2", function="RKDLoss"))  # stride 8 and 4, other numbers of channels
    assert np.isfinite(fine(batch)["loss"].item())


@pytest.mark.parametrize(
    "config, message",
    [
        ({"loss_function": "L1Loss"}, r"needs layers: \[{layers_name"),
        (entry("neck.lateral_con", CONV), "the student has no layer neck.lateral_con; similar: neck.lateral_conv"),
        (entry(CONV, "neck.x"), "the teacher has no layer neck.x"),
        (entry(CONV), "layers_name must be a list of two"),
        (entry(io=["in", "output"]), "io must be input or output, got in and output"),
        (entry(function="L9Loss"), "L9Loss: loss function L9Loss is not support"),
        (entry(axiss=1), "L1Loss: .*axiss"),
        (entry(model_name_pairs=[["student_0", "student_1"]]), "leave model_name_pairs out"),
    ],
)
def test_wrong_settings(config, message, data):
    with pytest.raises(UserError, match=message):
        model_of(data, config)


@pytest.mark.parametrize(
    "config, teacher, message",
    [
        (entry(NORM, "neck"), ("bifpn",), "the layer neck has 5 outputs; give their idx"),
        (entry(CONV, "neck", idx=[None, 7]), ("bifpn",), "output 7 of the layer neck is not a tensor"),
        (
            entry(CONV, "head.cls_score"),
            ("sapd",),
            "head.cls_score runs 5 times in a forward pass; name layers that run",
        ),
        (
            entry(CONV, CONV),
            ("yolof", *WIDE),
            r"shapes \[4, 64, .* of neck.lateral_conv and \[4, 48,.* give align_params",
        ),
    ],
)
def test_layers_that_do_not_fit(config, teacher, message, data, batch):
    with pytest.raises(UserError, match=message):
        model_of(data, config, teacher=teacher)(batch)
