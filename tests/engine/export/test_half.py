"""ONNX in FP16, and ONNX with a fixed batch: which nodes compute in what, the boxes, and errors."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn
from small_detectors import SMALL, small_config, taught_model
from tiny_yolof import write_images

from ppdet_repro.cli.export import check_flags
from ppdet_repro.engine.export import half as module
from ppdet_repro.engine.export.converters import to_onnx
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.half import exact_nodes, simplify, to_half
from ppdet_repro.engine.export.verify import choose_files
from ppdet_repro.modeling.heads.ttf_head import TTFOutputs
from ppdet_repro.modeling.ttf_box import TTFBox
from ppdet_repro.paddle_private.saved_program import saved_program
from ppdet_repro.runtime.networks import OnnxNetwork
from ppdet_repro.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("half")


def need_half():
    for package in ("paddle2onnx", "onnxruntime", "onnx"):
        pytest.importorskip(package)


# Which nodes stay in float32 -----------------------------------------------------------------------------------


def test_only_what_lies_between_convolutions_is_in_fp16():
    nodes = [
        ("normalize", "Mul", ["image", "std"], ["a"]),
        ("first", "Conv", ["a", "w1"], ["b"]),
        ("relu", "Relu", ["b"], ["c"]),
        ("weight", "Relu", ["learned"], ["d"]),  # is computed from weights
        ("fuse", "Mul", ["c", "d"], ["e"]),
        ("last", "Conv", ["e", "w2"], ["f"]),
        ("decode", "Exp", ["f"], ["boxes"]),
    ]
    assert exact_nodes(nodes) == {"normalize", "weight", "decode"}


def test_the_sampling_of_a_deformable_convolution_and_its_coordinates_are_in_float32():
    nodes = [
        ("first", "Conv", ["image"], ["x"]),
        ("relu", "Relu", ["x"], ["y"]),
        ("offsets", "Conv", ["y"], ["o"]),
        ("positions", "Add", ["o", "grid"], ["p"]),
        ("stack", "Concat", ["p"], ["g"]),
        ("sample", "GridSample", ["y", "g"], ["s"]),
        ("mask", "Mul", ["s", "m"], ["t"]),
        ("last", "Conv", ["t"], ["u"]),
    ]
    assert exact_nodes(nodes) == {"positions", "stack", "sample"}


# TTFNet's decoding at 512 pixels -------------------------------------------------------------------------------


class Decoding(nn.Layer):
    """Two 1x1 convolutions and TTFNet's decoding, for 80 classes at 512 pixels: indices up to 1,310,719."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.LayerList([nn.Conv2D(84, 80, 1), nn.Conv2D(84, 4, 1)])
        for layer, first in zip(self.convolutions, (0, 80)):
            layer.weight.set_value(paddle.eye(84)[first : first + layer.weight.shape[0]].reshape(layer.weight.shape))
            layer.bias.set_value(paddle.zeros(layer.bias.shape))
        self.decode = TTFBox()

    def forward(self, image, scale_factor):
        raw = TTFOutputs(*(layer(image) for layer in self.convolutions))
        return self.decode(raw, scale_factor, scale_factor)


@pytest.fixture(scope="module")
def decoding(folder):
    """The ONNX file of `Decoding`."""
    pytest.importorskip("paddle2onnx")
    spec = [paddle.static.InputSpec([1, 84, 128, 128], name="image")]
    spec += [paddle.static.InputSpec([1, 2], name="scale_factor")]
    layer = Decoding()
    layer.eval()
    paddle.jit.save(layer, str(folder / "model"), spec)
    to_onnx(saved_program(folder / "model"), folder / "model.pdiparams", folder / "decoding.onnx")
    simplify(folder / "decoding.onnx")
    return folder / "decoding.onnx"


