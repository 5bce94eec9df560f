"""YOLOF: You Only Look One-level Feature (Chen et al., CVPR 2021)."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import SingleHeadDetector


@register
class YOLOF(SingleHeadDetector):
    """A backbone of which only the last feature map is used, a dilated encoder, and one head."""

    def __init__(
        self,
        backbone: Part[nn.Layer] = "ResNet",
        neck: Part[nn.Layer] = "DilatedEncoder",
        head: Part[nn.Layer] = "YOLOFHead",
    ):
        super().__init__(backbone, neck, head)
