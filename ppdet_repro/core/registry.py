"""Components that a YAML file can name, and what their constructors' annotations mean.

A class becomes a component with `@register`; its name is the name in YAML.
Constructor parameters say by their annotation where a value comes from:

    backbone: Part[nn.Layer]        another component: a name, {name: X, ...}, {X: {...}} or !X {...}
    transforms: list[Part[Any]]     a list of them
    num_classes: Shared[int] = 80   the component's own section, else the top level, else the default
    in_channels: Upstream[list[int]]  the YAML, else the previous part's output; both must agree
    depth: int = 50                 a plain value

What an `Upstream` parameter receives is told by its name: one with `stride` in it the strides of the previous
part's `out_shape`, one with `scale` in it their reciprocals, any other the channels.
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
    """Make a class a component that YAML can name. Two classes of one name are an error."""
    known = _registered.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"component {cls.__name__!r} is registered twice: {known.__module__} and {cls.__module__}")
    _registered[cls.__name__] = cls
    return cls


def registered() -> Mapping[str, type]:
    """The classes registered so far, those of modules that nobody imported yet missing."""
    return _registered
