"""Changes that Paddle-Lite 2.13 needs in a program that Paddle 2.6 wrote.

Paddle 2.6 leaves out attributes and outputs that older versions always wrote, and Paddle-Lite reads them without
checking. As a result its converter aborts, is killed by a signal, or writes a model that aborts when it runs. Each
change below restores what older versions wrote. Parameters and results stay the same.

| operator in the program                     | without the change                      | change                    |
|---------------------------------------------|-----------------------------------------|---------------------------|
| relu6                                       | "No attributes called threshold", abort | threshold = 6             |
| swish                                       | no `beta`, abort                        | beta = 1                  |
| flatten_contiguous_range                    | segmentation fault: no output XShape    | the output and a variable |
| fill_constant of shape []                   | aborts when the model runs              | shape = [1]               |
| depthwise_conv2d_transpose, on x86 only     | not supported                           | conv2d_transpose          |

One problem has no such change and is only detected, by `slices_of_weights`: slices of tensors that are computed from
weights, as in BiFPN's fusion, are converted, but cause a segmentation fault when the model runs. Exports for
Paddle-Lite contain none, see `engine.export.fold.FixedFusion`. The detectors of this package avoid two more:
`unbind` corrupts Paddle-Lite's memory, and Paddle-Lite has neither take_along_axis nor put_along_axis.

Found by converting networks of one operator each, and the detectors, with paddlelite 2.13rc0.
"""

from __future__ import annotations

from typing import List, Set

from paddle.base.proto import framework_pb2

from ppdet_repro.paddle_private.program import Block, Operator, Program, all_arguments, arguments, dimensions

SLICES = ("slice", "strided_slice", "split", "unbind", "unstack")
MISSING_FLOATS = {"relu6": ("threshold", 6.0), "swish": ("beta", 1.0)}


def compatible_program(program: Program, device: str) -> Program:
    """A copy of the program that Paddle-Lite can convert for `device`, arm or x86."""
    changed = framework_pb2.ProgramDesc()
    changed.CopyFrom(program)
    for block in changed.blocks:
        for operator in block.ops:
            if operator.type in MISSING_FLOATS:
                name, value = MISSING_FLOATS[operator.type]
                if all(attribute.name != name for attribute in operator.attrs):
                    operator.attrs.add(name=name, type=framework_pb2.FLOAT, f=value)
            elif operator.type == "flatten_contiguous_range":
                add_xshape(operator, block)
            elif operator.type == "fill_constant":
                add_dimension(operator)
            elif operator.type == "depthwise_conv2d_transpose" and device == "x86":
                operator.type = "conv2d_transpose"
    return changed


def add_xshape(operator: Operator, block: Block) -> None:
    """Add the output in which older versions kept the input's shape."""
    if arguments(operator.outputs, "XShape"):
        return
    (source,), (result,) = arguments(operator.inputs, "X"), arguments(operator.outputs, "Out")
    template = next(variable for variable in block.vars if variable.name == source)
    added = block.vars.add()
    added.CopyFrom(template)
    added.name = f"{result}.xshape"
    added.persistable = False
    dimensions(added)[:] = [0, *dimensions(template)]
    operator.outputs.add(parameter="XShape", arguments=[added.name])


def add_dimension(operator: Operator) -> None:
    """Give a constant of shape [] the shape [1], unless tensors define its shape."""
    if any(arguments(operator.inputs, name) for name in ("ShapeTensor", "ShapeTensorList")):
        return
    for attribute in operator.attrs:
        if attribute.name == "shape" and not attribute.longs and not attribute.ints:
            attribute.longs.append(1)
            attribute.type = framework_pb2.LONGS


def slices_of_weights(program: Program) -> List[str]:
    """The types of the operators that slice what is computed from parameters alone. Paddle-Lite cannot run them."""
    found = []
    for block in program.blocks:
        parameters = {variable.name for variable in block.vars if variable.persistable}
        computed: Set[str] = set()
        for operator in block.ops:
            if operator.type == "feed":  # its input, the list of the network's inputs, is marked as persistable
                continue
            inputs = set(all_arguments(operator.inputs))
            if operator.type in SLICES and inputs & computed:
                found.append(operator.type)
            if inputs and inputs <= parameters | computed:
                computed.update(all_arguments(operator.outputs))
    return found
