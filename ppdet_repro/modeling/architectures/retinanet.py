"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017)."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector


@register
class RetinaNet(Detector):
    """A backbone, a feature pyramid, one anchor-based head on all its levels."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "RetinaHead"
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    @property
    def post_process(self) -> nn.Layer:
        return self.head
