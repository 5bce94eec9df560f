"""YOLOF: You Only Look One-level Feature (Chen et al., CVPR 2021)."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector


@register
class YOLOF(Detector):
    """ResNet's last map, a dilated encoder, one head."""

    def __init__(
        self,
        backbone: Part[nn.Layer] = "ResNet",
        neck: Part[nn.Layer] = "DilatedEncoder",
        head: Part[nn.Layer] = "YOLOFHead",
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head

    @property
    def post_process(self) -> nn.Layer:
        return self.head
