"""The types that a component's constructor may ask for, read from the syntax trees of its annotations.

The language: int, float, bool, str, None, Any, list[T], Sequence[T], tuple[...], dict[K, V], Optional[T],
Union[...], A | B, Literal[...], Part[T]; and around a whole annotation Shared[T] or Upstream[T] (see
`core.registry`).
"""

from __future__ import annotations

import ast
import itertools
import json
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from ppdet_repro.core.registry import PART, SHARED, UPSTREAM

ROLES = {"Shared": SHARED, "Upstream": UPSTREAM}
Alias = Callable[[str], Optional[ast.expr]]


@dataclass(frozen=True)
class Scalar:
    """int, float, bool, str or None; or Literal, which is one of `choices`."""

    name: str
    choices: Tuple[Any, ...] = ()


@dataclass(frozen=True)
class Anything:
    """Any value without components in it."""


@dataclass(frozen=True)
class PartOf:
    """Another component."""


@dataclass(frozen=True)
class ListOf:
    """A list of any length, which the constructor receives as a `container`."""

    item: Type
    container: type = list


@dataclass(frozen=True)
class TupleOf:
    """A list of fixed length, which the constructor receives as a tuple."""

    items: Tuple[Type, ...]


@dataclass(frozen=True)
class DictOf:
    """A mapping with any keys."""

    key: Type
    value: Type


@dataclass(frozen=True)
class OneOf:
    """A value of any of several types; the first that fits counts."""

    options: Tuple[Type, ...]


@dataclass(frozen=True)
class Record:
    """A mapping with fixed keys, their types and their defaults."""

    fields: Mapping[str, Type]
    defaults: Mapping[str, Any]


Type = Union[Scalar, Anything, PartOf, ListOf, TupleOf, DictOf, OneOf, Record]

SCALARS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
SIMPLE: Dict[str, Type] = {
    **{name: Scalar(name) for name in SCALARS},
    **{name: ListOf(Anything()) for name in ("list", "List", "Sequence")},
    **{name: ListOf(Anything(), tuple) for name in ("tuple", "Tuple")},
    **{name: DictOf(Anything(), Anything()) for name in ("dict", "Dict", "Mapping")},
    "Any": Anything(),
    "Part": PartOf(),
}

MAX_SPELLED = 200  # characters of a value in a message

NOUNS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "None": "null"}


def parse_annotation(annotation: ast.expr, alias: Alias = lambda name: None) -> Tuple[str, Type]:
    """The role (value, shared or upstream) and the type that a whole annotation stands for.

    `alias` returns the expression that the annotation's module assigned to a name. Raises a `TypeError` if the
    annotation is not in the type language.
    """
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return parse_annotation(ast.parse(annotation.value, mode="eval").body, alias)
    if isinstance(annotation, ast.Subscript):
        head, arguments = subscript(annotation)
        role = constant(arguments[1]) if head == "Annotated" else ROLES.get(head, "")
        if role in ROLES.values():
            return role, parse_type(arguments[0], alias)
    return "value", parse_type(annotation, alias)


def parse_type(node: ast.expr, alias: Alias = lambda name: None) -> Type:
    """The type that a part of an annotation stands for; arguments and errors as in `parse_annotation`."""
    if isinstance(node, ast.Constant) and node.value is None:
        return Scalar("None")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return parse_type(ast.parse(node.value, mode="eval").body, alias)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return union(parse_type(node.left, alias), parse_type(node.right, alias))
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = last_name(node)
        meaning = SIMPLE.get(name) or alias(name)
        if meaning is not None:
            return parse_type(meaning, alias) if isinstance(meaning, ast.expr) else meaning
    if isinstance(node, ast.Subscript):
        head, arguments = subscript(node)
        if head in ("Part", "Annotated") and (head == "Part" or constant(arguments[1]) == PART):
            return PartOf()
        if head == "Literal":
            return Scalar(head, tuple(ast.literal_eval(argument) for argument in arguments))
        if head in ("tuple", "Tuple"):
            if len(arguments) == 2 and constant(arguments[1]) is ...:
                return ListOf(parse_type(arguments[0], alias), tuple)
            return TupleOf(tuple(parse_type(argument, alias) for argument in arguments))
        types = [parse_type(argument, alias) for argument in arguments]
        if head == "Optional":
            return union(types[0], Scalar("None"))
        if head == "Union":
            return union(*types)
        if head in ("list", "List", "Sequence"):
            return ListOf(types[0])
        if head in ("dict", "Dict", "Mapping"):
            return DictOf(*types)
    raise TypeError(f"annotation {ast.unparse(node)!r} is not in the config's type language")


def union(*options: Type) -> OneOf:
    """One type for the options; unions inside unions are flattened."""
    flat: List[Type] = []
    for option in options:
        flat += option.options if isinstance(option, OneOf) else [option]
    return OneOf(tuple(flat))


def subscript(node: ast.Subscript) -> Tuple[str, list[ast.expr]]:
    """`typing.Union[A, B]` -> "Union", [A, B]."""
    inner = node.slice
    return last_name(node.value), inner.elts if isinstance(inner, ast.Tuple) else [inner]


def last_name(node: ast.expr) -> str:
    """`a.b.C` -> "C"; empty if the expression is not a name."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def constant(node: ast.expr) -> Any:
    """The value of a literal; None for any other expression."""
    return node.value if isinstance(node, ast.Constant) else None


def convert_scalar(type_: Type, value: Any) -> Any:
    """Convert a scalar to a type, or raise a `ValueError`. An integer can become a float; a bool is never a number."""
    if isinstance(type_, Scalar):
        for choice in type_.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        if type_.name == "float" and type(value) is int:
            return float(value)
        if type(value) is SCALARS.get(type_.name):
            return value
    raise ValueError(f"must be {describe(type_)}, got {spell(value)}")


def describe(type_: Type) -> str:
    """The type in words, to follow "must be"."""
    if isinstance(type_, Scalar):
        words = [spell(value) for value in type_.choices] or [NOUNS[type_.name]]
        return " or ".join(words) if len(words) < 3 else "one of " + ", ".join(words)
    if isinstance(type_, PartOf):
        return "a component"
    if isinstance(type_, ListOf):
        return "a list" if type_.item == Anything() else f"a list ({describe(type_.item)} each)"
    if isinstance(type_, TupleOf):
        return f"a list of {len(type_.items)} ({', '.join(map(describe, type_.items))})"
    if isinstance(type_, (DictOf, Record)):
        return "a mapping"
    if isinstance(type_, OneOf):
        return " or ".join(map(describe, type_.options))
    return "a plain value"


def spell(value: Any) -> str:
    """A plain value, written on one line as in YAML; a long one is cut off."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return shorten(f"[{', '.join(spell(item) for item in value[:MAX_SPELLED])}]")
    if isinstance(value, dict):
        pairs = (f"{key}: {spell(item)}" for key, item in itertools.islice(value.items(), MAX_SPELLED))
        return shorten("{" + ", ".join(pairs) + "}")
    return shorten(repr(value[:MAX_SPELLED] if isinstance(value, (str, bytes)) else value))


def shorten(text: str) -> str:
    """The beginning of a text that is too long for a message."""
    return text if len(text) <= MAX_SPELLED else f"{text[: MAX_SPELLED - 3]}..."
