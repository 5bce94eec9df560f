"""What every matcher of anchors returns, and how every one is called, so that one can stand for another.

N anchors, G ground truths, P pairs, L levels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Sequence

import paddle

NEGATIVE, IGNORED = -1, -2


class Matches(NamedTuple):
    """`labels` [N]: index of the ground truth, NEGATIVE or IGNORED. `anchors`, `gts` [P] int64: the
    pairs that regress. A pair may stand twice, and its anchor's label may since have gone to another box."""

    labels: paddle.Tensor
    anchors: paddle.Tensor
    gts: paddle.Tensor


class Matcher(Protocol):
    """Decoded predictions [N, 4], anchors [N, 4], ground truth [G, 4], all xyxy pixels of the network's input.
    `level_sizes` [L]: the anchors of each level, which follow one another; empty: all are of one level."""

    def __call__(
        self,
        predictions: paddle.Tensor,
        anchors: paddle.Tensor,
        gt_boxes: paddle.Tensor,
        level_sizes: Sequence[int] = (),
    ) -> Matches: ...


def matches_of(labels: paddle.Tensor) -> Matches:
    """The matches where each positive anchor regresses to the box of its label, once: labels [N]."""
    anchors = paddle.nonzero(labels >= 0).flatten()  # [P]
    return Matches(labels, anchors, labels.gather(anchors).astype("int64"))


def no_matches(count: int) -> Matches:
    """The matches of `count` anchors where there is no ground truth."""
    none = paddle.zeros([0], "int64")
    return Matches(paddle.full([count], NEGATIVE, "int32"), none, none)
