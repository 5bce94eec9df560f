"""Each family's boxes in each engine and precision: a few cells are computed here, the recorded table has all."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from half_rounding import round_like_half
from precision_cells import (
    EMULATED,
    FP32,
    GROWTH,
    KINDS,
    PAGE,
    REFERENCES,
    RESULTS,
    Cell,
    Family,
    distances,
    rendered,
    rounded_convolutions,
    to_bfloat16,
    unfit,
)

KINDS_BY_NAME = {kind.name: kind for kind in KINDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("yolof", ["Paddle bf16", EMULATED]),  # anchors, exponentials
        ("sapd", ["Paddle bf16", EMULATED]),  # distances times strides, sums over levels
        ("pafnet", ["Paddle bf16", EMULATED, "Paddle int8", "ONNX Runtime int8, simulated", "OpenVINO int8"]),
    ],
)
def test_boxes_in_low_precisions_are_nearly_the_eager_models(name, kinds, folder):
    family = Family(name, folder)
    assert family.inside > 0.7
    for kind in (KINDS_BY_NAME[name] for name in kinds):
        if unfit(kind) and kind.name != "Paddle int8":  # which keeps its boxes without VNNI, too; infer.py warns
            continue
        cell = family.cell(kind)
        if isinstance(cell, str) and any(r in cell for r in ("not installed", "Paddle 2.6", "process")):
            continue  # the installed packages do not offer it
        assert isinstance(cell, Cell), cell
        assert not cell.failure(kind), (kind.name, cell)


# The recorded table ----------------------------------------------------------------------------------------------


def test_no_recorded_cell_fails():
    for name, result in json.loads(RESULTS.read_text("utf-8")).items():
        for kind, cell in result["cells"].items():
            if not isinstance(cell, str):  # a string is the reason why infer.py refuses
                assert not Cell(*cell).failure(KINDS_BY_NAME[kind]), (name, kind, cell)


def test_no_recorded_cell_is_worse_than_the_roundings_of_its_precision():
    compared = 0
    for name, result in json.loads(RESULTS.read_text("utf-8")).items():
        for kind, reference in REFERENCES.items():
            cells = [result["cells"].get(key) for key in (kind, reference)]
            if all(isinstance(cell, list) for cell in cells):
                cell, expected = (Cell(*cell) for cell in cells)
                assert not cell.excess(expected), (name, kind, cell, expected)
                compared += 1
    assert compared > 10


def test_the_page_shows_the_recorded_cells():
    page = PAGE.read_text("utf-8")
    assert rendered(page, json.loads(RESULTS.read_text("utf-8"))) == page


def test_a_cell_may_have_twice_the_distance_of_its_roundings():
    expected = Cell(90, 100, 0.01)
    slack = GROWTH * FP32
    assert not Cell(80, 100, 0.02 + 0.9 * slack).excess(expected)
    assert Cell(80, 100, 0.02 + 1.1 * slack).excess(expected) == "0.02 is more than 0.02"
    assert Cell(79, 100, 0.0).excess(expected) == "79 of 100 boxes, not 90"


# What is measured ------------------------------------------------------------------------------------------------


def test_distances_are_relative_to_the_larger_side():
    expected = np.array([[0, 0.8, 0, 0, 10, 20], [1, 0.5, 5, 5, 6, 6], [1, 0.39, 0, 0, 1, 1]])
    found = np.array([[0, 0.8, 1, 0, 10, 18], [1, 0.5, 5, 5, 6, 8], [0, 0.1, 30, 30, 40, 40]])
    assert distances(expected, found) == [2 / 20, 2 / 4]  # the third box is not one of the best
    assert distances(expected, found[:1]) == [2 / 20, 1.0]  # no box of its class


def test_convolutions_are_rounded_to_eight_bits():
    ulp = 2.0**-7  # of the numbers from 1 to 2
    values = np.float32([1 + 0.5 * ulp, 1 + 1.5 * ulp, 1 + 0.6 * ulp, -1 - 0.4 * ulp, 3.0, 0.0])
    np.testing.assert_array_equal(to_bfloat16(values), np.float32([1, 1 + 2 * ulp, 1 + ulp, -1, 3, 0]))
    convolution = paddle.nn.Conv2D(1, 1, 1, bias_attr=False)
    model, x = paddle.nn.Sequential(convolution), paddle.full([1, 1, 1, 1], 1 + 0.6 * ulp)
    convolution.weight.set_value(paddle.full([1, 1, 1, 1], 1 - 0.1 * ulp))
    exact = float(model(x))
    with rounded_convolutions(model):
        assert float(model(x)) == 1 + ulp
    assert float(model(x)) == exact != 1 + ulp


def test_values_are_rounded_to_eleven_bits(tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    half = onnx.numpy_helper.from_array(np.array(0.1, np.float16), "tenth")
    nodes = [
        node("Cast", ["x"], ["h"], to=10),
        node("Mul", ["h", "tenth"], ["m"]),
        node("Cast", ["h"], ["y"], to=1),
        node("Cast", ["m"], ["z"], to=1),
    ]
    outputs = [value("y", 1, [6]), value("z", 1, [6])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [6])], outputs, [half])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    onnx.save(model, str(tmp_path / "half.onnx"))
    round_like_half(tmp_path / "half.onnx", tmp_path / "float.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "float.onnx"), providers=["CPUExecutionProvider"])
    x = np.array([1 + 2**-12, 1 + 3 * 2**-12, 2049, -2051, 65504, -70000], np.float32)
    y, z = session.run(None, {"x": x})
    assert y.tolist() == [1, 1 + 2**-10, 2048, -2052, 65504, np.inf]
    assert z[:5].tolist() == (y[:5].astype(np.float16) * np.float16(0.1)).astype(np.float32).tolist()
