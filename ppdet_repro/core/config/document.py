"""YAML files as trees whose every value remembers the file and line it was written in.

The dialect is PaddleDetection's: `_BASE_` names files to start from, `!Name {...}` is a component.
Nothing here knows what the keys mean.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import yaml

from ppdet_repro.utils.errors import UserError

BASE = "_BASE_"
MERGE_TAG = "tag:yaml.org,2002:merge"


class Origin(NamedTuple):
    """Where a value was written; `file` is None for the command line."""

    file: Optional[Path]
    line: int = 0

    def __str__(self) -> str:
        return "command line" if self.file is None else f"{display(self.file)}:{self.line}"


COMMAND_LINE = Origin(None)


class OverrideError(Exception):
    """What is wrong with one override."""


@dataclass(frozen=True)
class Node:
    """One value of a document.

    `value` is a scalar, a list of nodes or a dict of nodes. `origin` is the line of the value's key (of
    the value itself in a list), None for a constructor's default. `tag` is the name of `!Name {...}`.
    `inherited` marks a key that a base wrote for another class than the one its child names (see `merge`).
    """

    value: Any
    origin: Optional[Origin] = None
    tag: Optional[str] = None
    inherited: bool = False

    @staticmethod
    def of(value: Any) -> Node:
        """Plain Python data as a node without origin; tuples become lists."""
        if isinstance(value, dict):
            value = {key: Node.of(item) for key, item in value.items()}
        elif isinstance(value, (list, tuple)):
            value = [Node.of(item) for item in value]
        return Node(value)

    def plain(self) -> Any:
        """The value as fresh plain Python data; components as {name: ..., ...}."""
        if isinstance(self.value, dict):
            named = {"name": self.tag} if self.tag else {}
            return {**named, **{key: item.plain() for key, item in self.value.items()}}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def display(path: Path) -> str:
    """A path as a user would write it: relative to the working directory where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


class Problem(NamedTuple):
    """A user's mistake and where it is (None: in no file)."""

    origin: Optional[Origin]
    text: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}" if self.origin else self.text


Problems = List[Problem]


def raise_problems(problems: Problems) -> None:
    """All problems as one `UserError`, a line each in the order of files and lines, the command line last."""

    def place(problem: Problem) -> tuple:
        file, line = problem.origin or (None, 0)
        return problem.origin is None, file is None, str(file), line

    if problems:
        raise UserError("\n".join(dict.fromkeys(str(problem) for problem in sorted(problems, key=place))))


def load_document(
    path: Union[str, Path], overrides: Sequence[str], problems: Problems, over: Optional[Union[str, Path]] = None
) -> Node:
    """The mapping that a file, its bases, a second file `over` it and `overrides` (`a.b.c=value`) make together.

    Duplicate keys and bad overrides are added to `problems`.
    UserError: a missing or unreadable file, bad YAML, a cycle of bases.
    """
    document = load_file(Path(path).expanduser().absolute(), (), problems)
    if over is not None:
        document = merge_documents(document, load_file(Path(over).expanduser().absolute(), (), problems))
    for override in overrides:
        try:
            document = apply_override(document, override, problems)
        except OverrideError as error:
            problems.append(Problem(COMMAND_LINE, f"override {override!r}: {error}"))
    return document


def load_file(path: Path, chain: Sequence[Path], problems: Problems) -> Node:
    """One file merged over its bases; `chain` are the files that include it, outermost first."""
    path = Path(os.path.normpath(path))
    if path in chain:
        cycle = " -> ".join(display(p) for p in (*chain[chain.index(path) :], path))
        raise UserError(f"{display(chain[-1])}: {BASE} goes in a circle: {cycle}")
    document = parse(read_text(path, chain), path, problems)
    own = Node({key: node for key, node in document.value.items() if key != BASE}, document.origin)
    merged = Node({}, document.origin)
    for name in base_names(document.value.get(BASE, Node([]))):
        base = load_file(path.parent / Path(name).expanduser(), (*chain, path), problems)
        merged = merge_documents(merged, base)
    return merge_documents(merged, own)


