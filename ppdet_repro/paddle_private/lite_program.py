"""What Paddle-Lite 2.13 needs changed in a program that Paddle 2.6 wrote.

Paddle 2.6 leaves out attributes and outputs that were always there before, and Paddle-Lite reads them unasked: its
converter aborts, is killed by a signal, or writes a model that aborts when it runs. Each cure below puts back what
older Paddles wrote. They change a copy of the program's description; parameters stay as they are, and so do the
results.

| operator in the program                     | without the cure                        | cure                      |
|---------------------------------------------|-----------------------------------------|---------------------------|
| relu6                                       | "No attributes called threshold", abort | threshold = 6             |
| swish                                       | no `beta`, abort                        | beta = 1                  |
| flatten_contiguous_range                    | segmentation fault: no output XShape    | the output and a variable |
| fill_constant of shape []                   | aborts when the model runs              | shape = [1]               |
| depthwise_conv2d_transpose, on x86 only     | not supported                           | conv2d_transpose          |

No cure, but a line that says so (see `parts_of_weights`): slices of computed weights, as in BiFPN's fusion, are
converted, but are a segmentation fault when the model runs. Exports for Paddle-Lite have none: `fold.fold_fusions`.
The detectors here avoid two more: `unbind` corrupts Paddle-Lite's memory, and it has no take_along_axis and
put_along_axis.

Found by converting nets of one operator each, and the detectors, with paddlelite 2.13rc0.
"""

from __future__ import annotations

from typing import Dict, List

from paddle.base.proto import framework_pb2

from ppdet_repro.paddle_private.program import Block, Operator, Program, Variable

PARTS = ("slice", "strided_slice", "split", "unbind", "unstack")
MISSING_FLOATS = {"relu6": ("threshold", 6.0), "swish": ("beta", 1.0)}


def cure(program: Program, target: str) -> Program:
    """A copy of the program that Paddle-Lite converts for `target`, arm or x86."""
    cured = Program()
    cured.CopyFrom(program)
    for block in cured.blocks:
        for operator in block.ops:
            if operator.type in MISSING_FLOATS:
                add_float(operator, *MISSING_FLOATS[operator.type])
            elif operator.type == "flatten_contiguous_range":
                add_xshape(operator, block)
            elif operator.type == "fill_constant":
                give_shape(operator)
            elif operator.type == "depthwise_conv2d_transpose" and target == "x86":
                operator.type = "conv2d_transpose"
    return cured


def add_float(operator: Operator, name: str, value: float) -> None:
    """Set an attribute if it is not there."""
    if all(attribute.name != name for attribute in operator.attrs):
        operator.attrs.add(name=name, type=framework_pb2.FLOAT, f=value)


def add_xshape(operator: Operator, block: Block) -> None:
    """Add the output in which older Paddles kept the input's shape."""
    if any(output.parameter == "XShape" and output.arguments for output in operator.outputs):
        return
    (source,) = (argument for entry in operator.inputs if entry.parameter == "X" for argument in entry.arguments)
    (result,) = (argument for entry in operator.outputs if entry.parameter == "Out" for argument in entry.arguments)
    template = variables(block)[source]
    added = block.vars.add()
    added.CopyFrom(template)
    added.name = f"{result}.xshape"
    added.persistable = False
    del added.type.lod_tensor.tensor.dims[:]
    added.type.lod_tensor.tensor.dims.extend([0, *template.type.lod_tensor.tensor.dims])
    operator.outputs.add(parameter="XShape", arguments=[added.name])


def give_shape(operator: Operator) -> None:
    """Make a constant without dimensions one of one element, unless tensors give its shape."""
    by_tensor = any(
        entry.arguments for entry in operator.inputs if entry.parameter in ("ShapeTensor", "ShapeTensorList")
    )
    for attribute in operator.attrs:
        if attribute.name == "shape" and not by_tensor and not attribute.longs and not attribute.ints:
            attribute.longs.append(1)
            attribute.type = framework_pb2.LONGS


def parts_of_weights(program: Program) -> List[str]:
    """The operators that take parts of what is computed from parameters alone, which Paddle-Lite cannot run."""
    found = []
    for block in program.blocks:
        parameters = {name for name, variable in variables(block).items() if variable.persistable}
        computed = set()
        for operator in block.ops:
            if operator.type == "feed":  # its list of inputs counts as persistable
                continue
            inputs = {argument for entry in operator.inputs for argument in entry.arguments}
            if operator.type in PARTS and inputs & computed:
                found.append(operator.type)
            if inputs and inputs <= parameters | computed:
                computed.update(argument for entry in operator.outputs for argument in entry.arguments)
    return found


def variables(block: Block) -> Dict[str, Variable]:
    """A block's variables by name."""
    return {variable.name: variable for variable in block.vars}
