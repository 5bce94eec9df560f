"""What an engine must know of an exported program before it runs it: its operators, and whether it is quantised."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from ppdet_repro.paddle_private.program import operator_types, read_program

CONVOLUTIONS = {"conv2d", "depthwise_conv2d", "conv2d_transpose", "depthwise_conv2d_transpose", "deformable_conv"}
QUANTISED = ("quantize_linear", "fake_quantize", "fake_channel_wise_quantize")


def read_operators(path: Path) -> List[str]:
    """The types of a saved program's operators, in their order. UserError if the file is not a Paddle program."""
    return operator_types(read_program(path))


def is_quantised(operators: Sequence[str]) -> bool:
    """Whether the program has operators that quantise."""
    return any(operator.startswith(QUANTISED) for operator in operators)


def multiplies_only_outside(operators: Sequence[str]) -> bool:
    """Whether the program multiplies elementwise before its first convolution (it normalises its input) and not
    between its convolutions."""
    places = [i for i, operator in enumerate(operators) if operator in CONVOLUTIONS]
    if not places:
        return False
    inside = operators[places[0] : places[-1]]
    return "elementwise_mul" in operators[: places[0]] and "elementwise_mul" not in inside


def count_of(operators: Sequence[str], wanted: Dict[str, str]) -> List[Tuple[str, int, str]]:
    """Name, number and remark of each operator of the program that `wanted` names."""
    counts = Counter(operators)
    return [(name, counts[name], remark) for name, remark in wanted.items() if counts[name]]


def digest(files: Sequence[Path]) -> str:
    """A short hash of the contents of the files."""
    hashed = hashlib.sha256()
    for file in files:
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:16]
