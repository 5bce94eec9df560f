"""Facts about an exported Paddle program that decide how to run it."""

from __future__ import annotations

from typing import Sequence

from ppdet_repro.paddle_private.onednn import CONVOLUTIONS

QUANTIZING = ("quantize_linear", "fake_quantize", "fake_channel_wise_quantize")  # how their names start


def is_quantized(operators: Sequence[str]) -> bool:
    """Whether the program has operators that quantize."""
    return any(operator.startswith(QUANTIZING) for operator in operators)


def multiplies_only_before_convolutions(operators: Sequence[str]) -> bool:
    """Whether the program multiplies elementwise before its first convolution (it normalizes its input), and not
    between its convolutions."""
    places = [i for i, operator in enumerate(operators) if operator in CONVOLUTIONS]
    if not places:
        return False
    between = operators[places[0] : places[-1]]
    return "elementwise_mul" in operators[: places[0]] and "elementwise_mul" not in between
