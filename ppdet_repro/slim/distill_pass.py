"""One forward pass of a student or a teacher, with everything that distillation losses compare.

B images, C channels; H, W size of a feature map.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.contract import Losses, RawOutputs
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.architectures.feature_maps import as_tensors

Call = Tuple[Tuple[Any, ...], Any]
"""The inputs and the output of one call of a layer."""


class Pass(NamedTuple):
    """What one forward pass computed."""

    detector: Detector
    maps: List[Tensor]  # the neck's [B, C, H, W], one per level
    raw: RawOutputs
    calls: Dict[str, List[Call]]  # of the layers that were watched, by name


class PassLoss(nn.Layer):
    """The base class of distillation losses that compare two passes, and not one pair of feature maps of the necks."""

    def connect(self, student: Detector, teacher: Detector) -> None:
        """Prepare the loss for these two. Raises UserError if they cannot be compared."""

    @property
    def watched(self) -> Tuple[Sequence[str], Sequence[str]]:
        """The names of the student's and of the teacher's layers whose calls the loss needs."""
        return (), ()

    def forward(self, student: Pass, teacher: Pass) -> Losses:
        """The losses by name, without their sum. The teacher's pass has no gradients."""
        raise NotImplementedError


def run(detector: Detector, image: Tensor, watched: Sequence[str] = ()) -> Pass:
    """Run backbone, neck and head once on images [B, 3, H, W], and record the calls of the named layers."""
    calls: Dict[str, List[Call]] = {name: [] for name in watched}
    layers = dict(detector.named_sublayers())
    with ExitStack() as stack:
        for name in calls:
            stack.callback(layers[name].register_forward_post_hook(recorder(calls[name])).remove)
        maps = detector.neck(detector.backbone(detector.enter(image)))
        return Pass(detector, as_tensors(maps), as_tensors(detector.head(maps)), calls)


def recorder(calls: List[Call]) -> Any:
    """A hook that appends the calls of its layer to the list, and leaves the layer's output as it is."""

    def record(layer: nn.Layer, inputs: Tuple[Any, ...], output: Any) -> None:
        calls.append((as_tensors(inputs), as_tensors(output)))

    return record


def resized(teacher: Tensor, size: Sequence[int]) -> Tensor:
    """A map [B, C, h, w] in the size [H, W]: averages where it is larger, otherwise bilinear interpolation."""
    height, width = teacher.shape[2:]
    if [height, width] == list(size):
        return teacher
    if height >= size[0] and width >= size[1]:
        return F.adaptive_avg_pool2d(teacher, size)
    return F.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
