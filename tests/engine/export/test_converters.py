"""Conversion to ONNX and Paddle-Lite: what crashes the converters is changed before, or is an error of one line.

Each change is tested with a network of one operator, which Paddle-Lite runs.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from paddle import nn
from paddle.static import InputSpec
from paddle.vision.ops import DeformConv2D, matrix_nms

from ppdet_repro.engine.export import converters
from ppdet_repro.engine.export.converters import check_lite, run_converter, to_lite, to_onnx
from ppdet_repro.engine.export.fold import FixedFusion, with_replaced
from ppdet_repro.engine.export.grid_sample_dcn import GridSampleConv
from ppdet_repro.modeling.necks.bifpn import Fusion
from ppdet_repro.paddle_private import targets
from ppdet_repro.paddle_private.targets import check_target
from ppdet_repro.runtime.lite_network import IsolatedLiteNetwork, LiteNetwork
from ppdet_repro.runtime.networks import OnnxNetwork, OpenVinoNetwork, network_file
from ppdet_repro.utils.errors import UserError

SHAPE = [1, 4, 6, 6]


class Net(nn.Layer):
    """A convolution, so that there are parameters, and the operator to test."""

    def __init__(self, operator, layer=None):
        super().__init__()
        self.first = nn.Conv2D(4, 4, 1)
        self.layer = layer
        self.operator = operator

    def forward(self, image):
        x = self.first(image)
        return self.operator(x) if self.layer is None else self.operator(x, self.layer)


class Deformed(nn.Layer):
    """A deformable convolution with the offsets and the mask that it predicts."""

    def __init__(self):
        super().__init__()
        self.predict = nn.Conv2D(4, 27, 3, padding=1)
        self.conv = DeformConv2D(4, 6, 3, padding=1)

    def forward(self, image):
        offset, mask = paddle.split(self.predict(image), [18, 9], axis=1)
        return self.conv(image, offset, F.sigmoid(mask))


class Fused(nn.Layer):
    """BiFPN's fusion of two feature maps."""

    def __init__(self):
        super().__init__()
        self.node = Fusion(2, 4, "bn")
        self.node.weights.set_value(paddle.to_tensor([3.0, 0.5]))

    def forward(self, image):
        return self.node([image, F.relu(image)])


def suppressed(x):
    """The feature map [1, 4, 6, 6] as 36 boxes, with its first channel as their scores."""
    boxes, scores = x.reshape([1, 4, 36]).transpose([0, 2, 1]), F.sigmoid(x[:, :1].reshape([1, 1, 36]))
    return matrix_nms(boxes, scores, 0.1, 0.1, 20, 10, background_label=-1)[0]


def saved(net, folder):
    """The network as a Paddle inference model."""
    net.eval()
    paddle.jit.save(net, str(folder / "model"), input_spec=[InputSpec(SHAPE, "float32", "image")])
    return network_file(folder, "paddle"), folder / "model.pdiparams"


def needs_lite():
    """Skip a test where Paddle-Lite is missing, or the installed Paddle writes programs that it cannot read."""
    pytest.importorskip("paddlelite")
    try:
        check_target("lite")
    except UserError as error:
        pytest.skip(str(error))


def image():
    return np.random.default_rng(0).normal(0, 4, SHAPE).astype(np.float32)


def depthwise_transposed():
    return nn.Conv2DTranspose(4, 4, 4, stride=2, padding=1, groups=4)


CHANGED = {
    "relu6": (F.relu6, None),
    "swish": (F.swish, None),
    "flatten": (lambda x: paddle.flatten(x, 1), None),
    "constant without dimensions": (lambda x: paddle.where(x > 0.5, x, x * 2.0), None),
    "transposed depthwise convolution": (lambda x, layer: layer(x), depthwise_transposed),
    "deformable convolution": (None, None),
}


