"""Paddle Inference: precisions, oneDNN's operators, TensorRT's shape ranges and cache.

TensorRT and CUDA need a GPU. Only the calls of Paddle's settings for them are tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paddle import inference
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.paddle_private.saved_program import inference_config, read_operators
from ppdet_repro.runtime import paddle_tensorrt as tensorrt
from ppdet_repro.runtime.model_folder import ModelFolder, open_model_folder
from ppdet_repro.runtime.paddle_network import PaddleNetwork, configure, run_predictor
from ppdet_repro.runtime.paddle_options import Build, PaddleOptions, check_options, check_precision, installed_build
from ppdet_repro.runtime.paddle_program import is_quantized, multiplies_only_before_convolutions
from ppdet_repro.utils.errors import UserError

INPUTS = {
    "image": np.random.default_rng(0).uniform(0, 255, [1, 3, 96, 128]).astype(np.float32),
    "im_shape": np.array([[96, 128]], np.float32),
    "scale_factor": np.ones([1, 2], np.float32),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small YOLOF that normalizes its input itself."""
    folder = tmp_path_factory.mktemp("engine")
    write_config(folder, write_images(folder / "data", count=1))
    config = folder / "tiny.yml"
    cfg = load_config(config, ["TestReader.fuse_normalize=true"])
    return export_model(tiny_model(config), cfg, folder / "export")


@pytest.fixture
def model(exported):
    return open_model_folder(exported)


class Recorder:
    """Replaces paddle.inference.Config and records the calls of its methods."""

    def __init__(self, *files):
        self.calls = {}

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.__setitem__(name, options or args)


def calls_for(operators=(), **options):
    recorder = Recorder()
    configure(recorder, PaddleOptions(**options), operators)
    return recorder.calls


# CPU ------------------------------------------------------------------------------------------------------


def test_products_before_and_between_convolutions_are_distinguished():
    normalizes = ["feed", "elementwise_mul", "conv2d", "relu", "conv2d", "elementwise_mul"]
    excites = ["elementwise_mul", "conv2d", "elementwise_mul", "conv2d"]  # squeeze and excitation
    assert multiplies_only_before_convolutions(normalizes)
    assert not multiplies_only_before_convolutions(excites)
    assert not multiplies_only_before_convolutions(["conv2d", "conv2d", "elementwise_mul"])  # nothing to gain
    assert not multiplies_only_before_convolutions(["elementwise_mul"])


def test_paddle_normalizes_instead_of_onednn_and_finds_the_same(model):
    operators = read_operators(model.network_file)
    assert multiplies_only_before_convolutions(operators)  # by the names of Paddle 2, also in a program of Paddle 3
    calls = calls_for(operators)
    (ours,) = calls["set_mkldnn_op"]
    assert {"conv2d", "fused_conv2d"} <= ours and "elementwise_mul" not in ours
    assert "set_mkldnn_op" not in calls_for([o for o in operators if o != "elementwise_mul"])
    config = inference_config(model.network_file)
    configure(config, PaddleOptions())  # without the operators: oneDNN multiplies
    plain = run_predictor(inference.create_predictor(config), INPUTS)
    bbox, bbox_num = PaddleNetwork(model.network_file).run(INPUTS)
    assert bbox_num.tolist() == plain[1].tolist() and bbox_num[0] > 0
    np.testing.assert_allclose(bbox, plain[0], atol=1e-4)


def test_bfloat16_is_for_convolutions_so_that_boxes_stay_exact():
    calls = calls_for(enable_mkldnn_bfloat16=True)
    assert "enable_mkldnn_bfloat16" in calls
    (operators,) = calls["set_bfloat16_op"]
    assert "conv2d" in operators and not {"elementwise_add", "exp", "concat"} & operators
    recorder = Recorder()
    configure(recorder, PaddleOptions(enable_mkldnn_bfloat16=True), pir=True)
    assert recorder.calls["delete_pass"] == ("onednn_placement_pass",) and "set_bfloat16_op" not in recorder.calls


@pytest.mark.skipif(not installed_build().bfloat16, reason="the CPU has no AVX-512")
def test_bfloat16_finds_about_the_same(model):
    exact, _ = PaddleNetwork(model.network_file).run(INPUTS)
    short, _ = PaddleNetwork(model.network_file, PaddleOptions(enable_mkldnn_bfloat16=True)).run(INPUTS)
    assert (exact[0] != short[0]).any()  # it does compute in another precision
    np.testing.assert_allclose(short[0, 1:], exact[0, 1:], rtol=0.05, atol=1.0)
    corners = short[:, 2:]
    rounded = (corners.view(np.uint32) & 0xFFFF) == 0  # could be numbers in bfloat16
    assert rounded[corners != np.round(corners)].mean() < 0.1  # boxes are decoded in float32


