"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017)."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import SingleHeadDetector


@register
class RetinaNet(SingleHeadDetector):
    """A backbone, a feature pyramid, and an anchor-based head that all levels share."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "RetinaHead"
    ):
        super().__init__(backbone, neck, head)
