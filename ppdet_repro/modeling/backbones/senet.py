"""SENet. Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.

Parameters have the names of PaddleDetection, so its ImageNet weights and detectors load.
"""

from __future__ import annotations

from typing import List, Literal, Optional, Union

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.backbones.resnet import ResNet


@register
class SENet(ResNet):
    """ResNet or ResNeXt with squeeze-and-excitation in every block, and a stem of 128 channels.

    For the parameters see `ResNet`.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        variant: Literal["a", "b", "c", "d"] = "b",
        lr_mult_list: Optional[List[float]] = None,
        groups: int = 1,
        base_width: int = 64,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        freeze_norm: bool = True,
        freeze_at: int = 0,
        return_idx: Optional[Union[int, List[int]]] = None,
        dcn_v2_stages: Optional[Union[int, List[int]]] = None,
        std_senet: bool = True,
        num_stages: int = 4,
    ):
        super().__init__(
            depth,
            128,
            variant,
            lr_mult_list,
            groups,
            base_width,
            norm_type,
            norm_decay,
            freeze_norm,
            freeze_at,
            return_idx,
            dcn_v2_stages,
            num_stages,
            std_senet=std_senet,
        )