@pytest.mark.parametrize("name", CHANGED)
def test_paddle_lite_computes_what_paddle_computes(name, tmp_path):
    needs_lite()
    paddle.seed(0)
    operator, layer = CHANGED[name]
    net = Deformed() if operator is None else Net(operator, None if layer is None else layer())
    files = saved(net, tmp_path)
    for device in ("arm", "x86"):
        to_lite(*files, tmp_path / f"{device}.nb", device)
        assert (tmp_path / f"{device}.nb").stat().st_size > 100
    (found,) = IsolatedLiteNetwork(tmp_path / "x86.nb").run({"image": image()})
    with paddle.no_grad():
        expected = net(paddle.to_tensor(image())).numpy()
    np.testing.assert_allclose(found.ravel(), expected.ravel(), rtol=1e-4, atol=1e-5)
    assert sorted(path.suffix for path in tmp_path.glob("*86*")) == [".nb"]  # the changed program is gone


def test_without_the_change_the_crash_of_opt_is_an_error_of_one_line(tmp_path, monkeypatch):
    needs_lite()
    files = saved(Net(F.relu6), tmp_path)
    monkeypatch.setattr(converters, "compatible_program", lambda program, device: program)
    with pytest.raises(UserError, match="opt was killed by signal 6 .* No attributes called threshold") as caught:
        to_lite(*files, tmp_path / "arm.nb", "arm")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("arm*"))


def test_int_weights_make_smaller_files(tmp_path):
    needs_lite()
    files = saved(Net(lambda x, layer: layer(x), nn.Conv2D(4, 512, 3)), tmp_path)
    sizes = {}
    for precision in ("fp32", "int16", "int8", "fp16"):
        to_lite(*files, tmp_path / f"{precision}.nb", "arm", precision)
        sizes[precision] = (tmp_path / f"{precision}.nb").stat().st_size
    assert sizes["fp32"] > 1.5 * sizes["int16"] > 2 * sizes["int8"]


def test_a_model_that_aborts_paddle_lite_is_an_error_of_one_line(tmp_path):
    needs_lite()
    (tmp_path / "broken.nb").write_bytes(b"not a model")
    with pytest.raises(UserError, match="Paddle-Lite ended with (signal|code) .* when it ran .*broken.nb"):
        IsolatedLiteNetwork(tmp_path / "broken.nb").run({"image": image()})
    (tmp_path / "empty.nb").write_bytes(b"")
    with pytest.raises(UserError, match="empty.nb is missing or empty"):
        IsolatedLiteNetwork(tmp_path / "empty.nb").run({"image": image()})


@pytest.mark.parametrize(
    "device, precision, message",
    [
        ("opencl", "fp32", "Paddle-Lite for opencl in fp32: devices are arm, x86"),
        ("arm", "bf16", "precisions fp32, fp16, int8, int16"),
        ("x86", "fp16", "fp16 only on arm"),
    ],
)
def test_what_paddle_lite_does_not_support_is_an_error(tmp_path, device, precision, message):
    with pytest.raises(UserError, match=message):
        check_lite(tmp_path / "model.pdmodel", device, precision)


def test_paddle_lite_needs_programs_of_paddle_2(tmp_path, monkeypatch):
    """It is an error of one line, with the command that makes one, whether Paddle-Lite is installed or not."""
    remedy = r"Paddle-Lite 2.13 reads programs of Paddle 2 only; .* `make venv PADDLE=2.6`, then .* --target lite`$"
    for files in (converters.to_lite_files, lambda *paths: to_lite(*paths[:2], paths[2] / "arm.nb", "arm")):
        with pytest.raises(UserError, match=f"model.json is a program of Paddle 3, but {remedy}") as caught:
            files(tmp_path / "model.json", tmp_path / "model.pdiparams", tmp_path)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(targets, "SAVES_PIR", True)
    with pytest.raises(UserError, match=f"--target lite: the installed Paddle writes .* Paddle 3, but {remedy}"):
        check_target("lite")
    check_target("onnx")
    monkeypatch.setattr(targets, "SAVES_PIR", False)
    check_target("lite")


