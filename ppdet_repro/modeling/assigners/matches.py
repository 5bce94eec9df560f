"""The interface of all matchers. They assign G ground truths to N anchors in P pairs. L levels."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Sequence

import paddle
from paddle import Tensor

NEGATIVE, IGNORED = -1, -2


class Matches(NamedTuple):
    """Which anchors learn which ground truths.

    A pair may occur twice, and the label of a pair's anchor may be another ground truth.
    """

    labels: Tensor  # [N]: index of the ground truth, NEGATIVE or IGNORED
    anchors: Tensor  # [P] int64: the anchors of the pairs that regress
    gts: Tensor  # [P] int64: their ground truths


class Matcher(Protocol):
    """Assigns ground truths to anchors.

    Args:
        predictions: Decoded boxes [N, 4]. All boxes are xyxy in pixels of the network's input.
        anchors: [N, 4], level by level.
        gt_boxes: [G, 4].
        levels: Number of anchors of each level [L]. If empty, there is one level.
    """

    def __call__(
        self, predictions: Tensor, anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int] = ()
    ) -> Matches: ...


def matches_of(labels: Tensor) -> Matches:
    """The matches of labels [N] where every positive anchor regresses once, to the box of its label."""
    anchors = paddle.nonzero(labels >= 0).flatten()  # [P]
    return Matches(labels, anchors, labels.gather(anchors).astype("int64"))


def no_matches(count: int) -> Matches:
    """The matches of `count` anchors in an image without ground truths."""
    none = paddle.zeros([0], "int64")
    return Matches(paddle.full([count], NEGATIVE, "int32"), none, none)
