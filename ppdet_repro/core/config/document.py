"""Documents: trees of values that remember the file and line they were written in, and how to merge two of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from ppdet_repro.utils.errors import UserError


class Origin(NamedTuple):
    """Where a value was written; `file` is None for the command line."""

    file: Optional[Path]
    line: int = 0

    def __str__(self) -> str:
        return "command line" if self.file is None else f"{display(self.file)}:{self.line}"


COMMAND_LINE = Origin(None)
MAX_PROBLEMS, MAX_TEXT = 50, 1000  # lines of a message, and characters of one of its lines


@dataclass(frozen=True)
class Node:
    """One value of a document."""

    value: Any  # a scalar, a list of nodes or a dict of nodes
    origin: Optional[Origin] = None  # the line of its key (its own line in a list); None for a constructor's default
    tag: Optional[str] = None  # the name in `!Name {...}`
    inherited: bool = False  # whether a base file wrote this key for another class than its child names; see `merge`

    @staticmethod
    def of(value: Any) -> Node:
        """A node without origin from plain Python data; tuples become lists."""
        if isinstance(value, dict):
            value = {key: Node.of(item) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            value = [Node.of(item) for item in value]
        return Node(value)

    def plain(self) -> Any:
        """The value as fresh plain Python data; a component becomes {name: ..., ...}."""
        if isinstance(self.value, dict):
            pairs = {key: item.plain() for key, item in self.value.items()}
            return {"name": self.tag, **pairs} if self.tag else pairs
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def display(path: Path) -> str:
    """The path as a user would write it: relative to the working directory if it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


class Problem(NamedTuple):
    """A mistake in a config and where it is (None: in no file)."""

    origin: Optional[Origin]
    text: str

    def __str__(self) -> str:
        text = self.text if len(self.text) <= MAX_TEXT else f"{self.text[: MAX_TEXT - 3]}..."
        return f"{self.origin}: {text}" if self.origin else text


Problems = List[Problem]


def raise_problems(problems: Problems) -> None:
    """Raise one `UserError` with a line per problem, ordered by file and line, the command line last.

    Only the first `MAX_PROBLEMS` have a line.
    """

    def place(problem: Problem) -> tuple:
        file, line = problem.origin or (None, 0)
        return problem.origin is None, file is None, str(file), line

    if problems:
        lines = list(dict.fromkeys(map(str, sorted(problems, key=place))))
        more = [f"... and {len(lines) - MAX_PROBLEMS:,} more problems"] if len(lines) > MAX_PROBLEMS else []
        raise UserError("\n".join(lines[:MAX_PROBLEMS] + more))


def merge(base: Node, child: Node) -> Node:
    """Lay a child over a base: mappings merge key by key; any other value replaces the base's.

    A tagged component is a single value, as in PaddleDetection: it replaces, and is replaced by, any mapping that
    names its class. A mapping that names no class adds to it. If the child names another class than its base, such as
    `{name: B}` over `{name: A}`, the base's keys are kept as `inherited`: B uses those that it has, no others.
    """
    if not isinstance(base.value, dict) or not isinstance(child.value, dict) or child.tag:
        return child
    old, new = class_form(base), class_form(child)
    if base.tag and new:
        return child
    if old and new and old.name != new.name:
        key = class_key(child) or "name"
        kept = {k: replace(node, inherited=True) for k, node in old.arguments.items()}
        return Node({key: Node(new.name, child.origin), **merge_pairs(kept, new.arguments)}, child.origin)
    if old and new and class_key(base) != class_key(child):
        pairs = merge_pairs(old.arguments, new.arguments)
        return Node({"name": Node(new.name, child.origin), **pairs}, base.origin)
    return Node(merge_pairs(base.value, child.value), base.origin, base.tag, child.inherited)


def merge_pairs(base: Mapping[Any, Node], child: Mapping[Any, Node]) -> Dict[Any, Node]:
    """Lay the child's keys over the base's, each by `merge`."""
    return {**base, **{key: merge(base[key], node) if key in base else node for key, node in child.items()}}


def merge_files(base: Node, child: Node) -> Node:
    """Lay a file, or the value of a section, over another file. The top level of a file never names a class.

    A section that names another class than its base, such as a VOCDataSet over a COCODataSet, starts anew: values like
    `image_dir` belong to the other one.
    """
    merged = merge_pairs(base.value, child.value)
    for key, node in child.value.items():
        old, new = class_of(base.value.get(key)), class_of(node)
        if old and new and old != new:
            merged[key] = node
    return Node(merged, child.origin)


def class_of(section: Optional[Node]) -> Optional[str]:
    """The class that a section's tag or `name` names."""
    if section is None or not isinstance(section.value, dict):
        return None
    key = class_key(section)
    return section.tag or (section.value[key].value if key else None)


def class_key(node: Node) -> Optional[str]:
    """The key by which a mapping names its class: `name`, else `type`, else None."""
    for key in ("name", "type"):
        if key in node.value and isinstance(node.value[key].value, str):
            return key
    return None


class PartForm(NamedTuple):
    """The class that a node names, and the arguments that it gives."""

    name: str
    arguments: Mapping[Any, Node]


def part_form(node: Node) -> Optional[PartForm]:
    """What a node of the form X, {name: X, ...}, {type: X, ...}, {X: {...}} or !X {...} names; None for other nodes."""
    if isinstance(node.value, str):
        return PartForm(node.value, {})
    if not isinstance(node.value, dict):
        return None
    if node.tag:
        return PartForm(node.tag, node.value)
    key = class_key(node)
    if key:
        return PartForm(node.value[key].value, {k: item for k, item in node.value.items() if k != key})
    if len(node.value) == 1:
        ((name, inner),) = node.value.items()
        if isinstance(name, str) and (inner.value is None or isinstance(inner.value, dict)):
            return PartForm(name, inner.value or {})
    return None


def class_form(node: Node) -> Optional[PartForm]:
    """`part_form` of a mapping that names a class. Classes begin with a capital, so {momentum: {...}} names none."""
    form = part_form(node)
    return form if form and form.name[:1].isupper() else None
