"""SAPD: Soft Anchor-Point Detector (Zhu et al., ECCV 2020). FSAF (CVPR 2019) is built from the same parts."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import SingleHeadDetector


@register
class SAPD(SingleHeadDetector):
    """A backbone, a feature pyramid, and an anchor-point head that all levels share."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "SAPDHead"
    ):
        super().__init__(backbone, neck, head)
