"""Saved inference programs (.pdmodel) as protobuf messages."""

from __future__ import annotations

from pathlib import Path
from typing import List

from google.protobuf.message import DecodeError
from paddle.base.proto import framework_pb2

from ppdet_repro.utils.errors import UserError

Program = framework_pb2.ProgramDesc
Block = framework_pb2.BlockDesc
Operator = framework_pb2.OpDesc
Variable = framework_pb2.VarDesc


def read_program(path: Path) -> Program:
    """Read a .pdmodel file.

    Paddle itself crashes on some files that are not programs, so every file is read here first.

    Raises:
        UserError: The file cannot be read, is not a program, or is empty.
    """
    program = Program()
    try:
        program.ParseFromString(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the model: {error.strerror}") from error
    except DecodeError as error:
        raise UserError(f"{path} is not a Paddle model, or is damaged; export it again") from error
    if not program.blocks:
        raise UserError(f"{path} is an empty Paddle model; export it again")
    return program


def operator_types(program: Program) -> List[str]:
    """The types of a program's operators, in their order."""
    return [operator.type for block in program.blocks for operator in block.ops]
