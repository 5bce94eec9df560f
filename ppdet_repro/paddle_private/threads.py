"""The number of CPU threads of Paddle's operators."""

from __future__ import annotations

from paddle.base import core


def set_num_threads(count: int) -> None:
    """Set the number of CPU threads that Paddle's operators use in this process."""
    core.set_num_threads(count)
