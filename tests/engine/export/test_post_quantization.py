"""Post-training quantization: the numbers, the models, PaddleDetection's YAML, and errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from optimized import int8_convolutions
from paddle import inference, nn
from paths import ROOT
from small_detectors import SMALL, small_config, taught_model
from tiny_yolof import tiny_model, write_training_config

from ppdet_repro.core.config import ExportSettings, build, load_config
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.engine.export import post_quantization as module
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.infer_cfg import read_input
from ppdet_repro.engine.export.post_quantization import calibration_files, post_quant
from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.models import load_trained
from ppdet_repro.paddle_private.program import operator_types as operators
from ppdet_repro.paddle_private.program import read_program
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.paddle_private.saved_program import fuse_biases, is_pir, saved_program
from ppdet_repro.paddle_private.versions import PROGRAM_SUFFIX
from ppdet_repro.runtime.networks import OnnxNetwork, OpenVinoNetwork
from ppdet_repro.runtime.paddle_network import PaddleNetwork, configure
from ppdet_repro.runtime.paddle_options import PaddleOptions
from ppdet_repro.slim.ptq import PTQ
from ppdet_repro.utils.cpu_env import has_vnni
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import save_state

OURS = ROOT / "configs" / "slim" / "post_quant" / "ptq.yml"

PADDLEDETECTIONS = """
weights: somewhere/ppyolo_r50vd_dcn_1x_coco.pdparams
slim: PTQ
PTQ:
  ptq_config: {'activation_quantizer': 'HistQuantizer', 'upsample_bins': 127, 'hist_percent': 0.999}
  quant_batch_num: 10
  fuse: True
"""  # as in configs/slim/post_quant


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `data` and tiny.yml, whose TrainDataset are the same images."""
    folder = tmp_path_factory.mktemp("tiny")
    write_training_config(folder)
    (folder / "theirs.yml").write_text(PADDLEDETECTIONS)
    (folder / "ours.yml").write_text(OURS.read_text().replace("64", "6"))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return tiny_model(folder / "tiny.yml")


def config(folder, slim="ours.yml", *overrides):
    return load_config(folder / "tiny.yml", overrides, folder / slim)


