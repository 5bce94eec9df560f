"""A quantized model is computed in int8, or one line says why not: with every flag, and however it is opened."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from optimized import int8_convolutions
from paddle import nn

from ppdet_repro.paddle_private import onednn_check
from ppdet_repro.paddle_private.onednn import convolve_in_int8
from ppdet_repro.paddle_private.program import operator_types, read_program
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.runtime import networks, paddle_network
from ppdet_repro.runtime.engines import open_network
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import OnnxNetwork, OpenVinoNetwork
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.paddle_network import PaddleNetwork, without_failing_onednn
from ppdet_repro.runtime.paddle_options import PaddleOptions, check_precision
from ppdet_repro.runtime.paddle_program import is_quantized
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.slim.ptq import PTQ, Calibration
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError

QUANTIZED = ["quantize_linear", "conv2d", "dequantize_linear"]
IMAGE = np.random.default_rng(0).uniform(-1, 1, [1, 3, 8, 8]).astype(np.float32)


def network():
    paddle.seed(0)
    layer = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2D(8, 4, 1))
    layer.eval()
    return layer


SPEC = [paddle.static.InputSpec([None, 3, 8, 8], "float32", "image")]


@pytest.fixture
def folder(tmp_path):
    """A float32 model of two convolutions."""
    with protobuf_tracing():
        paddle.jit.save(network(), str(tmp_path / "model"), SPEC)
    return tmp_path


@pytest.fixture
def quantized(folder):
    PTQ().quantize(folder, ["a"], lambda file: {"image": IMAGE})
    return folder


# Flags ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"enable_mkldnn": False}, "--enable_mkldnn=False: m is quantized, and only oneDNN computes int8 on the CPU"),
        ({"device": "gpu"}, "--run_mode=paddle: m is quantized, and only TensorRT computes int8 on a GPU"),
        ({"device": "gpu", "run_mode": "trt_fp32"}, "--run_mode=trt_fp32: m is quantized"),
        ({"device": "gpu", "run_mode": "trt_fp16"}, "--run_mode=trt_fp16: m is quantized"),
        ({"device": "xpu"}, "--device=xpu: m is quantized; compute it with --device=cpu"),
        ({"device": "npu"}, "--device=npu: m is quantized"),
        ({"enable_mkldnn_bfloat16": True}, "m is quantized and computes in int8; leave the flag out"),
    ],
)
def test_a_flag_that_prevents_int8_is_refused(options, message, logged):
    with pytest.raises(UserError, match=message):
        check_precision(PaddleOptions(**options), QUANTIZED, Path("m"))
    check_precision(PaddleOptions(**{**options, "enable_mkldnn_bfloat16": False}), ["conv2d"], Path("m"))
    assert not logged.messages


def test_simulation_that_is_asked_for_is_one_line(logged):
    for options in ({}, {"enable_mkldnn": False}, {"device": "gpu"}):
        check_precision(PaddleOptions(**options, enable_mkldnn_int8=False), QUANTIZED, Path("m"))
    assert logged.messages == ["m is quantized; its int8 is simulated in float32, slowly"] * 3
    check_precision(PaddleOptions(), QUANTIZED, Path("m"))
    check_precision(PaddleOptions(device="gpu", run_mode="trt_int8"), QUANTIZED, Path("m"))
    assert len(logged.messages) == 3


@pytest.mark.parametrize("flags, simulated", [([], False), (["--enable_mkldnn_int8=False"], True)])
def test_what_infer_and_serve_open(quantized, flags, simulated, logged, monkeypatch):
    monkeypatch.setattr(paddle_network, "has_vnni", lambda: True)  # otherwise there would be another line
    flags = build_parser().parse_args([f"--model_dir={quantized}", *flags])
    model = ModelFolder(
        quantized / "model.pdmodel", quantized / "infer_cfg.yml", "YOLOF", [], [], False, 3, 0.5, checked=True
    )
    assert open_network(model, flags).run({"image": IMAGE})[0].shape == (1, 4, 8, 8)
    assert len(logged.messages) == simulated
    with pytest.raises(UserError, match="--enable_mkldnn=False: .* is quantized"):
        open_network(model, Namespace(**{**vars(flags), "enable_mkldnn": False, "enable_mkldnn_int8": None}))


# Paddle -----------------------------------------------------------------------------------------------------


def test_a_json_file_is_refused_also_where_onednn_fails_on_it(monkeypatch):
    monkeypatch.setattr(onednn_check, "works", lambda name: False)
    operators = [*QUANTIZED, "nearest_interp"]
    options = PaddleOptions()
    assert without_failing_onednn(Path("model.json"), options, operators) == options  # which `configure` refuses
    asked = options._replace(enable_mkldnn_int8=False)
    assert not without_failing_onednn(Path("model.json"), asked, operators).enable_mkldnn


def test_a_paddle_without_onednn_cannot_compute_int8():
    config = SimpleNamespace(mkldnn_enabled=lambda: False)
    with pytest.raises(UserError, match="the installed Paddle has no oneDNN, which computes int8"):
        convolve_in_int8(config, pir=False)


# Models of PaddleSlim ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("onnx_format", [True, False])
def test_what_paddleslim_quantizes_after_training_is_computed_in_int8(folder, tmp_path, onnx_format):
    with static_mode() as executor:
        images = Calibration(["a"], lambda file: {"image": IMAGE}, ["image"])
        import_paddleslim().quant.quant_post_static(
            executor, str(folder), str(folder / "int8"), data_loader=images, batch_nums=1, algo="avg",
            model_filename="model.pdmodel", params_filename="model.pdiparams", onnx_format=onnx_format,
        )  # fmt: skip
    assert_int8(folder / "int8" / "model.pdmodel", tmp_path)


@pytest.mark.parametrize("onnx_format", [True, False])
def test_what_paddleslim_trains_is_computed_in_int8(tmp_path, onnx_format):
    model = network()
    qat = import_paddleslim().dygraph.quant.QAT({"onnx_format": onnx_format})
    qat.quantize(model)
    model.train()
    model(paddle.to_tensor(IMAGE))
    model.eval()
    with protobuf_tracing():
        qat.save_quantized_model(model, str(tmp_path / "model"), SPEC)
    assert_int8(tmp_path / "model.pdmodel", tmp_path)


def assert_int8(program, folder):
    operators = operator_types(read_program(program))
    assert is_quantized(operators)
    assert int8_convolutions(program, folder / "optimized") == operators.count("conv2d") == 2
    with pytest.raises(UserError, match="is quantized"):
        PaddleNetwork(program, PaddleOptions(enable_mkldnn=False))


# Other engines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator, lines", [("QuantizeLinear", 1), ("Conv", 0)])
def test_onnx_runtime_says_that_it_simulates(operator, lines, tmp_path, monkeypatch, logged):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07" + operator.encode())
    session = SimpleNamespace(get_inputs=list)
    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=lambda *files, **options: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    OnnxNetwork(tmp_path / "model.onnx")
    assert len(logged.messages) == lines and all(
        "ONNX Runtime simulates the int8 of" in line for line in logged.messages
    )


@pytest.mark.parametrize(
    "operator, vnni, lines", [("QuantizeLinear", False, 1), ("QuantizeLinear", True, 0), ("Conv", False, 0)]
)
def test_openvino_says_that_its_sums_saturate(operator, vnni, lines, tmp_path, monkeypatch, logged):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07" + operator.encode())
    core = SimpleNamespace(compile_model=lambda *arguments: SimpleNamespace(inputs=[]))
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setattr(networks, "has_vnni", lambda: vnni)
    OpenVinoNetwork(tmp_path / "model.onnx")
    assert [line[:41] for line in logged.messages] == ["this processor has no VNNI: OpenVINO's in"] * lines