def test_no_index_is_divided_in_floating_point(decoding):
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(str(decoding)).graph.node
    assert "TopK" in [node.op_type for node in nodes] and "Floor" not in [node.op_type for node in nodes]
    (top_k,) = [node for node in nodes if node.op_type == "TopK"]
    indices, kinds = {top_k.output[1]}, {}
    for node in nodes:  # all that is computed from the indices, up to comparisons and look-ups
        if indices & set(node.input) and node.op_type not in ("Gather", "Less", "GreaterOrEqual", "Not"):
            indices.update(node.output)
            kinds[node.op_type] = node
    assert "Mod" in kinds and "Div" not in kinds
    types = {a.i for node in nodes if node.op_type == "Cast" and indices & set(node.output) for a in node.attribute}
    assert types <= {onnx.TensorProto.INT32, onnx.TensorProto.INT64}


def test_every_box_survives_fp16_at_512_pixels(decoding, tmp_path):
    need_half()
    rng = np.random.default_rng(0)
    maps = np.full([84, 128, 128], -8.0, np.float32)
    peaks = rng.choice(32 * 32, 100, replace=False)  # on every fourth cell: none is another's neighbor
    for i, peak in enumerate(peaks):
        maps[i % 80, peak // 32 * 4, peak % 32 * 4] = 4 - 0.05 * i
    maps[80:] = rng.integers(0, 256, [4, 128, 128])
    inputs = {"image": maps[None], "scale_factor": np.ones([1, 2], np.float32)}
    path = tmp_path / "half.onnx"
    path.write_bytes(decoding.read_bytes())
    to_half(path)
    (boxes, scores), (half_boxes, half_scores) = (OnnxNetwork(file).run(inputs) for file in (decoding, path))
    assert sorted(np.argwhere(scores[0] > 0.1)[:, 0]) == sorted(i % 80 for i in range(100) if 4 - 0.05 * i > -2.19)
    np.testing.assert_array_equal(half_boxes, boxes)  # whole numbers up to 255 are exact in FP16
    np.testing.assert_allclose(half_scores, scores, atol=1e-3)


# Exports -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def yolof(folder):
    cfg = small_config("yolof", write_images(folder / "yolof_data"))
    return cfg, taught_model(cfg, SMALL["yolof"].steps)


def test_a_weight_that_is_an_output_stays_one_in_float32(tmp_path):
    """Such as the anchors of images of a fixed size; 65537 is beyond FP16."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, numbers = onnx.helper, onnx.numpy_helper.from_array
    kernel, anchors = np.full((3, 3, 1, 1), 0.5, np.float32), np.array([1, 65537], np.float32)
    nodes = [helper.make_node("Conv", ["x", "kernel"], ["y"]), helper.make_node("Conv", ["y", "kernel"], ["z"])]
    outputs = [helper.make_tensor_value_info("z", 1, [1, 3, 2, 2]), helper.make_tensor_value_info("anchors", 1, [2])]
    image = helper.make_tensor_value_info("x", 1, [1, 3, 2, 2])
    graph = helper.make_graph(nodes, "g", [image], outputs, [numbers(kernel, "kernel"), numbers(anchors, "anchors")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    to_half(path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    z, found = session.run(["z", "anchors"], {"x": np.ones((1, 3, 2, 2), np.float32)})
    np.testing.assert_array_equal(found, anchors)
    np.testing.assert_allclose(z, 2.25)  # (3 * 0.5)^2


def test_float32_passes_unrounded_between_nodes_that_stay_in_it(tmp_path):
    """A chain before the first convolution, one behind the last one, and one that is output on the way."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.numpy_helper.from_array
    rows = [("Sub", "x", "mean", "a"), ("Mul", "a", "scale", "b"), ("Conv", "b", "kernel", "c")]
    rows += [("Relu", "c", None, "d"), ("Conv", "d", "kernel", "e"), ("Mul", "e", "scale", "f")]
    rows += [("Add", "f", "mean", "g"), ("Mul", "g", "scale", "boxes")]
    nodes = [helper.make_node(kind, [one] + ([other] if other else []), [out]) for kind, one, other, out in rows]
    weights = [numbers(np.full((3, 3, 1, 1), 0.5, np.float32), "kernel")]
    weights += [numbers(np.array(value, np.float32), name) for name, value in (("mean", 0.25), ("scale", 3.0))]
    shaped = [helper.make_tensor_value_info(name, 1, [1, 3, 2, 2]) for name in ("x", "g", "boxes")]
    graph = helper.make_graph(nodes, "g", shaped[:1], shaped[1:], weights)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    to_half(path)
    found = onnx.load(str(path)).graph.node
    writers = {node.output[0]: node for node in found}
    casts = [node for node in found if node.op_type == "Cast"]
    assert len(casts) == 2  # to FP16 before the first convolution, and back behind the last one
    assert not any(node.input[0] in writers and writers[node.input[0]].op_type == "Cast" for node in casts)


def test_a_cast_of_the_network_stays():
    """It reads what a node in float32 wrote, and makes integers of it between two convolutions."""
    helper = pytest.importorskip("onnx").helper
    cast = partial(helper.make_node, "Cast")
    nodes = [
        helper.make_node("Floor", ["x"], ["Floor_0_output_cast_0"], name="Floor_0"),
        cast(["Floor_0_output_cast_0"], ["y"], name="Floor_0_output_cast0", to=10),
        cast(["y"], ["integers"], name="Cast_1", to=7),
        cast(["y"], ["Sqrt_2_input_cast_0"], name="Sqrt_2_input_cast0", to=1),
        helper.make_node("Sqrt", ["Sqrt_2_input_cast_0"], ["z"], name="Sqrt_2"),
    ]
    outputs = [helper.make_tensor_value_info(name, kind, [1]) for name, kind in (("z", 1), ("integers", 7))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [1])], outputs)
    module.pass_on_exact_values(graph)
    assert [node.name for node in graph.node] == ["Floor_0", "Floor_0_output_cast0", "Cast_1", "Sqrt_2"]
    assert graph.node[2].op_type == "Cast" and list(graph.node[2].input) == ["y"]
    assert list(graph.node[3].input) == ["Floor_0_output_cast_0"]