class Halve(nn.Layer):
    """A convolution of two channels into one, and what looks like decoding: a number without dimensions, which Paddle's
    own quantizer does not survive."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2D(2, 1, 1, bias_attr=False)
        self.convolution.weight.set_value(paddle.to_tensor([0.5, -1.27]).reshape([1, 2, 1, 1]))

    def forward(self, image):
        out = self.convolution(image)
        return out * (paddle.shape(image)[0].reshape([]).astype("float32") * 1.0)


@pytest.fixture
def halve(tmp_path):
    """`Halve`, exported."""
    return save_protobuf(Halve(), [None, 2, 1, 1], tmp_path)


def save_protobuf(network, shape, folder):
    """Save a network as `export_model` saves what is quantized next."""
    with protobuf_tracing():
        paddle.jit.save(network, str(folder / "model"), [paddle.static.InputSpec(shape, "float32", "image")])
    fuse_biases(folder / "model.pdmodel")
    return folder


def run(folder, image):
    config = inference.Config(str(folder / "model.pdmodel"), str(folder / "model.pdiparams"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle("image").copy_from_cpu(image)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


# The numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, largest", [("AvgQuantizer", 2.0), ("AbsmaxQuantizer", 3.0)])
def test_activations_and_weights_become_multiples_of_a_127th_of_their_range(halve, name, largest):
    images = {"a": [1.0, 0.2], "b": [0.5, -3.0]}  # largest absolute values 1 and 3: 2 on average, 3 in all
    read = lambda file: {"image": np.array(images[file], np.float32).reshape(1, 2, 1, 1)}  # noqa: E731
    PTQ({"activation_quantizer": name}).quantize(halve, ["a", "b"], read)
    # The weights' range is 1.27, a step 0.01: 0.5 and -1.27 are 50 and -127 steps, exactly.
    step = largest / 127
    for x in ([0.3, 0.7], [-1.0, 9.0]):  # 9 is beyond the range and becomes its end
        steps = np.clip(np.round(np.array(x) / step), -128, 127)
        expected = step * (steps * [0.5, -1.27]).sum()
        assert run(halve, np.array(x, np.float32).reshape(1, 2, 1, 1)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["MSEQuantizer", "HistQuantizer", "KLQuantizer"])
def test_an_outlier_is_clipped_or_kept_but_never_ruins_the_rest(tmp_path, name):
    paddle.seed(0)
    save_protobuf(nn.Conv2D(1, 1, 1, bias_attr=False), [1, 1, 64, 64], tmp_path)
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    expected = run(tmp_path, image)
    PTQ({"activation_quantizer": name, "hist_percent": 0.999}).quantize(tmp_path, ["a"], lambda file: {"image": image})
    found, ordinary = run(tmp_path, image), np.abs(image) < 2
    # a step is at most 5 standard deviations / 127, and the rounding of the weight another half of a 127th of it
    assert 0 < np.abs(found - expected)[ordinary].max() < 0.04 * np.abs(expected).max()


def test_weights_have_a_scale_for_every_output_channel(tmp_path):
    layer = nn.Conv2D(1, 2, 1, bias_attr=False)
    layer.weight.set_value(paddle.to_tensor([127.0, 0.01]).reshape([2, 1, 1, 1]))
    save_protobuf(layer, [None, 1, 1, 1], tmp_path)
    one = np.full([1, 1, 1, 1], 127.0, np.float32)
    PTQ().quantize(tmp_path, ["a"], lambda file: {"image": one})
    found = run(tmp_path, one).ravel()
    assert found == pytest.approx([127.0**2, 1.27], rel=1e-5)  # with one scale for both the second would be 0


def test_paddle_is_as_before_afterwards(halve):
    PTQ().quantize(halve, ["a"], lambda file: {"image": np.ones([1, 2, 1, 1], np.float32)})
    assert paddle.in_dynamic_mode() and paddle.ones([1]).item() == 1


def test_a_model_without_convolutions_is_refused(tmp_path):
    save_protobuf(nn.ReLU(), [None, 2], tmp_path)
    with pytest.raises(UserError, match="no convolution"):
        PTQ().quantize(tmp_path, ["a"], lambda file: {"image": np.ones([1, 2], np.float32)})


# Models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slim", ["ours.yml", "theirs.yml"])
def test_a_detector_in_int8_finds_nearly_its_boxes(folder, model, tmp_path, slim):
    cfg = config(folder, slim, "PTQ.quant_batch_num=6")
    path = post_quant(model, cfg, tmp_path)
    assert path == tmp_path / slim.split(".")[0]
    kinds = operators(read_program(path / "model.pdmodel"))
    convolutions = kinds.count("conv2d")
    assert convolutions and "batch_norm" not in kinds
    assert kinds.count("quantize_linear") >= convolutions // 2  # inputs, which convolutions may share
    plain = export_model(model, load_config(folder / "tiny.yml"), tmp_path)
    assert (path / "infer_cfg.yml").read_text() == (plain / "infer_cfg.yml").read_text()
    assert (path / "model.pdiparams").stat().st_size < 0.4 * (plain / "model.pdiparams").stat().st_size
    cfg = load_config(folder / "tiny.yml")
    (batch, *_) = build(cfg, "EvalReader").batches(
        build(cfg, "EvalDataset"), epoch=0, epochs_total=1, seed=0, workers=0
    )
    inputs = {name: batch[name].numpy() for name in ("image", "im_shape", "scale_factor")}
    expected, found = (PaddleNetwork(saved_program(where / "model")).run(inputs)[0] for where in (plain, path))
    assert not np.array_equal(found, expected)
    best = expected[:3]
    for row in best:
        distances = np.abs(found[found[:, 0] == row[0]][:, 2:] - row[2:]).max(axis=1)
        assert distances.min() < 6


@pytest.mark.parametrize("name", ["yolof", "ppyolov2", "pafnet", "pafnet_lite", "sapd", "bifpn", "ttfnet"])
def test_every_networks_outputs_in_int8_are_near(name, folder, tmp_path):
    cfg = small_config(name, folder / "data")
    cfg = replace(cfg, run=replace(cfg.run, slim="PTQ", export=ExportSettings(benchmark=True, fuse_conv_bn=True)))
    model = taught_model(cfg, SMALL[name].steps)
    ptq, files = PTQ(), calibration_files(cfg, 4, str(folder / "data"))
    path = export_model(model, cfg, tmp_path, quantize=lambda folder, read: ptq.quantize(folder, files, read))
    inputs = from_list(read_input(cfg).steps)([files[0]])._asdict()
    with paddle.no_grad():
        expected = [raw.numpy() for raw in paddle.utils.flatten(model.raw(paddle.to_tensor(inputs["image"])))]
    found = PaddleNetwork(path / "model.pdmodel").run(inputs)
    assert any(not np.array_equal(one, other) for one, other in zip(found, expected))
    for one, other in zip(found, expected):
        difference, largest = np.abs(one - other), np.abs(other).max()
        assert difference.mean() < 0.05 * largest and difference.max() < 0.3 * largest


def test_the_installed_paddle_computes_convolutions_in_int8(folder, model, tmp_path):
    path = post_quant(model, config(folder), tmp_path)
    convolutions = operators(read_program(path / "model.pdmodel")).count("conv2d")
    assert convolutions > 20
    # All but the two outputs of the network and what is fused differently: those before and after sums
    assert int8_convolutions(path / "model.pdmodel", tmp_path / "int8") > 0.8 * convolutions
    assert int8_convolutions(path / "model.pdmodel", tmp_path / "not", enable_mkldnn_int8=False) == 0


def test_int8_that_paddle_would_simulate_is_refused():
    quantized = ["quantize_linear", "conv2d", "dequantize_linear"]
    recorder = type("Recorder", (), {"__getattr__": lambda self, name: lambda *arguments: None})()
    with pytest.raises(UserError, match=r"not in a .json file; write one with ppdet-repro quantize"):
        configure(recorder, PaddleOptions(), quantized, pir=True)
    configure(recorder, PaddleOptions(enable_mkldnn_int8=False), quantized, pir=True)
    configure(recorder, PaddleOptions(), ["conv2d"], pir=True)


def test_int8_for_onnx_where_paddle2onnx_has_it(folder, model, tmp_path):
    if is_pir(Path(f"model{PROGRAM_SUFFIX}")):
        with pytest.raises(UserError, match="paddle2onnx for Paddle 3 cannot convert int8; leave --target out"):
            post_quant(model, config(folder), tmp_path, target="onnx")
        return
    pytest.importorskip("paddle2onnx")
    path = post_quant(model, config(folder), tmp_path, target="onnx")
    assert (path / "model.onnx").read_bytes().count(b"DequantizeLinear") > 20
    onnxruntime, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = onnxruntime.InferenceSession(str(path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    steps = read_input(config(folder)).steps
    inputs = from_list(steps)([calibration_files(config(folder), 1, None)[0]])._asdict()
    expected = exact.run(None, {entry.name: inputs[entry.name] for entry in exact.get_inputs()})
    layers = OpenVinoNetwork(path / "model.onnx").model.get_runtime_model().get_ordered_ops()
    kinds = [(layer.get_rt_info()["layerType"], layer.get_rt_info()["runtimePrecision"]) for layer in layers]
    in_int8 = kinds.count(("Convolution", "i8")) + kinds.count(("Convolution", "u8"))  # with and without VNNI
    assert in_int8 > 20  # ONNX Runtime simulates them
    for one, other in zip(OnnxNetwork(path / "model.onnx").run(inputs), expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


class Distances(nn.Layer):
    """Two convolutions and a factor, as TTFNet's distances have."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2D(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2D(8, 4, 1), nn.ReLU())

    def forward(self, image):
        return self.layers(image) * 16.0


