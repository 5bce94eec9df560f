"""SAPD: Soft Anchor-Point Detector (Zhu et al., ECCV 2020), and FSAF (CVPR 2019), made of the same parts."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector


@register
class SAPD(Detector):
    """A backbone, a feature pyramid, one head on all its levels."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "SAPDHead"
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    @property
    def post_process(self) -> nn.Layer:
        return self.head