def test_a_quantized_model_computes_in_int8_unless_a_flag_prevents_it():
    quantized = ["quantize_linear", "conv2d", "dequantize_linear"]
    assert is_quantized(quantized) and is_quantized(["fake_quantize_moving_average_abs_max"])
    assert not is_quantized(["conv2d", "dequantize_linear"])
    (operators,) = calls_for(quantized)["enable_mkldnn_int8"]
    assert operators == {"conv2d", "depthwise_conv2d", "fused_conv2d"}  # and nothing of decoding
    assert "enable_mkldnn_int8" not in calls_for(quantized, enable_mkldnn_int8=False)
    assert "enable_mkldnn_int8" not in calls_for(["conv2d"])


@pytest.mark.parametrize(
    "options, operators, message",
    [
        ({"enable_mkldnn_int8": True}, ["conv2d"], "--enable_mkldnn_int8: m is not a quantized model"),
        ({"enable_mkldnn_bfloat16": True}, ["quantize_linear"], "m is quantized and computes in int8"),
    ],
)
def test_a_precision_that_the_model_lacks_is_an_error(options, operators, message):
    with pytest.raises(UserError, match=message):
        check_precision(PaddleOptions(**options), operators, Path("m"))


# Options ------------------------------------------------------------------------------------------------


def test_cpu_runs_with_onednn_unless_told_otherwise():
    calls = calls_for(cpu_threads=4)
    assert calls["set_cpu_math_library_num_threads"] == (4,)
    assert "enable_mkldnn" in calls and "enable_mkldnn_bfloat16" not in calls
    assert calls["switch_ir_optim"] == (True,) and "enable_memory_optim" in calls
    assert "enable_mkldnn_bfloat16" in calls_for(enable_mkldnn_bfloat16=True)
    off = calls_for(enable_mkldnn=False)
    assert "disable_mkldnn" in off and "enable_mkldnn" not in off


def test_gpu_alone_has_no_tensorrt():
    calls = calls_for(device="gpu")
    assert calls["enable_use_gpu"] == (200, 0)
    assert not any("trt" in name or "tensorrt" in name or "mkldnn" in name for name in calls)


CPU_BUILD = Build(("cpu",), False)


@pytest.mark.parametrize(
    "options, build, message",
    [
        ({"device": "gpu"}, CPU_BUILD, "--device=gpu: .* not present in this machine; possible here: --device=cpu"),
        ({"run_mode": "trt_fp16"}, CPU_BUILD, "--run_mode=trt_fp16 needs --device=gpu, not cpu"),
        (
            {"device": "gpu", "run_mode": "trt_fp16"},
            Build(("cpu", "gpu"), False),
            r"the installed Paddle has no TensorRT; possible here: --device=cpu\|gpu --run_mode=paddle$",
        ),
        ({"enable_mkldnn_bfloat16": True, "enable_mkldnn": False}, CPU_BUILD, "needs --enable_mkldnn and"),
        (
            {"enable_mkldnn_bfloat16": True},
            Build(("cpu",), False, bfloat16=False),
            "--enable_mkldnn_bfloat16: this CPU has no AVX-512",
        ),
        ({"enable_mkldnn_int8": True, "enable_mkldnn": False}, CPU_BUILD, "--enable_mkldnn_int8 needs"),
        ({"trt_min_shape": 800}, CPU_BUILD, "--trt_min_shape, --trt_opt_shape and --trt_max_shape"),
    ],
)
def test_what_the_machine_does_not_support_is_an_error_of_one_line(options, build, message):
    with pytest.raises(UserError, match=message):
        check_options(PaddleOptions(**options), build)


# TensorRT -------------------------------------------------------------------------------------------------


def plain_model(folder, dynamic_shape=True):
    files = [folder / name for name in ("model.pdmodel", "model.pdiparams")]
    for file in files:
        file.write_bytes(file.name.encode())
    return ModelFolder(files[0], folder / "infer_cfg.yml", "YOLOF", [], [], dynamic_shape, 40, 0.5)


def tensorrt_calls(folder, dynamic_shape=True, shapes=None, **options):
    recorder = Recorder()
    model = plain_model(folder, dynamic_shape)
    tensorrt.configure_tensorrt(recorder, PaddleOptions(**options), model, folder / "cache", shapes)
    return recorder.calls