def test_a_factor_behind_an_int8_convolution_counts(tmp_path):
    paddle.seed(3)
    network = Distances()
    network.layers[2].bias.set_value(paddle.full([4], 2.0))
    save_protobuf(network, [1, 1, 16, 16], tmp_path)
    image = np.random.default_rng(0).normal(size=(1, 1, 16, 16)).astype(np.float32)
    (expected,) = PaddleNetwork(tmp_path / "model.pdmodel").run({"image": image})
    PTQ().quantize(tmp_path, ["a"], lambda file: {"image": image})
    (found,) = PaddleNetwork(tmp_path / "model.pdmodel").run({"image": image})
    assert not np.array_equal(found, expected)
    limit = 0.02 if has_vnni() else 0.05  # without VNNI, sums of two products saturate; without the factor it were 0.94
    np.testing.assert_allclose(found, expected, atol=limit * expected.max())


def test_evaluation_before_and_after(folder, model, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module, "get_logger", lambda: type("Log", (), {"info": lambda self, text: said.append(text)})())
    post_quant(model, config(folder), tmp_path, compare=True)
    assert said[0] == "calibrating with 6 images"
    words = said[1].split()
    before, after = float(words[1]), float(words[4])
    assert said[1] == f"AP {before:.4f} in float32, {after:.4f} in int8"
    assert before > 0.1 and abs(after - before) < 0.1


