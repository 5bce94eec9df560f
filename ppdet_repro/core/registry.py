"""Registers the components that a YAML file can name, and marks where their parameters come from.

`@register` makes a class a component; the name of the class is its name in YAML. The annotation of a constructor
parameter says where its value comes from:

    backbone: Part[nn.Layer]          another component: a name, {name: X, ...}, {X: {...}} or !X {...}
    transforms: list[Part[Any]]       a list of components
    num_classes: Shared[int] = 80     the component's own section, else the top level, else the default
    in_channels: Upstream[list[int]]  the output of the previous part; the YAML only if there is none
    depth: int = 50                   a plain value

The name of an `Upstream` parameter says which property of the previous part's `out_shape` it receives: the strides if
it contains `stride`, their reciprocals if it contains `scale`, otherwise the channels.
"""

from __future__ import annotations

from typing import Annotated, Mapping, TypeVar

T = TypeVar("T")

PART, SHARED, UPSTREAM = "part", "shared", "upstream"
Part = Annotated[T, PART]
Shared = Annotated[T, SHARED]
Upstream = Annotated[T, UPSTREAM]

_registered: dict[str, type] = {}


def register(cls: type) -> type:
    """Make a class a component. Raises a `ValueError` if another class of that name is one already."""
    known = _registered.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"component {cls.__name__!r} is registered twice: {known.__module__} and {cls.__module__}")
    _registered[cls.__name__] = cls
    return cls


def registered() -> Mapping[str, type]:
    """The classes registered so far by name. Those of modules that are not imported yet are missing."""
    return _registered
