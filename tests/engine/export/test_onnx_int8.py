"""Quantized ONNX files: what is rounded, and what a bias may add."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet_repro.engine.export.onnx_int8 import leave_outputs_exact

onnx = pytest.importorskip("onnx")


@pytest.fixture
def written(tmp_path):
    """Writes y = rounded(w x + b) with one channel, as paddle2onnx writes it: x is rounded to tenths, w x + b to the
    range of w x, [-1.27, 1.27]."""

    def write(bias):
        constant = onnx.numpy_helper.from_array
        weights = [constant(np.array(v, np.float32), n) for n, v in (("tenth", 0.1), ("hundredth", 0.01))]
        weights += [constant(np.array(0, np.int8), "zero"), constant(np.array([[[[5]]]], np.int8), "w8")]
        weights += [
            constant(np.array([round(bias / 0.01)], np.int32), "b32"),
            constant(np.array(0, np.int32), "zero32"),
        ]
        node = onnx.helper.make_node
        nodes = [
            node("QuantizeLinear", ["x", "tenth", "zero"], ["x8"]),
            node("DequantizeLinear", ["x8", "tenth", "zero"], ["rx"]),
            node("DequantizeLinear", ["w8", "tenth", "zero"], ["w"]),  # 0.5
            node("DequantizeLinear", ["b32", "hundredth", "zero32"], ["b"]),
            node("Conv", ["rx", "w", "b"], ["c"]),
            node("QuantizeLinear", ["c", "hundredth", "zero"], ["c8"]),
            node("DequantizeLinear", ["c8", "hundredth", "zero"], ["rc"]),
            node("Relu", ["rc"], ["y"]),
            node("Neg", ["c"], ["z"]),
        ]
        value = onnx.helper.make_tensor_value_info
        inputs, outputs = [value("x", 1, [1, 1, 1, 2])], [value("y", 1, [1, 1, 1, 2]), value("z", 1, [1, 1, 1, 2])]
        graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, weights)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
        path = tmp_path / "model.onnx"
        onnx.save(model, str(path))
        return path

    return write


def outputs_of(path, values):
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [v.ravel().tolist() for v in session.run(None, {"x": np.array(values, np.float32).reshape(1, 1, 1, 2)})]


def test_a_bias_outside_the_range_of_the_products_is_kept(written):
    path = written(bias=4.0)
    assert outputs_of(path, [1.02, -2.0])[0] == pytest.approx([1.27, 1.27])  # what paddle2onnx's file computes
    leave_outputs_exact(path)
    y, z = outputs_of(path, [1.02, -2.0])
    assert y == pytest.approx([0.5 * 1.0 + 4, 0.5 * -2.0 + 4]) and z == pytest.approx([-4.5, -3.0])


def test_inputs_and_weights_stay_rounded(written):
    path = written(bias=0.0)
    leave_outputs_exact(path)
    nodes = onnx.load(str(path)).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Conv",
        "Relu",
        "Neg",
    ]
    assert list(nodes[5].input) == ["c"]


def test_a_file_that_lost_most_of_its_int8_is_a_warning(written, logged):
    path = written(bias=0.0)
    leave_outputs_exact(path)
    assert not logged.records
    model = onnx.load(str(path))
    for i in range(2):
        model.graph.node.insert(6, onnx.helper.make_node("Conv", ["x", "w", "b"], [f"exact{i}"]))
    onnx.save(model, str(path))
    leave_outputs_exact(path)
    (record,) = logged.records
    assert record.getMessage().startswith("only 1 of 3 convolutions of the ONNX file compute in int8, ")


def test_a_file_in_float32_is_not_touched(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"Conv, Relu")  # is not even read as ONNX
    leave_outputs_exact(path)
    assert path.read_bytes() == b"Conv, Relu"


def test_a_quantized_network_with_a_large_bias_agrees_with_paddle(tmp_path):
    """The scores of a heat map: sigmoid(-4.6 + something small)."""
    pytest.importorskip("paddle2onnx")
    import paddle

    from ppdet_repro.engine.export.converters import to_onnx
    from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
    from ppdet_repro.paddle_private.saved_program import fuse_biases
    from ppdet_repro.runtime.networks import OnnxNetwork
    from ppdet_repro.runtime.paddle_network import PaddleNetwork
    from ppdet_repro.runtime.paddle_options import PaddleOptions
    from ppdet_repro.slim.ptq import PTQ
    from ppdet_repro.utils.cpu_env import has_vnni

    if not paddle.__version__.startswith("2."):
        pytest.skip("with Paddle 3, quantized models are not converted to ONNX")
    paddle.seed(0)
    net = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 8, 3), paddle.nn.ReLU(), paddle.nn.Conv2D(8, 2, 1), paddle.nn.Sigmoid()
    )
    net[2].bias.set_value(paddle.full([2], -4.6))
    net.eval()
    with protobuf_tracing():
        spec = paddle.static.InputSpec([None, 3, 8, 8], "float32", "image")
        paddle.jit.save(net, str(tmp_path / "model"), [spec])
    fuse_biases(tmp_path / "model.pdmodel")
    image = np.random.default_rng(0).uniform(-1, 1, [1, 3, 8, 8]).astype(np.float32)
    expected = net(paddle.to_tensor(image)).numpy()
    PTQ().quantize(tmp_path, ["a"], lambda file: {"image": image})
    to_onnx(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams", tmp_path / "model.onnx")
    simulated, program = PaddleOptions(enable_mkldnn_int8=False), tmp_path / "model.pdmodel"
    int8 = 0.02 if has_vnni() else 0.05  # without VNNI, sums of two products saturate
    for network, limit in (
        (PaddleNetwork(program, simulated), 0.02),
        (PaddleNetwork(program), int8),
        (OnnxNetwork(tmp_path / "model.onnx"), 0.02),
    ):
        (found,) = network.run({"image": image})
        assert expected.max() < 0.06 and np.abs(found - expected).max() < limit * expected.max()
