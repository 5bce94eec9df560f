"""Suppression operators that have no public function in Paddle.

Both take boxes [B, N, 4] xyxy and scores [B, C, N] of B images. They return the rows [M, 6] of all images (class,
score, x1, y1, x2, y2) and the number of rows per image [B] int32. They work in dynamic mode and in a traced program.
"""

from __future__ import annotations

from typing import Any, Mapping, Tuple

import paddle
from paddle import _C_ops
from paddle.base.layer_helper import LayerHelper
from paddle.framework import in_dynamic_or_pir_mode

Rows = Tuple[paddle.Tensor, paddle.Tensor]
MULTICLASS_NMS = (  # the attributes of both operators in the order of `_C_ops`
    "score_threshold", "nms_top_k", "keep_top_k", "nms_threshold", "normalized", "nms_eta", "background_label",
)  # fmt: skip
MATRIX_NMS = (
    "score_threshold", "nms_top_k", "keep_top_k", "post_threshold", "use_gaussian", "gaussian_sigma",
    "background_label", "normalized",
)  # fmt: skip


def multiclass_nms(boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any]) -> Rows:
    """Hard non-maximum suppression per class. `attributes` are those of the operator `multiclass_nms3`."""
    if not in_dynamic_or_pir_mode():
        return append_operator("multiclass_nms3", boxes, scores, attributes, "NmsRoisNum")
    rows, _, count = _C_ops.multiclass_nms3(boxes, scores, None, *(attributes[name] for name in MULTICLASS_NMS))
    return rows, count


def matrix_nms(boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any]) -> Rows:
    """Matrix NMS. `attributes` are those of the operator `matrix_nms`."""
    if not in_dynamic_or_pir_mode():
        return append_operator("matrix_nms", boxes, scores, attributes, "RoisNum")
    rows, _, count = _C_ops.matrix_nms(boxes, scores, *(attributes[name] for name in MATRIX_NMS))
    return rows, count


def append_operator(
    kind: str, boxes: paddle.Tensor, scores: paddle.Tensor, attributes: Mapping[str, Any], count_name: str
) -> Rows:
    """Append a suppression operator to the protobuf program that is being traced. `count_name` is its output of counts.

    Paddle 3 traces PIR programs, in which `_C_ops` works as in dynamic mode.
    """
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
