"""Biases of convolutions as inference engines expect them.

Paddle saves conv2d, then reshape2 of the bias to [1, C, 1, 1], then elementwise_add. Engines fuse a convolution with
its bias, and with what follows, only where the bias is added as it is, along axis 1; and without that oneDNN does not
compute the convolution in bfloat16.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

from ppdet_repro.paddle_private.program import Operator, Program

Slots = Sequence[Operator.Var]


def add_biases_plainly(program: Program) -> int:
    """Add every bias, a parameter of C numbers that is reshaped to [1, C, 1, 1] only to be added, without reshaping it.
    The program is changed; how many biases were found is returned."""
    block = program.blocks[0]
    shapes = {v.name: list(v.type.lod_tensor.tensor.dims) for v in block.vars if v.persistable}
    readers: Dict[str, List[Operator]] = {}
    for operator in block.ops:
        for name in {name for slot in operator.inputs for name in slot.arguments}:
            readers.setdefault(name, []).append(operator)
    gone = []
    for place, operator in enumerate(block.ops):
        if operator.type != "reshape2":
            continue
        (bias,), (reshaped,) = arguments(operator.inputs, "X"), arguments(operator.outputs, "Out")
        sums, shape = readers.get(reshaped, []), shapes.get(bias, [])
        if len(shape) != 1 or integers(operator, "shape") != [1, *shape, 1, 1]:
            continue
        if not sums or not all(adds(one, reshaped) for one in sums):
            continue
        for one in sums:
            add_along_channels(one, bias)
        gone.append(place)
    for place in reversed(gone):
        del block.ops[place]
    return len(gone)


def arguments(slots: Slots, name: str) -> List[str]:
    """The variables of an operator's input or output."""
    return [argument for slot in slots if slot.parameter == name for argument in slot.arguments]


def integers(operator: Operator, name: str) -> List[int]:
    """An attribute that is a list of integers."""
    return [value for attribute in operator.attrs if attribute.name == name for value in attribute.ints]


def adds(operator: Operator, name: str) -> bool:
    """Whether the operator adds this variable to another one."""
    return (
        operator.type == "elementwise_add"
        and arguments(operator.inputs, "Y") == [name]
        and arguments(operator.inputs, "X") != [name]
    )


def add_along_channels(operator: Operator, bias: str) -> None:
    """Make an elementwise_add add this variable along axis 1."""
    for slot in operator.inputs:
        if slot.parameter == "Y":
            slot.arguments[:] = [bias]
    for attribute in operator.attrs:
        if attribute.name == "axis":
            attribute.i = 1
