"""Tracing into programs of Paddle 2 (protobuf, .pdmodel) on Paddle 3.

Paddle 3 traces into PIR programs, but still has the older representation, runs it, and has its int8 tools for nothing
else. Some of its functions have lost the code for that representation. The table below adds it again: each such
function appends the operator of Paddle 2 that computes the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Union

import paddle
from paddle.base.framework import Variable, convert_np_dtype_to_dtype_
from paddle.base.layer_helper import LayerHelper

from ppdet_repro.paddle_private.versions import PADDLE, SAVES_PIR
from ppdet_repro.utils.errors import UserError

Function = Callable[..., Any]


@contextmanager
def protobuf_tracing() -> Iterator[None]:
    """Within the block, `paddle.jit.save` writes a program of Paddle 2 (.pdmodel), as Paddle 2 does always.

    Static graph mode also works on such programs. Mode and functions are as before afterwards. Tracing a function
    that Paddle 3 cannot write, and the table lacks, raises UserError.
    """
    if not SAVES_PIR:
        yield
        return
    from paddle.pir_utils import OldIrGuard  # not in Paddle 2

    dynamic = paddle.in_dynamic_mode()
    with OldIrGuard(), patched_functions():
        if dynamic:
            paddle.disable_static()  # the guard switched to static graph mode; it leaves it at the end
        yield


@contextmanager
def patched_functions() -> Iterator[None]:
    """Within the block, functions that lack the code for programs of Paddle 2 have it."""
    from paddle.base.dygraph import generated_tensor_methods_patch as generated  # not in Paddle 2

    places = [
        *((paddle, name, function) for name, function in generated.funcs_map),
        *((paddle.tensor, name, function) for name, function in generated.methods_map),
        *((Variable, name, function) for name, function in generated.methods_map),
        *((paddle.nn.functional, name, function) for name, function in generated.nn_funcs_map),
    ]
    before = [(place, name, vars(place).get(name)) for place, name, _ in places]
    for place, name, function in places:
        setattr(place, name, traceable(name, function))
    try:
        yield
    finally:
        for place, name, function in before:
            delattr(place, name) if function is None else setattr(place, name, function)


def traceable(name: str, function: Function) -> Function:
    """The function of this name, which also accepts variables of a program of Paddle 2."""

    @paddle.jit.not_to_static  # it would also rewrite this module
    def call(x: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(x, Variable):
            return function(x, *arguments, **options)
        if name not in OPERATORS:
            raise UserError(f"Paddle {PADDLE} cannot write {name} to a .pdmodel file, which int8 needs; use Paddle 2.6")
        return OPERATORS[name](x, *arguments, **options)

    return call


def append(
    kind: str, inputs: Dict[str, Any], attributes: Optional[Dict[str, Any]] = None, dtype: Optional[str] = None
) -> Any:
    """Append an operator to the program that is traced, and return its output, of the first input's type or `dtype`."""
    helper = LayerHelper(kind)
    out = helper.create_variable_for_type_inference(dtype or next(iter(inputs.values())).dtype)
    helper.append_op(type=kind, inputs=inputs, outputs={"Out": out}, attrs=dict(attributes or {}))
    return out


def unary(kind: str) -> Function:
    return lambda x, name=None: append(kind, {"X": x})


def binary(kind: str, dtype: Optional[str] = None) -> Function:
    return lambda x, y, name=None: append(kind, {"X": x, "Y": y}, {"axis": -1}, dtype)


def argmax(x: Any, axis: int, keepdim: bool = False, dtype: str = "int64", name: Optional[str] = None) -> Any:
    attributes = {"axis": axis, "keepdims": keepdim, "flatten": False, "dtype": convert_np_dtype_to_dtype_(dtype)}
    return append("arg_max", {"X": x}, attributes, dtype)


def expand_as(x: Any, y: Any, name: Optional[str] = None) -> Any:
    return append("expand_as_v2", {"X": x, "Y": y}, {"target_shape": list(y.shape)})


def matmul(x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False, name: Optional[str] = None) -> Any:
    return append("matmul_v2", {"X": x, "Y": y}, {"trans_x": transpose_x, "trans_y": transpose_y})


def total(
    x: Any,
    axis: Union[None, int, Sequence[int]] = None,
    dtype: None = None,
    keepdim: bool = False,
    name: Optional[str] = None,
) -> Any:
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    return append("reduce_sum", {"X": x}, {"dim": axes, "keep_dim": keepdim, "reduce_all": not axes})


UNARY = ("abs", "ceil", "exp", "floor", "log", "round", "rsqrt", "sigmoid", "sqrt", "tanh")
BINARY = {"maximum": "max", "minimum": "min", "multiply": "mul"}
COMPARING = ("greater_than", "logical_and", "logical_or")
OPERATORS: Dict[str, Function] = {  # what the detectors use of the functions that Paddle 3.2 and 3.3 cannot trace
    **{name: unary(name) for name in UNARY},
    **{name: binary(f"elementwise_{kind}") for name, kind in BINARY.items()},
    **{name: binary(name, "bool") for name in COMPARING},
    "argmax": argmax,
    "expand_as": expand_as,
    "matmul": matmul,
    "sum": total,
}
