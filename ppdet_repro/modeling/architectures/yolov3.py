"""YOLOv3 (Redmon and Farhadi, 2018), whose parts also make PP-YOLO and PP-YOLOv2."""

from __future__ import annotations

from typing import Any, Sequence

import paddle
from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.utils.errors import UserError


@register
class YOLOv3(Detector):
    """A backbone, a neck of several levels, one head on all of them, decoding and suppression."""

    def __init__(
        self,
        backbone: Part[nn.Layer],
        neck: Part[nn.Layer],
        yolo_head: Part[nn.Layer] = "YOLOv3Head",
        post_process: Part[Any] = "BBoxPostProcess",
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.yolo_head = yolo_head
        self.post_process = post_process
        box, loss, coarsest = post_process.decode, yolo_head.loss, yolo_head.strides[0]
        if box.scale_x_y != loss.scale_x_y:
            raise UserError(f"YOLOBox.scale_x_y {box.scale_x_y} is not YOLOv3Loss.scale_x_y {loss.scale_x_y}")
        if box.downsample_ratio != coarsest:
            raise UserError(
                f"YOLOBox.downsample_ratio {box.downsample_ratio} is not the coarsest level's stride {coarsest}"
            )

    @property
    def head(self) -> nn.Layer:
        return self.yolo_head

    def decode(self, raw, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Boxes [B, N, 4] in pixels of the original images and scores [B, K, N]."""
        return self.post_process.decode(self.yolo_head.candidates(raw), im_shape, scale_factor)

    def check_targets(self, transforms: Sequence[Any]) -> None:
        """UserError if Gt2YoloTarget and the head have other anchors, masks or strides."""
        head = self.yolo_head
        for transform in transforms:
            for name, own in (
                ("anchors", head.all_anchors),
                ("anchor_masks", head.anchor_masks),
                ("downsample_ratios", head.strides),
            ):
                theirs = as_lists(getattr(transform, name, own))
                if theirs != as_lists(own):
                    raise UserError(
                        f"{type(transform).__name__}.{name} {theirs} does not fit YOLOv3Head, which has {own}; "
                        "write anchors and anchor_masks once, at the top level of the config"
                    )


def as_lists(value: Any) -> Any:
    """Lists, tuples and arrays of numbers as lists."""
    return [as_lists(item) for item in value] if hasattr(value, "__iter__") else value