def read_text(path: Path, chain: Sequence[Path]) -> str:
    """A file's text; UserError names the file that includes it."""
    wanted = f" (named by {BASE} in {display(chain[-1])})" if chain else ""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{display(path)}: no such file{wanted}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{display(path)}: cannot be read{wanted}: {error}") from error


def base_names(base: Node) -> list[str]:
    """The files that `_BASE_` names: a string or a list of strings."""
    names = base.plain() if isinstance(base.value, list) else [base.value]
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{base.origin}: {BASE} wants a file name or a list of them, got {name!r}")
    return names


def parse(text: str, path: Path, problems: Problems) -> Node:
    """The mapping that a file's text holds (an empty file is an empty mapping)."""
    document = compose(text, path, problems) or Node({}, Origin(path, 1))
    if not isinstance(document.value, dict) or document.tag:
        raise UserError(f"{document.origin}: a config is a mapping of keys to values")
    return document


def compose(text: str, path: Optional[Path], problems: Problems) -> Optional[Node]:
    """Safe YAML as a node, None if there is no document in the text; `path` None is the command line."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        return None if root is None else Converter(loader, path, problems).convert(root)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).replace("\n", " ")
        if path is None:
            raise OverrideError(f"the value is not valid YAML: {reason}") from error
        raise UserError(f"{Origin(path, mark.line + 1 if mark else 1)}: not valid YAML: {reason}") from error


class Converter:
    """Turns PyYAML's nodes into ours; scalars get the types that YAML 1.1 gives them."""

    def __init__(self, loader: yaml.SafeLoader, path: Optional[Path], problems: Problems):
        self.loader = loader
        self.path = path
        self.problems = problems
        self.open: list[yaml.Node] = []

    def convert(self, node: yaml.Node, origin: Optional[Origin] = None) -> Node:
        origin = origin or self.origin(node)
        if node in self.open:
            raise UserError(f"{origin}: an alias contains itself")
        tag = component_tag(node)
        if tag and isinstance(node, yaml.ScalarNode) and not node.value:
            return Node({}, origin, tag)
        if tag and not isinstance(node, yaml.MappingNode):
            raise UserError(f"{origin}: !{tag} wants a mapping of parameters")
        if isinstance(node, yaml.ScalarNode):
            return Node(self.loader.construct_object(node), origin)
        self.open.append(node)
        if isinstance(node, yaml.SequenceNode):
            value = [self.convert(item) for item in node.value]
        else:
            value = self.mapping(node)
        self.open.pop()
        return Node(value, origin, tag)

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Node]:
        """The pairs of a mapping; a key given twice is an error, `<<` brings in what is not given."""
        pairs: dict[Any, Node] = {}
        included: list[yaml.Node] = []
        for key_node, value_node in node.value:
            origin = self.origin(key_node)
            if key_node.tag == MERGE_TAG:
                included += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{origin}: a key must be a single word, not a list or a mapping")
            key = self.loader.construct_object(key_node)
            if key in pairs:
                first = pairs[key].origin.line
                self.problems.append(Problem(origin, f"{key!r} is given twice, first in line {first}"))
            pairs[key] = self.convert(value_node, origin)
        for mapping in included:
            if not isinstance(mapping, yaml.MappingNode):
                raise UserError(f"{self.origin(mapping)}: '<<' wants a mapping or a list of mappings")
            pairs = {**self.convert(mapping).value, **pairs}
        return pairs

    def origin(self, node: yaml.Node) -> Origin:
        return COMMAND_LINE if self.path is None else Origin(self.path, node.start_mark.line + 1)


def component_tag(node: yaml.Node) -> Optional[str]:
    """`Name` of a `!Name` tag, None for YAML's own tags."""
    return node.tag[1:] if re.fullmatch(r"!\w+", node.tag) else None


