"""Small components for the tests of the config system, and functions that write configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence

import pytest

from ppdet_repro.core.config import build, load_config
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.utils.errors import UserError


class Shape(NamedTuple):
    channels: int
    stride: int


@register
class ToyBackbone:
    """A backbone with one output a level."""

    def __init__(self, depth: int = 50, levels: Sequence[int] = (2,), norm_type: Shared[str] = "bn"):
        if depth > 200:
            raise UserError("depth above 200 does not exist")
        if depth == 199:
            len(depth)  # a programming error
        self.depth, self.norm_type, self.levels = depth, norm_type, levels
        self.out_shape = [Shape(64 * 2**level, 4 * 2**level) for level in levels]


@register
class ToyNeck:
    """A neck that halves the channels."""

    def __init__(self, in_channels: Upstream[List[int]], in_strides: Upstream[List[int]] = None, spp: bool = False):
        self.in_channels, self.in_strides, self.spp = in_channels, in_strides, spp
        self.out_shape = [Shape(c // 2, s) for c, s in zip(in_channels, in_strides)]


@register
class ToyBranch:
    """A part of the head that takes the channels of one feature map."""

    def __init__(self, feat_in: Upstream[int], convs: int = 2):
        self.feat_in, self.convs = feat_in, convs


@register
class HardNMS:
    """Has parameters of its own and some in common with SoftNMS."""

    def __init__(self, score_threshold: float = 0.05, nms_threshold: float = 0.5, keep_top_k: int = 100):
        self.score_threshold, self.nms_threshold, self.keep_top_k = score_threshold, nms_threshold, keep_top_k


@register
class SoftNMS:
    def __init__(self, score_threshold: float = 0.05, sigma: float = 2.0, keep_top_k: int = 100):
        self.score_threshold, self.sigma, self.keep_top_k = score_threshold, sigma, keep_top_k


@register
class ToyLoss:
    def __init__(self, weight: float, gamma: float = 2.0):
        self.weight, self.gamma = weight, gamma


@register
class HalfToyLoss(ToyLoss):
    """Takes its parent's parameters."""


@register
class ToyHead:
    def __init__(
        self,
        num_classes: Shared[int] = 80,
        branch: Part[Any] = "ToyBranch",
        nms: Part[Any] = "HardNMS",
        loss: Optional[Part[Any]] = None,
        losses: Optional[List[Part[Any]]] = None,
    ):
        self.num_classes, self.branch, self.nms = num_classes, branch, nms
        self.loss, self.losses = loss, losses


@register
class ToyDetector:
    def __init__(self, backbone: Part[Any] = "ToyBackbone", neck: Part[Any] = "ToyNeck", head: Part[Any] = "ToyHead"):
        self.backbone, self.neck, self.head = backbone, neck, head


@register
class ToyOptimizer:
    def __init__(self, momentum: float = 0.9):
        self.momentum = momentum


@register
class ToyAdam:
    def __init__(self, beta: float = 0.9):
        self.beta = beta


@register
class ToyTrainer:
    def __init__(self, optimizer: Part[Any], steps: List[int] = None, extra: Any = None):
        self.optimizer, self.steps, self.extra = optimizer, steps, extra


@register
class ToySet:
    def __init__(self, folder: str, empty: bool = False):
        self.folder, self.empty = folder, empty


@register
class ToyVOCSet:
    def __init__(self, folder: str, labels: str = "labels.txt"):
        self.folder, self.labels = folder, labels


@register
class ToyOuroboros:
    def __init__(self, tail: Part[Any] = "ToyOuroboros"):
        self.tail = tail


FEAT_IN = "ToyBranch.feat_in=1"  # for a head that is built without a part before it


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def problems(text: str, *overrides: str, name: str = "a.yml") -> List[str]:
    """The lines of the report on a config."""
    with pytest.raises(UserError) as error:
        load_config(write(name, text), overrides)
    return str(error.value).splitlines()


def built(text: str, section: str, *overrides: str) -> Any:
    return build(load_config(write("a.yml", text), overrides), section)
