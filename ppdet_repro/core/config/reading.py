"""Reads YAML files and overrides into a document.

The dialect is PaddleDetection's: `_BASE_` names files to start from, and `!Name {...}` is a component.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Sequence

import yaml

from ppdet_repro.core.config.document import COMMAND_LINE, Node, Origin, Problem, Problems, display, merge, merge_files
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.packaged import nearest_packaged, own_or_packaged

BASE = "_BASE_"
MERGE_TAG = "tag:yaml.org,2002:merge"


def load_document(path: Path, overrides: Sequence[str], problems: Problems, over: Optional[Path] = None) -> Node:
    """Merge a config file and its bases, then the file `over`, then overrides of the form `a.b.c=value`.

    Duplicate keys and bad overrides are appended to `problems`. Raises a `UserError` if a file is missing, unreadable
    or not YAML, or if base files include each other in a cycle.
    """
    document = load_file(path.absolute(), (), problems)
    if over is not None:
        document = merge_files(document, load_file(over.absolute(), (), problems))
    for override in overrides:
        try:
            document = apply_override(document, override, problems)
        except ValueError as error:
            problems.append(Problem(COMMAND_LINE, f"override {override!r}: {error}"))
    return document


def load_file(path: Path, chain: Sequence[Path], problems: Problems) -> Node:
    """One file merged over its base files; `chain` holds the files that include it, outermost first."""
    path = Path(os.path.normpath(path))
    if path in chain:
        cycle = " -> ".join(display(p) for p in (*chain[chain.index(path) :], path))
        raise UserError(f"{display(chain[-1])}: {BASE} files include each other in a cycle: {cycle}")
    document = parse(read_text(path, chain), path, problems)
    own = Node({key: node for key, node in document.value.items() if key != BASE}, document.origin)
    merged = Node({}, document.origin)
    for name in base_names(document.value.get(BASE, Node([]))):
        base = own_or_packaged(path.parent / Path(name).expanduser(), name)
        merged = merge_files(merged, load_file(base, (*chain, path), problems))
    return merge_files(merged, own)


def read_text(path: Path, chain: Sequence[Path]) -> str:
    """The text of a file. If it cannot be read, the `UserError` names the file that includes it."""
    wanted = f" (named by {BASE} in {display(chain[-1])})" if chain else ""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        packaged = ", ".join(nearest_packaged(path))
        hint = f"; the packaged configs with the most similar names: {packaged}" if packaged else ""
        raise UserError(f"{display(path)}: no such file{wanted}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{display(path)}: cannot be read{wanted}: {error}") from error


def base_names(base: Node) -> list[str]:
    """The file names in the value of `_BASE_`, which is a string or a list of strings."""
    names = base.plain() if isinstance(base.value, list) else [base.value]
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{base.origin}: {BASE} must be a file name or a list of file names, got {name!r}")
    return names


def parse(text: str, path: Path, problems: Problems) -> Node:
    """The mapping in the text of a file. An empty file is an empty mapping."""
    document = compose(text, path, problems) or Node({}, Origin(path, 1))
    if not isinstance(document.value, dict) or document.tag:
        raise UserError(f"{document.origin}: a config is a mapping of keys to values")
    return document


def compose(text: str, path: Optional[Path], problems: Problems) -> Optional[Node]:
    """The node for a YAML text, None if the text is empty. `path` is None for the command line."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        return None if root is None else Converter(loader, path, problems).convert(root)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).replace("\n", " ")
        if path is None:
            raise ValueError(f"the value is not valid YAML: {reason}") from error
        raise UserError(f"{Origin(path, mark.line + 1 if mark else 1)}: not valid YAML: {reason}") from error


class Converter:
    """Converts the nodes of PyYAML to ours. Scalars get the types of YAML 1.1."""

    def __init__(self, loader: yaml.SafeLoader, path: Optional[Path], problems: Problems):
        self.loader, self.path, self.problems = loader, path, problems
        self.open: list[yaml.Node] = []

    def convert(self, node: yaml.Node, origin: Optional[Origin] = None) -> Node:
        origin = origin or self.origin(node)
        if node in self.open:
            raise UserError(f"{origin}: an alias contains itself")
        tag = node.tag[1:] if re.fullmatch(r"!\w+", node.tag) else None  # YAML's own tags have another form
        if tag and isinstance(node, yaml.ScalarNode) and not node.value:
            return Node({}, origin, tag)
        if tag and not isinstance(node, yaml.MappingNode):
            raise UserError(f"{origin}: !{tag} must be followed by a mapping of parameters")
        if isinstance(node, yaml.ScalarNode):
            return Node(self.loader.construct_object(node), origin)
        self.open.append(node)
        value = self.mapping(node) if isinstance(node, yaml.MappingNode) else [self.convert(i) for i in node.value]
        self.open.pop()
        return Node(value, origin, tag)

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Node]:
        """The pairs of a mapping. A key given twice is a problem; `<<` adds the keys that are not given."""
        pairs: dict[Any, Node] = {}
        lines: dict[Any, int] = {}
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
                self.problems.append(Problem(origin, f"{key!r} is given twice, first in line {lines[key]}"))
            pairs[key], lines[key] = self.convert(value_node, origin), origin.line
        for mapping in included:
            if not isinstance(mapping, yaml.MappingNode):
                raise UserError(f"{self.origin(mapping)}: the value of '<<' must be a mapping or a list of mappings")
            pairs = {**self.convert(mapping).value, **pairs}
        return pairs

    def origin(self, node: yaml.Node) -> Origin:
        return COMMAND_LINE if self.path is None else Origin(self.path, node.start_mark.line + 1)


def apply_override(document: Node, override: str, problems: Problems) -> Node:
    """Merge `a.b.c=value` into a document, or raise a `ValueError`. A number in the path is an index into a list."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError("it is not of the form a.b.c=value")
    value = compose(text, None, problems) or Node(None, COMMAND_LINE)
    section = put(document.value.get(keys[0]), keys[1:], value, keys[0])
    return replace(document, value={**document.value, keys[0]: section})


def put(node: Optional[Node], keys: Sequence[str], value: Node, here: str) -> Node:
    """Merge `value` into `node` at the path `keys`; `here` is the path of `node` itself, for messages."""
    if node is None or (node.value is None and keys):
        node = Node({} if keys else None, COMMAND_LINE)
    if not keys:
        return merge(node, value)
    key, rest, below = keys[0], keys[1:], f"{here}.{keys[0]}"
    if isinstance(node.value, dict):
        return merge(node, Node({key: put(node.value.get(key), rest, value, below)}, COMMAND_LINE))
    if isinstance(node.value, list):
        if not key.isdigit() or int(key) >= len(node.value):
            raise ValueError(f"{here} has {len(node.value)} items, counted from 0, but no {key!r}")
        items = list(node.value)
        items[int(key)] = put(items[int(key)], rest, value, below)
        return replace(node, value=items, origin=COMMAND_LINE)
    hint = f"; override {node.value}.{'.'.join(keys)}" if isinstance(node.value, str) else ""
    raise ValueError(f"{here} is {node.value!r} and has no {key!r} inside{hint}")
