"""Paddle Inference: precisions and oneDNN's operators. CUDA needs a GPU: only the calls of Paddle's settings for it are
tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paddle import inference
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.paddle_private.saved_program import inference_config, read_operators
from ppdet_repro.runtime import paddle_network
from ppdet_repro.runtime.model_folder import open_model_folder
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
        return lambda *args, **options: self.calls.__setitem__(name, options or args) or name == "mkldnn_enabled"


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


@pytest.mark.parametrize("vnni", [True, False])
def test_int8_without_vnni_is_a_warning(vnni, logged, monkeypatch):
    monkeypatch.setattr(paddle_network, "has_vnni", lambda: vnni)
    calls_for(["quantize_linear", "conv2d"])
    calls_for(["quantize_linear", "conv2d"], enable_mkldnn_int8=False)
    calls_for(["conv2d"])
    assert [record.getMessage()[:26] for record in logged.records] == ["this processor has no VNNI"] * (not vnni)


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
