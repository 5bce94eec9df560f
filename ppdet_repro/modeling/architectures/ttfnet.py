"""TTFNet: Training-Time-Friendly Network (Liu et al., AAAI 2020). PAFNet is built from the same parts."""

from __future__ import annotations

from typing import Any, Mapping

from paddle import nn

from ppdet_repro.core.contract import Head
from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.post_process import BBoxPostProcess
from ppdet_repro.utils.errors import UserError


@register
class TTFNet(Detector):
    """A backbone, a neck that upsamples to stride 4, a head of two maps, and the map's peaks as detections.

    Args:
        ttf_head: heat map and box distances
        post_process: what makes detections of the peaks
    """

    post_process: BBoxPostProcess

    def __init__(
        self,
        backbone: Part[nn.Layer] = "DarkNet",
        neck: Part[nn.Layer] = "TTFFPN",
        ttf_head: Part[nn.Layer] = "TTFHead",
        post_process: Part[Any] = "BBoxPostProcess",
    ):
        super().__init__(backbone, neck)
        self.ttf_head = ttf_head
        self.post_process = post_process
        ratio, stride = ttf_head.down_ratio, neck.out_shape[0].stride
        if stride != ratio:
            raise UserError(f"TTFHead.down_ratio {ratio} is not the stride {stride} of the neck's map")
        if post_process.decode.down_ratio != ratio:
            raise UserError(f"TTFBox.down_ratio {post_process.decode.down_ratio} is not TTFHead's {ratio}")

    @property
    def head(self) -> Head:
        return self.ttf_head

    @property
    def target_settings(self) -> Mapping[str, Any]:
        """For Gt2TTFTarget."""
        return {"down_ratio": self.ttf_head.down_ratio}
