"""Saved inference programs of Paddle 2 (.pdmodel) and of Paddle 3 (.json), beside their parameters (.pdiparams)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from paddle import inference

from ppdet_repro.paddle_private.bias_fusion import remove_bias_reshapes
from ppdet_repro.paddle_private.pir_program import pir_operator_types, pir_signature, read_pir
from ppdet_repro.paddle_private.program import operator_types, program_signature, read_program, write_program
from ppdet_repro.paddle_private.versions import PADDLE, PROGRAM_SUFFIX, SAVES_PIR
from ppdet_repro.utils.errors import UserError


def saved_program(prefix: Path) -> Path:
    """The program that `paddle.jit.save` wrote to `prefix`, or would write if there is none."""
    protobuf = prefix.with_suffix(".pdmodel")
    return protobuf if protobuf.is_file() else prefix.with_suffix(PROGRAM_SUFFIX)


def is_pir(path: Path) -> bool:
    """Whether a file is a program of Paddle 3, by its name."""
    return path.suffix == ".json"


def read_operators(path: Path) -> List[str]:
    """The types of a program's operators, in execution order, by the names that they have in Paddle 2.

    Paddle crashes on some files that are not programs, so every file is read here first. Raises UserError if the file
    is not a program, or if the installed Paddle cannot read it.
    """
    if not is_pir(path):
        return operator_types(read_program(path))
    if not SAVES_PIR:
        raise UserError(
            f"{path} is an export of Paddle 3, which the installed Paddle {PADDLE} cannot read; install Paddle 3, or "
            "export the model again with this one"
        )
    return pir_operator_types(read_pir(path))


def signature(path: Path) -> Dict[str, List[Dict[str, Any]]]:
    """The `inputs` and `outputs` of a program in their order: name, shape with -1 for free sizes, and NumPy's name of
    the type. UserError if the file is not a program."""
    return pir_signature(read_pir(path)) if is_pir(path) else program_signature(read_program(path))


def inference_config(path: Path) -> inference.Config:
    """The configuration of Paddle Inference for a program, in the intermediate representation that it was saved in."""
    config = inference.Config(str(path), str(path.with_suffix(".pdiparams")))
    if is_pir(path):
        config.enable_new_ir(True)
        config.enable_new_executor(True)  # without it, `enable_memory_optim` fails
    return config


def fuse_biases(path: Path) -> None:
    """Change a saved program so that inference engines fuse the biases of convolutions; see `bias_fusion`.

    Paddle 3 finds the biases by itself.
    """
    if not is_pir(path):
        program = read_program(path)
        remove_bias_reshapes(program)
        write_program(program, path)