def merge(base: Node, child: Node) -> Node:
    """The child over the base: mappings merge key by key, everything else replaces.

    A tagged component is one value, as in PaddleDetection: it replaces, and is replaced by, any mapping that
    names its class; a mapping that names none adds to it.
    A child that names another class than its base (`{name: B}` over `{name: A}`) keeps the base's keys,
    marked `inherited`: class B takes those that it has and never sees the others.
    """
    if not isinstance(base.value, dict) or not isinstance(child.value, dict) or child.tag:
        return child
    old, new = class_of(base), class_of(child)
    if base.tag and new:
        return child
    if old and new and old != new:
        key = class_key(child) or "name"
        kept = {k: replace(node, inherited=True) for k, node in part_form(base)[1].items()}
        return Node({key: Node(new, child.origin), **merge_pairs(kept, part_form(child)[1])}, child.origin)
    if old and new and class_key(base) != class_key(child):
        return merge(named(base), named(child))
    return Node(merge_pairs(base.value, child.value), base.origin, base.tag)


def merge_pairs(base: Mapping[Any, Node], child: Mapping[Any, Node]) -> Dict[Any, Node]:
    """Key by key."""
    return {**base, **{key: merge(base[key], node) if key in base else node for key, node in child.items()}}


def merge_documents(base: Node, child: Node) -> Node:
    """Whole files: their top level names no class."""
    return Node(merge_pairs(base.value, child.value), child.origin)


def class_key(node: Node) -> Optional[str]:
    """The key of a mapping that names its class: `name`, else `type`, else None."""
    for key in ("name", "type"):
        if key in node.value and isinstance(node.value[key].value, str):
            return key
    return None


def part_form(node: Node) -> Optional[Tuple[str, Mapping[Any, Node]]]:
    """The class that a node names and the parameters it gives; None if it names none.

    The forms: X, {name: X, ...}, {type: X, ...}, {X: {...}}, !X {...}.
    """
    if isinstance(node.value, str):
        return node.value, {}
    if not isinstance(node.value, dict):
        return None
    if node.tag:
        return node.tag, node.value
    key = class_key(node)
    if key:
        return node.value[key].value, {k: item for k, item in node.value.items() if k != key}
    if len(node.value) == 1:
        ((name, inner),) = node.value.items()
        if isinstance(name, str) and (inner.value is None or isinstance(inner.value, dict)):
            return name, inner.value or {}
    return None


def class_of(node: Node) -> Optional[str]:
    """The class that a mapping names; classes begin with a capital, so {momentum: {...}} is none."""
    form = part_form(node)
    return form[0] if form and form[0][:1].isupper() else None


def named(node: Node) -> Node:
    """A mapping that names a class as {name: X, ...}."""
    name, arguments = part_form(node)
    return Node({"name": Node(name, node.origin), **arguments}, node.origin)


def apply_override(document: Node, override: str, problems: Problems) -> Node:
    """The document with `a.b.c=value` merged in; the value is YAML, a number in the path indexes a list."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise OverrideError("it is not of the form a.b.c=value")
    value = compose(text, None, problems) or Node(None, COMMAND_LINE)
    key, rest = keys[0], keys[1:]
    return replace(document, value={**document.value, key: put(document.value.get(key), rest, value, key)})


def put(node: Optional[Node], keys: Sequence[str], value: Node, here: str) -> Node:
    """`node`, which stands at the path `here`, with `value` merged in at the path `keys` below it."""
    if node is None or (node.value is None and keys):
        node = Node({} if keys else None, COMMAND_LINE)
    if not keys:
        return merge(node, value)
    key, rest = keys[0], keys[1:]
    below = f"{here}.{key}"
    if isinstance(node.value, dict):
        return merge(node, Node({key: put(node.value.get(key), rest, value, below)}, COMMAND_LINE))
    if isinstance(node.value, list):
        if not key.isdigit() or int(key) >= len(node.value):
            raise OverrideError(f"{here} has {len(node.value)} items, counted from 0, but no {key!r}")
        items = list(node.value)
        items[int(key)] = put(items[int(key)], rest, value, below)
        return replace(node, value=items, origin=COMMAND_LINE)
    hint = f"; override {node.value}.{'.'.join(keys)}" if isinstance(node.value, str) else ""
    raise OverrideError(f"{here} is {node.value!r} and has no {key!r} inside{hint}")
