"""Binary cross entropy of logits with the right gradient everywhere."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor

TINY = 1e-37  # not 0 in float32, and too small to change any other logit


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log s(x) - (1 - t) log(1 - s(x)), elementwise, of logits x and targets t in [0, 1] of the same shape.

    The gradient is s(x) - t.
    """
    return F.binary_cross_entropy_with_logits(without_zeros(logits), targets, reduction="none")


def without_zeros(logits: Tensor) -> Tensor:
    """The logits, with 1e-37 in the place of 0.

    At a logit of exactly 0 Paddle 3 computes the gradient of the binary cross entropy as -0.5 - t, which is 1 too low:
    its kernel takes the derivative of max(x, 0) as 0 there, but that of |x| as 1. Paddle's sigmoid focal loss contains
    this cross entropy.
    """
    return logits + TINY