@pytest.mark.parametrize(
    "net, message",
    [
        (Fused, "slices tensors that are computed from weights .* --target lite writes BiFPN's weights as constants"),
        (lambda: with_replaced(Deformed(), DeformConv2D, GridSampleConv), "contains grid_sampler"),
        (lambda: Net(suppressed), "contains matrix_nms, after which Paddle-Lite aborts if nothing is detected"),
    ],
)
def test_what_crashes_paddle_lite_in_any_case_is_refused(tmp_path, net, message):
    needs_lite()
    program, _ = saved(net(), tmp_path)
    with pytest.raises(UserError, match=message):
        check_lite(program, "arm", "fp32")


def test_bifpns_weights_become_constants(tmp_path):
    net = Fused()
    net.eval()
    folded = with_replaced(net, Fusion, FixedFusion)
    assert folded.node.shares == pytest.approx([3 / 3.5001, 0.5 / 3.5001])
    with paddle.no_grad():
        expected = net(paddle.to_tensor(image())).numpy()
        np.testing.assert_allclose(folded(paddle.to_tensor(image())).numpy(), expected, atol=1e-5)
    needs_lite()
    to_lite(*saved(folded, tmp_path), tmp_path / "x86.nb", "x86")
    (found,) = IsolatedLiteNetwork(tmp_path / "x86.nb").run({"image": image()})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "kernel, stride, padding, dilation, groups, size, masked",
    [
        (3, 1, 1, 1, 1, (7, 9), True),
        (3, 2, 1, 1, 1, (8, 5), True),
        (3, 1, 2, 2, 2, (6, 6), False),
        (1, 1, 0, 1, 1, (4, 4), True),
        (3, 1, 1, 1, 1, (1, 3), True),  # a feature map of one row
    ],
)
def test_grid_sample_computes_the_deformable_convolution(kernel, stride, padding, dilation, groups, size, masked):
    paddle.seed(0)
    layer = DeformConv2D(4, 6, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    taps = kernel**2
    out = [(side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in size]
    x, offset = paddle.randn([2, 4, *size]), 2 * paddle.randn([2, 2 * taps, *out])
    mask = paddle.rand([2, taps, *out]) if masked else None
    expected, found = layer(x, offset, mask), GridSampleConv(layer)(x, offset, mask)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=5e-6)


def test_onnx_computes_the_deformable_convolution(tmp_path):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnxruntime")
    paddle.seed(0)
    net = Deformed()
    with pytest.raises(UserError, match="contains deformable_conv, which paddle2onnx cannot convert; .* grid_sample"):
        to_onnx(*saved(net, tmp_path), tmp_path / "model.onnx")
    sampled = with_replaced(net, DeformConv2D, GridSampleConv)
    to_onnx(*saved(sampled, tmp_path), tmp_path / "model.onnx")
    (found,) = OnnxNetwork(tmp_path / "model.onnx").run({"image": image()})
    net.eval()
    with paddle.no_grad():
        np.testing.assert_allclose(found, net(paddle.to_tensor(image())).numpy(), atol=1e-4)


def test_matrix_nms_is_refused_before_paddle2onnx_aborts(tmp_path):
    pytest.importorskip("paddle2onnx")
    with pytest.raises(UserError, match="contains matrix_nms, which paddle2onnx cannot convert; .* leaves it out"):
        to_onnx(*saved(Net(suppressed), tmp_path), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_onnx_is_written_in_opset_16(tmp_path):
    """paddle2onnx may choose version 19 by itself, for which its graphs are invalid."""
    pytest.importorskip("paddle2onnx")
    to_onnx(*saved(Net(F.relu), tmp_path), tmp_path / "model.onnx")
    opset_import, version = 8, 2  # the numbers of these fields in ONNX's protobuf
    (opset,) = fields((tmp_path / "model.onnx").read_bytes(), opset_import)
    assert fields(opset, version) == [16]


def fields(content, number):
    """The values of a field in a protobuf message of unknown type."""
    return [field.data for field in UnknownFieldSet(Empty.FromString(content)) if field.field_number == number]


def test_an_export_to_onnx_installs_nothing(tmp_path, monkeypatch):
    """By default, paddle2onnx 2.1 lets polygraphy run `python -m pip install`. Here a `pip` that only reports calls
    hides the real one."""
    pytest.importorskip("paddle2onnx")
    calls = tmp_path / "calls"
    (tmp_path / "path" / "pip").mkdir(parents=True)
    fake = f"import sys; open({str(calls)!r}, 'a').write(repr(sys.argv)); sys.exit(1)"
    (tmp_path / "path" / "pip" / "__main__.py").write_text(fake)
    (tmp_path / "path" / "pip" / "__init__.py").touch()
    (tmp_path / "path" / "onnx_graphsurgeon.py").write_text("raise ImportError('a package that polygraphy lacks')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    assert subprocess.run([sys.executable, "-m", "pip", "--version"]).returncode == 1 and calls.exists()
    calls.unlink()
    before = installed()
    to_onnx(*saved(Net(F.relu), tmp_path), tmp_path / "model.onnx")
    assert not calls.exists() and installed() == before


def installed():
    """The packages of this Python with their versions."""
    return sorted((package.metadata["Name"], package.version) for package in importlib.metadata.distributions())


def test_a_missing_or_damaged_program_is_an_error(tmp_path):
    pytest.importorskip("paddle2onnx")
    program, parameters = saved(Net(F.relu), tmp_path)
    with pytest.raises(UserError, match="absent does not exist"):
        to_onnx(program, tmp_path / "absent", tmp_path / "model.onnx")
    program.write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match="is not a Paddle model, or is damaged"):
        to_onnx(program, parameters, tmp_path / "model.onnx")
    program.unlink()
    with pytest.raises(UserError, match=f"{program.name} does not exist"):
        to_onnx(program, parameters, tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"no")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="ONNX Runtime cannot load .*model.onnx: .*; export it again"):
        OnnxNetwork(tmp_path / "model.onnx")


def test_the_error_for_a_missing_converter_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(converters.importlib.util, "find_spec", lambda name: None)
    for convert, extra in ((to_onnx, "onnx"), (lambda *files: to_lite(*files, "arm"), "lite")):
        with pytest.raises(UserError, match=rf"is not installed; .* pip install 'ppdet-repro\[{extra}\]'"):
            convert(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams", tmp_path / "out.nb")


@pytest.mark.parametrize(
    "network, module, extra",
    [
        (OnnxNetwork, "onnxruntime", "onnx"),
        (OpenVinoNetwork, "openvino", "openvino"),
        (LiteNetwork, "paddlelite.lite", "lite"),
    ],
)
def test_the_error_for_a_missing_engine_says_what_to_install(tmp_path, monkeypatch, network, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"is not installed; .* pip install 'ppdet-repro\[{extra}\]'"):
        network(tmp_path / "model.onnx")


def test_an_openvino_that_clashes_with_paddle_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text("raise ImportError('undefined symbol: x')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(UserError, match="OpenVINO cannot be imported .undefined symbol: x.; with Paddle 3 .*infer"):
        OpenVinoNetwork(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "code, message",
    [
        ("open('OUT', 'w').close()", "X ended with code 0 and wrote no model; its last message: it printed nothing"),
        ("print('usage: ...')", "X ended with code 0 and wrote no model; its last message: usage"),
        ("open('OUT', 'w').write('half'); print('Error: bad'); raise SystemExit(3)", "code 3 .* Error: bad"),
        ("open('OUT', 'w').write('complete, but not printed')", "code 0 and wrote no model"),
    ],
)
def test_success_needs_a_file_an_exit_code_and_a_text(tmp_path, code, message):
    target = tmp_path / "model.nb"
    with pytest.raises(UserError, match=message):
        run_converter("X", code.replace("OUT", str(target)), [], target, "saved into")
    assert not target.exists()
    run_converter("X", f"open({str(target)!r}, 'w').write('m'); print('saved into')", [], target, "saved into")
    assert target.read_text() == "m"
