"""Tracing without Paddle's translation of the source.

`to_static` rewrites the source of all functions that it traces, so that branches on values and unknown sizes become
operators. That takes most of the time of an export. This package's layers need none of it: none branches on values, and
sizes come from `modeling.sizes`. Layers that others have added may need it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Iterator, Set

import paddle
from paddle import nn

KNOWN = {__name__.split(".", maxsplit=1)[0], "paddle", "numpy", "builtins", "collections", "functools"}


class AsWritten(nn.Layer):
    """A network that is traced as it is written."""

    def __init__(self, network: nn.Layer):
        super().__init__()
        self.network = network

    @paddle.jit.not_to_static
    def forward(self, inputs: Any) -> Any:
        return self.network(inputs)


def quick_to_trace(network: nn.Layer) -> nn.Layer:
    """The network for `to_static`: traced as it is written if all of its code is this package's and Paddle's."""
    return AsWritten(network) if {module.split(".")[0] for module in modules(network, set())} <= KNOWN else network


def modules(value: Any, seen: Set[int]) -> Iterator[str]:
    """The modules of the classes and functions of an object and of all that its attributes hold."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield getattr(value, "__module__", None) or type(value).__module__
    if isinstance(value, dict):
        held = list(value.values())
    elif isinstance(value, (list, tuple, set)):
        held = list(value)
    elif isinstance(value, partial):
        held = [value.func, value.args, value.keywords]
    else:
        held = list(getattr(value, "__dict__", {}).values())
    for part in held:
        yield from modules(part, seen)
