"""Detectors with one head, which also decodes its outputs and suppresses duplicates."""

from __future__ import annotations

from paddle import nn

from ppdet_repro.core.contract import DecodingHead, PostProcess
from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector


class SingleHeadDetector(Detector):
    """The base class of these detectors."""

    head: DecodingHead

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: DecodingHead):
        super().__init__(backbone, neck)
        self.head = head

    @property
    def post_process(self) -> PostProcess:
        return self.head


@register
class RetinaNet(SingleHeadDetector):
    """RetinaNet (Lin et al., ICCV 2017): a head with anchors that all levels of a feature pyramid share."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "RetinaHead"
    ):
        super().__init__(backbone, neck, head)


@register
class SAPD(SingleHeadDetector):
    """Soft Anchor-Point Detector (Zhu et al., ECCV 2020). FSAF (CVPR 2019) is built from the same parts."""

    def __init__(
        self, backbone: Part[nn.Layer] = "ResNet", neck: Part[nn.Layer] = "FPN", head: Part[nn.Layer] = "SAPDHead"
    ):
        super().__init__(backbone, neck, head)


@register
class YOLOF(SingleHeadDetector):
    """You Only Look One-level Feature (Chen et al., CVPR 2021): only the backbone's last feature map is used."""

    def __init__(
        self,
        backbone: Part[nn.Layer] = "ResNet",
        neck: Part[nn.Layer] = "DilatedEncoder",
        head: Part[nn.Layer] = "YOLOFHead",
    ):
        super().__init__(backbone, neck, head)
