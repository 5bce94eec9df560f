"""What a backbone or neck declares about its outputs, so that the next part can be built."""

from __future__ import annotations

from typing import NamedTuple


class ShapeSpec(NamedTuple):
    """One feature map: its number of channels, and its stride in input pixels."""

    channels: int
    stride: int