@pytest.mark.parametrize("mode, precision", [("trt_fp32", "Float32"), ("trt_fp16", "Half"), ("trt_int8", "Int8")])
def test_tensorrt_takes_precision_batch_and_shape_range(mode, precision, tmp_path):
    options = {"device": "gpu", "run_mode": mode, "batch_size": 2, "trt_calib_mode": True}
    calls = tensorrt_calls(tmp_path, **options)
    engine = calls["enable_tensorrt_engine"]
    assert engine["precision_mode"] == getattr(inference.PrecisionType, precision)
    assert (engine["max_batch_size"], engine["min_subgraph_size"], engine["use_calib_mode"]) == (2, 40, True)
    assert engine["use_static"] is True and calls["set_optim_cache_dir"] == (str(tmp_path / "cache"),)
    shapes = [shape["image"] for shape in calls["set_trt_dynamic_shape_info"]]
    assert shapes == [[2, 3, 1, 1], [2, 3, 1280, 1280], [2, 3, 640, 640]]  # shortest, longest, usual
    assert "set_trt_dynamic_shape_info" not in tensorrt_calls(tmp_path, dynamic_shape=False, **options)


def test_collected_shape_ranges_come_before_those_of_the_flags(tmp_path):
    file = tmp_path / "shapes.pbtxt"
    file.write_text("")
    calls = tensorrt_calls(tmp_path, shapes=file, device="gpu", run_mode="trt_fp16")
    assert calls["enable_tuned_tensorrt_dynamic_shape"] == (str(file), True)
    assert "set_trt_dynamic_shape_info" not in calls


def test_the_users_file_of_shape_ranges_comes_before_the_caches(tmp_path):
    model, cache, own = plain_model(tmp_path), tmp_path / "cache", tmp_path / "own.pbtxt"
    assert tensorrt.shape_file(str(own), cache, model) == cache / "shape_ranges.pbtxt"
    own.write_text("")
    assert tensorrt.shape_file(str(own), cache, model) == own
    assert tensorrt.shape_file("absent", cache, plain_model(tmp_path, dynamic_shape=False)) is None


def test_an_engine_is_kept_for_one_content_version_precision_and_batch(tmp_path, monkeypatch):
    model = plain_model(tmp_path)
    first = tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1)
    assert first == tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1)
    others = [
        tensorrt.cache_folder(str(tmp_path), model, mode, batch) for mode, batch in [("trt_fp32", 1), ("trt_fp16", 2)]
    ]
    monkeypatch.setattr(inference, "get_trt_compile_version", lambda: (8, 6, 1))
    others.append(tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1))
    assert "tensorrt8.6.1-fp16-batch1" in others[-1].name
    (model.folder / "model.pdiparams").write_bytes(b"other weights")
    others.append(tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1))
    assert len({first, *others}) == 5


def test_operators_that_tensorrt_leaves_out_are_named():
    operators = ["conv2d", "deformable_conv", "deformable_conv", "matrix_nms"]
    sentence = tensorrt.describe_left_out(operators)
    assert "2 deformable_conv (DCN" in sentence and "1 matrix_nms" in sentence and "\n" not in sentence
    assert tensorrt.describe_left_out(["conv2d"]) is None


def test_missing_shape_ranges_are_collected_by_a_real_run_without_tensorrt(model, tmp_path, monkeypatch):
    """On the CPU: the run that collects is real, TensorRT itself is recorded."""
    monkeypatch.setattr(tensorrt, "check_options", lambda options, build: None)
    network = tensorrt.TensorRtNetwork(model, PaddleOptions(run_mode="trt_fp16", trt_cache_dir=str(tmp_path)))
    created = []
    real = tensorrt.create_predictor

    def create(config, folder):
        created.append(config)
        return real(config, folder)

    recorded = {}
    monkeypatch.setattr(tensorrt, "create_predictor", create)
    monkeypatch.setattr(
        tensorrt, "configure_tensorrt", lambda config, options, model, cache, shapes: recorded.update(shapes=shapes)
    )
    bbox, _ = network.run(INPUTS)
    assert len(bbox) and len(created) == 2  # one that collects, one that would have TensorRT
    text = recorded["shapes"].read_text()
    assert 'name: "image"' in text and "max_shape: 128" in text
    assert recorded["shapes"].parent.name.endswith("fp16-batch1")
    network.run(INPUTS)
    assert len(created) == 2  # each is created once
