"""Biases of convolutions in the form that inference engines fuse.

Paddle saves a convolution with a bias as three operators: conv2d, reshape2 of the bias to [1, C, 1, 1], and
elementwise_add. Engines fuse a convolution with its bias, and with the operators behind it, only if the bias itself is
added along axis 1. Without that fusion, oneDNN does not compute the convolution in bfloat16.
"""

from __future__ import annotations

from typing import Dict, List

from ppdet_repro.paddle_private.program import Operator, Program, all_arguments, arguments, dimensions


def remove_bias_reshapes(program: Program) -> int:
    """Add every bias along axis 1, without reshaping it first. Changes the program in place.

    A bias is a parameter of C numbers that is reshaped to [1, C, 1, 1] and is then only added to other variables.
    Returns the number of biases that were found.
    """
    block = program.blocks[0]
    shapes = {v.name: list(dimensions(v)) for v in block.vars if v.persistable}
    readers: Dict[str, List[Operator]] = {}
    for operator in block.ops:
        for name in set(all_arguments(operator.inputs)):
            readers.setdefault(name, []).append(operator)
    unused = []
    for index, operator in enumerate(block.ops):
        if operator.type != "reshape2":
            continue
        (bias,), (reshaped,) = arguments(operator.inputs, "X"), arguments(operator.outputs, "Out")
        additions, shape = readers.get(reshaped, []), shapes.get(bias, [])
        target = [size for attribute in operator.attrs if attribute.name == "shape" for size in attribute.ints]
        if len(shape) != 1 or target != [1, *shape, 1, 1]:
            continue
        if additions and all(adds(addition, reshaped) for addition in additions):
            for addition in additions:
                add_along_channels(addition, bias)
            unused.append(index)
    for index in reversed(unused):
        del block.ops[index]
    return len(unused)


def adds(operator: Operator, name: str) -> bool:
    """Whether the operator adds the variable `name` to another one."""
    x, y = arguments(operator.inputs, "X"), arguments(operator.inputs, "Y")
    return operator.type == "elementwise_add" and y == [name] and x != [name]


def add_along_channels(operator: Operator, bias: str) -> None:
    """Make an elementwise_add add the variable `bias` along axis 1."""
    for slot in operator.inputs:
        if slot.parameter == "Y":
            slot.arguments[:] = [bias]
    for attribute in operator.attrs:
        if attribute.name == "axis":
            attribute.i = 1
