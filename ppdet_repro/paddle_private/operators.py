"""Suppression operators that have no public function in Paddle.

B images, N boxes, C classes, M rows of all images.

Both functions take boxes [B, N, 4] xyxy and scores [B, C, N]. They return the rows [M, 6] (class, score, x1, y1, x2,
y2) and the number of rows per image [B] int32. They work in dynamic mode and while a program is traced.
"""

from __future__ import annotations

from typing import Any, Mapping, Tuple

import paddle
from paddle import _C_ops
from paddle.base.layer_helper import LayerHelper


def multiclass_nms(
    boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any]
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Hard non-maximum suppression per class. `attributes` are those of the operator `multiclass_nms3`."""
    if not paddle.in_dynamic_mode():
        return append_operator("multiclass_nms3", boxes, scores, attributes, "NmsRoisNum")
    a = attributes
    rows, _, count = _C_ops.multiclass_nms3(
        boxes,
        scores,
        None,
        a["score_threshold"],
        a["nms_top_k"],
        a["keep_top_k"],
        a["nms_threshold"],
        a["normalized"],
        a["nms_eta"],
        a["background_label"],
    )
    return rows.reshape([-1, 6]), count


def matrix_nms(
    boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any]
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Matrix NMS. `attributes` are those of the operator `matrix_nms`."""
    if not paddle.in_dynamic_mode():
        return append_operator("matrix_nms", boxes, scores, attributes, "RoisNum")
    a = attributes
    rows, _, count = _C_ops.matrix_nms(
        boxes,
        scores,
        a["score_threshold"],
        a["nms_top_k"],
        a["keep_top_k"],
        a["post_threshold"],
        a["use_gaussian"],
        a["gaussian_sigma"],
        a["background_label"],
        a["normalized"],
    )
    return rows.reshape([-1, 6]), count


def append_operator(
    kind: str, boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any], count_name: str
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Append a suppression operator to the program that is being traced. `count_name` is its output of counts."""
    helper = LayerHelper(kind)
    rows = helper.create_variable_for_type_inference(boxes.dtype)
    index, count = (helper.create_variable_for_type_inference("int32") for _ in range(2))
    helper.append_op(
        type=kind,
        inputs={"BBoxes": boxes, "Scores": scores},
        outputs={"Out": rows, "Index": index, count_name: count},
        attrs=dict(attributes),  # Paddle adds to this dict
    )
    for output in (rows, index, count):
        output.stop_gradient = True
    return rows, count
