"""YOLOv3 (Redmon and Farhadi, 2018). PP-YOLO and PP-YOLOv2 are built from the same parts."""

from __future__ import annotations

from typing import Any, Mapping, Tuple

from paddle import Tensor, nn

from ppdet_repro.core.contract import Head, RawOutputs
from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.post_process import BBoxPostProcess
from ppdet_repro.utils.errors import UserError


@register
class YOLOv3(Detector):
    """A backbone, a neck with several levels, a head that predicts on all of them, decoding and suppression.

    Args:
        yolo_head: a `YOLOv3Head`
        post_process: decoding and suppression
    """

    post_process: BBoxPostProcess

    def __init__(
        self,
        backbone: Part[nn.Layer] = "DarkNet",
        neck: Part[nn.Layer] = "YOLOv3FPN",
        yolo_head: Part[nn.Layer] = "YOLOv3Head",
        post_process: Part[Any] = "BBoxPostProcess",
    ):
        super().__init__(backbone, neck)
        self.yolo_head = yolo_head
        self.post_process = post_process
        box, loss, coarsest = post_process.decode, yolo_head.loss, yolo_head.strides[0]
        if box.scale_x_y != loss.scale_x_y:
            raise UserError(f"YOLOBox.scale_x_y {box.scale_x_y} is not YOLOv3Loss.scale_x_y {loss.scale_x_y}")
        if box.downsample_ratio != coarsest:
            ratio = box.downsample_ratio
            raise UserError(f"YOLOBox.downsample_ratio {ratio} is not the coarsest level's stride {coarsest}")

    @property
    def head(self) -> Head:
        return self.yolo_head

    def decode(self, raw: RawOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        return self.post_process.decode(self.yolo_head.candidates(raw), im_shape, scale_factor)

    @property
    def target_settings(self) -> Mapping[str, Any]:
        """For Gt2YoloTarget."""
        head = self.yolo_head
        return {
            "anchors": [list(anchor) for anchor in head.all_anchors],
            "anchor_masks": [list(mask) for mask in head.anchor_masks],
            "downsample_ratios": list(head.strides),
        }
