"""Saved inference programs of Paddle 3 (model.json).

The file is JSON. Its operators have the name of their dialect, shortened to a digit, in front: `1.conv2d` is
`pd_op.conv2d`. Names that end in an underscore work in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

from ppdet_repro.utils.errors import UserError

PirOperator = Dict[str, Any]
PADDLE_2_NAMES = {"add": "elementwise_add", "multiply": "elementwise_mul", "grid_sample": "grid_sampler"}
PARAMETER = "p"  # the short form of builtin.parameter
TYPES = {
    "t_f16": "float16", "t_bf16": "bfloat16", "t_f32": "float32", "t_f64": "float64", "t_bool": "bool",
    "t_i8": "int8", "t_ui8": "uint8", "t_i16": "int16", "t_i32": "int32", "t_i64": "int64",
}  # fmt: skip


def read_pir(path: Path) -> List[PirOperator]:
    """The operators of a .json file, in execution order. UserError if it cannot be read or is not a program."""
    try:
        content = json.loads(path.read_bytes())
        if content["base_code"]["magic"] != "pir":
            raise ValueError("no program of Paddle 3")
        operators = list(walk(content["program"]))
    except OSError as error:
        raise UserError(f"{path}: cannot read the model: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a Paddle model, or is damaged; export it again") from error
    if not operators:
        raise UserError(f"{path} is an empty Paddle model; export it again")
    return operators


def walk(part: Dict[str, Any]) -> Iterator[PirOperator]:
    """The operators of a program or of an operator's regions."""
    for region in part.get("regions", ()):
        for block in region["blocks"]:
            for operator in block["ops"]:
                if not isinstance(operator["#"], str):
                    raise TypeError("an operator has no name")
                yield operator
                yield from walk(operator)


def pir_operator_types(operators: List[PirOperator]) -> List[str]:
    """The types of operators without parameters, by the names that they have in Paddle 2."""
    names = [operator["#"].split(".")[-1].rstrip("_") for operator in operators if operator["#"] != PARAMETER]
    return [PADDLE_2_NAMES.get(name, name) for name in names]


def pir_inputs(operators: List[PirOperator]) -> Dict[str, List[int]]:
    """The shape of each input of a program by name, with -1 for free sizes, in the program's order."""
    inputs = [operator for operator in operators if operator["#"].split(".")[-1] in ("data", "feed")]
    attributes = [{entry["N"]: entry["AT"]["D"] for entry in operator["A"]} for operator in inputs]
    return {entry["name"]: list(entry["shape"]) for entry in attributes}


def pir_signature(operators: List[PirOperator]) -> Dict[str, List[Dict[str, Any]]]:
    """The inputs and outputs of a program; see `saved_program.signature`."""
    found: Dict[str, List[Dict[str, Any]]] = {"inputs": [], "outputs": []}
    for operator in operators:
        kind = operator["#"].split(".")[-1]
        if kind in ("data", "feed", "fetch"):
            name = next(entry["AT"]["D"] for entry in operator["A"] if entry["N"] == "name")
            element, shape = operator["O"][0]["TT"]["D"][:2]
            type_ = element["#"].split(".")[-1]
            described = {"name": name, "shape": shape, "type": TYPES.get(type_, type_)}
            found["outputs" if kind == "fetch" else "inputs"].append(described)
    return found
