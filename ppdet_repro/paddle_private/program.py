"""Saved inference programs (.pdmodel) as protobuf messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence

from google.protobuf.message import DecodeError
from paddle.base.proto import framework_pb2

from ppdet_repro.utils.errors import UserError

# protobuf makes the classes of these messages at run time: a type checker cannot see them
Program = Any
Block = Any
Operator = Any
Variable = Any
Slot = Any  # an input or output of an operator: its name and its variables


def read_program(path: Path) -> Program:
    """Read a .pdmodel file. UserError if it cannot be read, is not a program, or is empty.

    Paddle itself crashes on some files that are not programs, so every file is read here first.
    """
    program = framework_pb2.ProgramDesc()
    try:
        program.ParseFromString(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the model: {error.strerror}") from error
    except DecodeError as error:
        raise UserError(f"{path} is not a Paddle model, or is damaged; export it again") from error
    if not program.blocks:
        raise UserError(f"{path} is an empty Paddle model; export it again")
    return program


def write_program(program: Program, path: Path) -> None:
    """Write a .pdmodel file."""
    path.write_bytes(program.SerializeToString())


def operator_types(program: Program) -> List[str]:
    """The types of a program's operators, in execution order."""
    return [operator.type for block in program.blocks for operator in block.ops]


def dimensions(variable: Variable) -> Any:
    """The sizes of a variable's axes, -1 for a free one: a list that can be changed in place."""
    kind = variable.type
    tensor = kind.dense_tensor if hasattr(kind, "dense_tensor") else kind.lod_tensor  # in Paddle 3 and in Paddle 2
    return tensor.tensor.dims


def arguments(slots: Sequence[Slot], name: str) -> List[str]:
    """The variables in the input or output `name` of an operator; `slots` are its `inputs` or `outputs`."""
    return [argument for slot in slots if slot.parameter == name for argument in slot.arguments]


def all_arguments(slots: Sequence[Slot]) -> List[str]:
    """The variables in all inputs or all outputs of an operator."""
    return [argument for slot in slots for argument in slot.arguments]


def program_signature(program: Program) -> Dict[str, List[Dict[str, Any]]]:
    """The inputs and outputs of a program; see `saved_program.signature`."""
    block = program.blocks[0]
    variables = {variable.name: variable for variable in block.vars}

    def described(names: Sequence[str]) -> List[Dict[str, Any]]:
        return [
            {"name": name, "shape": list(dimensions(variables[name])), "type": element_type(variables[name])}
            for name in names
        ]

    feeds, fetches = (sorted((op for op in block.ops if op.type == kind), key=column) for kind in ("feed", "fetch"))
    inputs = [name for op in feeds for name in all_arguments(op.outputs)]
    outputs = [name for op in fetches for name in all_arguments(op.inputs)]
    return {"inputs": described(inputs), "outputs": described(outputs)}


def column(operator: Operator) -> int:
    """The place of a feed or fetch operator's variable among the inputs or outputs."""
    return next((attribute.i for attribute in operator.attrs if attribute.name == "col"), 0)


def element_type(variable: Variable) -> str:
    """The type of a variable's numbers, by NumPy's name."""
    kind = variable.type
    tensor = kind.dense_tensor if hasattr(kind, "dense_tensor") else kind.lod_tensor  # in Paddle 3 and in Paddle 2
    name = framework_pb2.VarType.Type.Name(tensor.tensor.data_type)
    return name.lower().replace("fp", "float").replace("bf16", "bfloat16")