def test_the_tool(folder, model, tmp_path):
    save_state(tmp_path / "weights.pdparams", weights_of(model))
    command = [
        sys.executable, str(ROOT / "tools" / "post_quant.py"), "-c", str(folder / "tiny.yml"),
        "--slim_config", str(folder / "theirs.yml"), "--output_dir", str(tmp_path), "--image_dir", str(folder / "data"),
        "-o", f"weights={tmp_path / 'weights.pdparams'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert names == ["infer_cfg.yml", "manifest.json", "model.pdiparams", "model.pdmodel"]


# Which images ---------------------------------------------------------------------------------------------


def test_calibration_images_are_spread_evenly(folder):
    def names(count, where=None):
        return [Path(file).name[2] for file in calibration_files(config(folder), count, where)]

    assert names(3) == ["0", "2", "5"] and names(6) == names(99) == list("012345")  # 2.5 rounds to 2
    assert names(2, str(folder / "data")) == ["0", "5"]


def test_images_that_cannot_be_read_are_left_out(folder, model, tmp_path, logged):
    photos = tmp_path / "photos"
    shutil.copytree(folder / "data" / "images", photos)
    (photos / "000.png").write_bytes(b"GIF89a")
    (photos / "003.png").write_bytes((photos / "003.png").read_bytes()[:-40])
    exported = post_quant(model, config(folder, "theirs.yml"), tmp_path / "a",
                          image_dir=str(photos))  # two passes over the images  # fmt: skip
    assert logged.text.count("skipped image") == 2 and "000.png" in logged.text and "003.png" in logged.text
    for name in ("000.png", "003.png"):
        (photos / name).unlink()
    other = post_quant(model, config(folder, "theirs.yml"), tmp_path / "b",
                       image_dir=str(photos))  # fmt: skip
    assert (exported / "model.pdiparams").read_bytes() == (other / "model.pdiparams").read_bytes()

    for path in photos.iterdir():
        path.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="none of the images to calibrate with can be read; the last: image .*005.png"):
        post_quant(model, config(folder), tmp_path / "c", image_dir=str(photos))


# Settings -------------------------------------------------------------------------------------------------


def test_the_slim_file_beats_the_config_and_the_command_line_beats_both(folder):
    cfg = config(folder, "theirs.yml")
    assert cfg.name == "theirs" and cfg.run.slim == "PTQ" and cfg.run.architecture == "YOLOF"
    assert cfg.run.weights == "somewhere/ppyolo_r50vd_dcn_1x_coco.pdparams"
    assert config(folder, "theirs.yml", "weights=mine").run.weights == "mine"
    ptq = build(cfg, "PTQ")
    assert (ptq.algorithm, ptq.weights, ptq.hist_percent, ptq.quant_batch_num) == (
        "hist", "channel_wise_abs_max", 0.999, 10
    )  # fmt: skip


@pytest.mark.parametrize(
    "override, message",
    [
        ("PTQ.ptq_config={activation_quantizer: LSQuantizer}", "'LSQuantizer' is not one of AvgQuantizer"),
        ("PTQ.ptq_config={weight_quantizer: MSEQuantizer}", "'MSEQuantizer' is not one of PerChannel"),
        ("PTQ.ptq_config={bins: 3}", "has no key 'bins'; it has activation_quantizer"),
        ("PTQ.ptq_config={hist_percent: 99.9}", r"hist_percent 99.9 is not in \(0, 1\]"),
        ("PTQ.quant_batch_num=0", "quant_batch_num 0 is less than 1"),
        ("PTQ.fuse=false", "fuse must be true"),
        ("PTQ.quant_batches=3", "PTQ has no parameter 'quant_batches'"),
        ("slim=OFA", "slim must be"),
    ],
)
def test_a_wrong_setting_is_named(folder, override, message):
    with pytest.raises(UserError, match=message):
        build(config(folder, "ours.yml", override), "PTQ")


def test_a_slim_file_must_say_how_to_slim(folder, model, tmp_path):
    (tmp_path / "empty.yml").write_text("epoch: 3\n")
    with pytest.raises(UserError, match="empty.yml: there is no key 'slim'"):
        load_config(folder / "tiny.yml", (), tmp_path / "empty.yml")
    with pytest.raises(UserError, match="tiny.yml: slim is None; .* needs slim: PTQ"):
        post_quant(model, load_config(folder / "tiny.yml"), tmp_path)


def test_training_export_and_evaluation_refuse_it(folder, model):
    with pytest.raises(UserError, match="ours.yml: slim: PTQ is for ppdet-repro quantize"):
        load_trained(config(folder, "ours.yml", "weights=any"))


def test_no_images_no_model(folder, model, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="photos has no images to calibrate with"):
        post_quant(model, config(folder), tmp_path, image_dir=str(tmp_path / "photos"))
    assert not (tmp_path / "ours").exists()