def test_fp16_is_half_the_size_takes_and_gives_float32_and_is_verified(yolof, tmp_path):
    need_half()
    cfg, model = yolof
    plain = export_model(model, cfg, tmp_path / "fp32", "onnx")
    folder = export_model(model, cfg, tmp_path, "onnx", "fp16", verify_on=choose_files(cfg, 2, None))
    assert (folder / "model.onnx").stat().st_size < 0.6 * (plain / "model.onnx").stat().st_size
    session = OnnxNetwork(folder / "model.onnx").session
    assert {entry.type for entry in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}


def test_a_fixed_batch_leaves_no_shape_arithmetic(yolof, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("paddle2onnx")
    cfg, model = yolof
    folder = export_model(model, cfg, tmp_path, "onnx", batch=2)
    graph = onnx.load(str(folder / "model.onnx")).graph
    assert {entry.name: [d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.input} == {
        "image": [2, 3, 64, 64], "im_shape": [2, 2], "scale_factor": [2, 2],
    }  # fmt: skip
    assert not {"Shape", "Range", "ConstantOfShape"} & {node.op_type for node in graph.node}


def test_without_a_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx is not installed; install it with: pip install 'ppdet-repro.onnx.'"):
        to_half(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"precision": "fp16", "target": "paddle"}, "--precision fp16 is for --target onnx or lite"),
        ({"precision": "int8", "target": "onnx"}, "--precision int8 is for --target lite"),
        ({"target": "lite", "batch": 2}, "--batch: Paddle-Lite's models take one image"),
        ({"batch": 8, "verify": 3}, "--verify runs one image at a time; verify with --batch 1"),
    ],
)
def test_flags_that_contradict_are_one_line(flags, message):
    plain = {"precision": "fp32", "target": "onnx", "batch": None, "verify": None, "verify_images": None}
    check_flags(Namespace(**plain, for_fd=False))
    with pytest.raises(UserError, match=message):
        check_flags(Namespace(**{**plain, "for_fd": False, **flags}))
