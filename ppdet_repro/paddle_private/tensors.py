"""New tensors by the shortest way."""

from __future__ import annotations

from typing import Sequence

import paddle
from paddle import _C_ops

PLACE = paddle.CPUPlace()


def empty(shape: Sequence[int]) -> paddle.Tensor:
    """A float32 tensor on the CPU with any values. `paddle.empty` takes four times as long to look at its arguments."""
    return _C_ops.empty(shape, paddle.float32, PLACE)
