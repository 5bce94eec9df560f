"""The suppression inside ONNX files finds what `runtime.suppress` finds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_detectors import SMALL, small_config, taught_model
from tiny_yolof import write_images

from ppdet_repro import build_model, export_model, load_config
from ppdet_repro.engine.export.onnx_suppression import add_suppression, check_suppression
from ppdet_repro.engine.export.verify import choose_files
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.suppress import open_suppress, suppress_batch
from ppdet_repro.utils.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NMS = {
    "type": "MultiClassNMS",
    "background_label": -1,
    "score_threshold": 0.1,
    "nms_top_k": -1,
    "nms_threshold": 0.5,
    "keep_top_k": -1,
    "nms_eta": 1.0,
    "normalized": True,
}
PEAKS = {"type": "TTFBox", "score_thresh": 0.3}


def decoded(folder, classes=None):
    """An ONNX file that ends in the boxes and scores that it is given."""
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    shapes = {"boxes": ["B", "N", 4], "scores": ["B", classes or "C", "N"]}
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in shapes]
    inputs = [helper.make_tensor_value_info(f"{name}_in", kind, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "decoded", inputs, outputs)
    opset = [helper.make_opsetid("", 16)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(folder / "model.onnx"))
    return folder / "model.onnx"


def run(path, boxes, scores):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["bbox", "bbox_num"], {"boxes_in": boxes, "scores_in": scores})


def test_hand_computed_rows(tmp_path):
    path = decoded(tmp_path)
    add_suppression(path, NMS)
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]], np.float32)  # the first two: IoU 0.9
    scores = np.array([[[0.5, 0.8, 0.1], [0.7, 0.05, 0.6]]], np.float32)  # 0.1 is not above the threshold
    rows, counts = run(path, boxes, scores)
    assert counts.tolist() == [3] and counts.dtype == np.int32
    expected = [[0, 0.8, 0, 0, 10, 9], [1, 0.7, 0, 0, 10, 10], [1, 0.6, 20, 20, 30, 30]]
    np.testing.assert_array_equal(rows, np.array(expected, np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"keep_top_k": 7},
        {"keep_top_k": 10_000, "nms_top_k": 10_000},
        {"nms_top_k": 5},
        {"nms_top_k": 5, "keep_top_k": 3},
        {"background_label": 2},
        {"background_label": 9},
        {"score_threshold": 0.0, "nms_threshold": 0.2},
        {"score_threshold": 2.0},
    ],
)
@pytest.mark.parametrize("kind", [NMS, PEAKS])
def test_rows_are_those_of_the_suppression_outside(kind, changes, tmp_path):
    if kind is PEAKS and changes:
        changes = {"score_thresh": changes.get("score_threshold", 0.5)}
    settings = {**kind, **changes}
    rng = np.random.default_rng(len(str(settings)))
    corners = rng.uniform(0, 60, (3, 50, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (3, 50, 2))], axis=2).astype(np.float32)
    scores = rng.permutation(3 * 4 * 50).reshape(3, 4, 50).astype(np.float32) / 600  # all are different
    scores[1] *= 0.1  # few or none are above the threshold
    if kind is PEAKS:
        scores *= scores == scores.max(axis=1, keepdims=True)
    path = decoded(tmp_path)
    add_suppression(path, settings)
    rows, counts = run(path, boxes, scores)
    expected, expected_counts = suppress_batch(open_suppress(settings, "test"), boxes, scores)
    assert counts.tolist() == expected_counts.tolist()
    start = 0
    for count in counts:
        mine, theirs = rows[start : start + count], expected[start : start + count]
        assert (np.diff(mine[:, 1]) <= 0).all()  # ordered by score
        np.testing.assert_array_equal(mine, theirs[np.argsort(-theirs[:, 1], kind="stable")])
        start += count


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"type": "MatrixNMS"}, "ONNX has no Matrix NMS"),
        ({**NMS, "normalized": False}, "normalized: false"),
        ({**NMS, "nms_eta": 0.9}, "nms_eta 0.9"),
    ],
)
def test_what_onnx_cannot_compute_is_refused(settings, reason):
    with pytest.raises(UserError, match=f"^export.onnx_nms: .*{reason}; leave export.onnx_nms out: ppdet-repro infer"):
        check_suppression(settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name, precision", [("yolof", "fp32"), ("ttfnet", "fp16")])
def test_an_export_is_verified_and_infer_runs_it(name, precision, data, tmp_path):
    pytest.importorskip("paddle2onnx")
    cfg = small_config(name, data, "export.onnx_nms=true")
    model, files = taught_model(cfg, SMALL[name].steps), choose_files(cfg, 2, None)
    folder = export_model(model, cfg, tmp_path / "inside", "onnx", precision, verify_on=files)
    outputs = json.loads((folder / "manifest.json").read_text("utf-8"))["outputs"]
    assert [(output["name"], output["shape"]) for output in outputs] == [("bbox", [-1, 6]), ("bbox_num", [-1])]
    outside = export_model(model, small_config(name, data), tmp_path / "outside", "onnx", precision)
    found = []
    for path in (folder, outside):
        flags = build_parser().parse_args([f"--model_dir={path}", "--engine=onnxruntime"])
        pipeline = open_pipeline(open_model_folder(path, engine="onnxruntime"), flags)
        found.append([pipeline.engine.run(pipeline.preprocess(files)._asdict())])
    [(rows, counts)], [(expected, expected_counts)] = found
    assert counts.sum() == expected_counts.sum() > 2
    order = [np.lexsort((*r.T[2:], r[:, 1])) for r in (rows, expected)]
    np.testing.assert_allclose(rows[order[0]], expected[order[1]], rtol=1e-6)


def test_matrix_nms_is_refused_before_anything_is_written(tmp_path):
    cfg = load_config("ppyolo/ppyolov2_r18vd_256_synthetic.yml", ["export.onnx_nms=true"])
    with pytest.raises(UserError, match="ONNX has no Matrix NMS"):
        export_model(build_model(cfg), cfg, tmp_path, "onnx")
    assert not list(tmp_path.iterdir())
