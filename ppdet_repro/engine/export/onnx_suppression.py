"""Suppression of duplicates inside ONNX files, by ONNX's NonMaxSuppression.

B images, N candidate boxes, C classes, S pairs of class and box that are kept, M rows of all images.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from ppdet_repro.runtime.networks import missing
from ppdet_repro.utils.errors import UserError

OUTPUTS: List[Dict[str, Any]] = [  # as in a manifest
    {"name": "bbox", "shape": [-1, 6], "type": "float32"},
    {"name": "bbox_num", "shape": [-1], "type": "int32"},
]
UNLIMITED = np.iinfo(np.int32).max  # number of boxes per class


def check_suppression(settings: Mapping[str, Any]) -> None:
    """UserError if ONNX cannot compute the suppression, an entry `PostProcess` of infer_cfg.yml."""
    hint = "leave export.onnx_nms out: ppdet-repro infer then suppresses after the network"
    if settings["type"] == "MatrixNMS":
        raise UserError(f"export.onnx_nms: ONNX has no Matrix NMS; {hint}")
    if not settings.get("normalized", True):
        raise UserError(f"export.onnx_nms: ONNX's boxes are as wide as x2 - x1, the NMS has normalized: false; {hint}")
    if settings.get("nms_eta", 1.0) != 1.0:
        raise UserError(f"export.onnx_nms: ONNX has one threshold, the NMS has nms_eta {settings['nms_eta']}; {hint}")


def add_suppression(path: Path, settings: Mapping[str, Any]) -> None:
    """Let an ONNX file that ends in boxes [B, N, 4] and scores [B, C, N] end in rows [M, 6] (class, score, x1, y1, x2,
    y2) and the number of each image's rows [B], in place.

    The rows of an image are ordered by score. They are those of `runtime.suppress`, except that boxes without area do
    not suppress each other. `settings` is an entry `PostProcess` of infer_cfg.yml.

    Raises UserError if a package is missing. `check_suppression` says which settings ONNX can compute.
    """
    if importlib.util.find_spec("onnx") is None:
        raise missing("onnx", "onnx")
    import onnx

    model = onnx.load(str(path))
    boxes, scores = (output.name for output in model.graph.output)
    graph = Graph(onnx)
    if settings["type"] == "TTFBox":
        kept = graph.above(scores, settings["score_thresh"])
        limit = -1
    else:
        kept, limit = graph.kept_by_nms(boxes, scores, settings), settings["keep_top_k"]
    graph.end(boxes, kept, limit)
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.constants.values())
    del model.graph.output[:]
    for output in OUTPUTS:
        kind = onnx.TensorProto.FLOAT if output["type"] == "float32" else onnx.TensorProto.INT32
        shape = [None if size < 0 else size for size in output["shape"]]
        model.graph.output.append(onnx.helper.make_tensor_value_info(output["name"], kind, shape))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class Graph:
    """Nodes that are appended to an ONNX graph. The methods return the names of values."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: List[Any] = []
        self.constants: Dict[str, Any] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.outputs(kind, 1, *inputs, **attributes)[0]

    def outputs(self, kind: str, count: int, *inputs: str, **attributes: Any) -> Sequence[str]:
        """Append a node with several outputs."""
        names = [f"suppression/{kind}.{len(self.nodes)}.{i}" for i in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def constant(self, value: Any, dtype: str = "int64") -> str:
        """A constant array."""
        array = np.array(value, dtype)
        name = f"suppression/{dtype}{array.tolist()}"
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def size(self, value: str, axis: int) -> str:
        """The size of an axis, as an array [1]."""
        return self.node("Gather", self.node("Shape", value), self.constant([axis]))

    def above(self, scores: str, threshold: float) -> str:
        """The scores above a threshold, and 0 instead of the others."""
        chosen = self.node("Greater", scores, self.constant(threshold, "float32"))
        return self.node("Where", chosen, scores, self.constant(0, "float32"))

    def best(self, values: str, limit: int, axis: int) -> Sequence[str]:
        """The `limit` largest values along an axis, or all if there are fewer (-1: all), and their indices."""
        size = self.size(values, axis)
        count = size if limit < 0 else self.node("Min", size, self.constant([limit]))
        return self.outputs("TopK", 2, values, count, axis=axis)

    def kept_by_nms(self, boxes: str, scores: str, settings: Mapping[str, Any]) -> str:
        """The scores [B, C, N] of the pairs that hard NMS per class keeps, and 0 instead of the others."""
        first, limit = settings["nms_top_k"], settings["keep_top_k"]
        if first > -1:  # only the best boxes of each class take part
            lowest = self.node("ReduceMin", self.best(scores, first, 2)[0], axes=[2], keepdims=1)  # [B, C, 1]
            rest = self.node("Less", scores, lowest)
            scores = self.node("Where", rest, self.constant(0, "float32"), scores)
        number = self.constant([UNLIMITED if limit < 0 else limit])  # no image has more
        thresholds = [self.constant([settings[key]], "float32") for key in ("nms_threshold", "score_threshold")]
        kept = self.node("NonMaxSuppression", boxes, scores, number, *thresholds)  # [S, 3]: image, class, box
        if settings["background_label"] >= 0:
            classes = self.node("Gather", kept, self.constant(1), axis=1)  # [S]
            background = self.node("Equal", classes, self.constant(settings["background_label"]))
            kept = self.node("Compress", kept, self.node("Not", background), axis=0)
        nothing = self.node("ConstantOfShape", self.node("Shape", scores))
        return self.node("ScatterND", nothing, kept, self.node("GatherND", scores, kept))

    def end(self, boxes: str, kept: str, limit: int) -> None:
        """The graph's outputs, from boxes [B, N, 4] and scores [B, C, N] that are 0 for pairs that are not kept."""
        flat = self.node("Flatten", kept, axis=1)  # [B, C * N]
        values, index = self.best(flat, limit, 1)  # [B, k]
        number = self.size(kept, 2)
        classes = self.node("Cast", self.node("Div", index, number), to=self.onnx.TensorProto.FLOAT)
        last = self.constant([-1])
        places = self.node("Unsqueeze", self.node("Mod", index, number), last)  # [B, k, 1]
        columns = [self.node("Unsqueeze", column, last) for column in (classes, values)]
        columns.append(self.node("GatherND", boxes, places, batch_dims=1))
        rows = self.node("Concat", *columns, axis=2)  # [B, k, 6]
        found = self.node("Greater", values, self.constant(0, "float32"))
        where = self.node("Transpose", self.node("NonZero", found))  # [M, 2]
        counts = self.node("Cast", found, to=self.onnx.TensorProto.INT32)
        self.nodes.append(self.onnx.helper.make_node("GatherND", [rows, where], [OUTPUTS[0]["name"]]))
        total = self.onnx.helper.make_node("ReduceSum", [counts, self.constant([1])], [OUTPUTS[1]["name"]], keepdims=0)
        self.nodes.append(total)
