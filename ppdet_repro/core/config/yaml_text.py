"""Reads YAML texts as nodes. Time and memory are bounded, whatever the text contains.

The parser is PyYAML's. It reads any size and depth, and aliases can make a few lines stand for more values than a
machine can hold; so bytes, values and depth are counted, those of aliases as often as they occur. The limits are far
above what configs and the label lists of exported models need.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml

from ppdet_repro.core.config.document import COMMAND_LINE, Node, Origin, Problem, Problems, display, raise_problems
from ppdet_repro.utils.errors import UserError

MAX_BYTES = 1 << 19  # of all files of a config
MAX_VALUES = 20_000  # in all files of a config; a mapping of 3 keys is 4 values
MAX_DEPTH = 40  # of lists and mappings in each other
MAX_FILES = 100
MAX_NUMBER = 100  # characters of a number or a date
MERGE_TAG = "tag:yaml.org,2002:merge"
TEXT_TAG, BYTES_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:binary"
COLLECTION_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")  # neither a file name nor a class name can contain these


class Budget:
    """What may still be read for one config."""

    def __init__(self) -> None:
        self.bytes, self.values, self.files = MAX_BYTES, MAX_VALUES, MAX_FILES


def read_yaml(path: Path) -> Node:
    """The mapping in a YAML file of its own, without bases. UserError if it is not one, or is too large."""
    problems: Problems = []
    budget = Budget()
    document = parse(read_text(path, budget), path, problems, budget)
    raise_problems(problems)
    return document


def read_text(path: Path, budget: Budget, wanted: str = "") -> str:
    """The text of a file. UserError if it cannot be read; the message has `wanted`, who names the file.

    Raises FileNotFoundError if there is no such file.
    """
    budget.files -= 1
    if budget.files < 0:
        raise UserError(f"{display(path)}: more than {MAX_FILES} files in one config{wanted}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{display(path)}: not a file, but a folder or a device{wanted}")
    try:
        with open(path, "rb") as file:
            data = file.read(budget.bytes + 1)
        budget.bytes -= len(data)
        if budget.bytes < 0:
            raise UserError(f"{display(path)}: more than {MAX_BYTES:,} bytes{wanted}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{Origin(path, line)}: not text in UTF-8{wanted}: {error.reason}") from None
    except OSError as error:
        raise UserError(f"{display(path)}: cannot be read{wanted}: {error.strerror}") from error


def parse(text: str, path: Path, problems: Problems, budget: Optional[Budget] = None) -> Node:
    """The mapping in the text of a file. An empty file is an empty mapping."""
    document = compose(text, path, problems, budget) or Node({}, Origin(path, 1))
    if not isinstance(document.value, dict) or document.tag:
        raise UserError(f"{document.origin}: a config is a mapping of keys to values")
    return document


def compose(text: str, path: Optional[Path], problems: Problems, budget: Optional[Budget] = None) -> Optional[Node]:
    """The node for a YAML text, None if the text is empty. `path` is None for the command line."""
    budget = budget or Budget()
    try:
        loader = Loader(text, budget.values)
        root = loader.get_single_node()
        return None if root is None else Converter(loader, path, problems, budget).convert(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = (getattr(error, "problem", None) or str(error).replace("\n", " "))[:200]
        if path is None:
            raise ValueError(f"the value is not valid YAML: {reason}") from error
        raise UserError(f"{Origin(path, mark.line + 1 if mark else 1)}: not valid YAML: {reason}") from error


class Loader(yaml.SafeLoader):
    """PyYAML's parser with bounds. It stops before it has read what is beyond them."""

    def __init__(self, text: str, values: int):
        super().__init__(text)
        self.left, self.depth = values, 0

    def compose_node(self, parent: Optional[yaml.Node], index: Any) -> Optional[yaml.Node]:
        self.left -= 1
        self.depth += 1
        start = self.peek_event().start_mark
        if self.left < 0:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_VALUES:,} values", start)
        if self.depth > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} lists and mappings in each other"
            raise yaml.composer.ComposerError(None, None, problem, start)
        node = super().compose_node(parent, index)
        if node is not None and len(node.tag) > MAX_NUMBER:
            raise yaml.composer.ComposerError(None, None, f"a tag of more than {MAX_NUMBER} characters", start)
        self.depth -= 1
        return node


class Converter:
    """Converts the nodes of PyYAML to ours. Scalars get the types of YAML 1.1."""

    def __init__(self, loader: yaml.SafeLoader, path: Optional[Path], problems: Problems, budget: Budget):
        self.loader, self.path, self.problems, self.budget = loader, path, problems, budget
        self.open: List[yaml.Node] = []

    def convert(self, node: yaml.Node, origin: Optional[Origin] = None) -> Node:
        origin = origin or self.origin(node)
        if node in self.open:
            raise UserError(f"{origin}: an alias contains itself")
        if len(self.open) > MAX_DEPTH:
            raise UserError(f"{origin}: aliases make more than {MAX_DEPTH} lists and mappings in each other")
        self.budget.values -= 1
        if self.budget.values < 0:
            raise UserError(f"{origin}: more than {MAX_VALUES:,} values; those of an alias count wherever it occurs")
        tag = node.tag[1:] if re.fullmatch(r"!\w+", node.tag) else None  # YAML's own tags have another form
        if tag and isinstance(node, yaml.ScalarNode) and not node.value:
            return Node({}, origin, tag)
        if tag and not isinstance(node, yaml.MappingNode):
            raise UserError(f"{origin}: !{tag} must be followed by a mapping of parameters")
        if isinstance(node, yaml.ScalarNode):
            return Node(self.scalar(node, origin), origin)
        if not tag and node.tag not in COLLECTION_TAGS:
            raise UserError(f"{origin}: unknown tag {node.tag!r}")
        self.open.append(node)
        value = self.mapping(node) if isinstance(node, yaml.MappingNode) else [self.convert(i) for i in node.value]
        self.open.pop()
        return Node(value, origin, tag)

    def scalar(self, node: yaml.ScalarNode, origin: Origin) -> Any:
        """The value of a scalar. UserError if its tag does not fit, or no computer can hold it."""
        if node.tag not in (TEXT_TAG, BYTES_TAG) and len(node.value) > MAX_NUMBER:
            raise UserError(f"{origin}: a number of more than {MAX_NUMBER} characters; quote it if it is a text")
        try:
            value = self.loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML's constructors fail in many ways if a tag such as !!int does not fit the text
            kind = node.tag.rpartition(":")[2]
            raise UserError(f"{origin}: {node.value[:MAX_NUMBER]!r} is not a value of the type {kind}") from None
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise UserError(f"{origin}: an integer must have at most 64 bits, got {node.value}")
        if isinstance(value, str) and IMPOSSIBLE.search(value):
            raise UserError(f"{origin}: a text contains a NUL character or half a surrogate pair: {value[:40]!a}")
        if isinstance(value, (list, dict, set)):
            raise UserError(f"{origin}: {node.value[:MAX_NUMBER]!r} is not a list or a mapping")
        return value

    def mapping(self, node: yaml.MappingNode) -> Dict[Any, Node]:
        """The pairs of a mapping. A key given twice is a problem; `<<` adds the keys that are not given."""
        pairs: Dict[Any, Node] = {}
        lines: Dict[Any, int] = {}
        included: List[yaml.Node] = []
        for key_node, value_node in node.value:
            origin = self.origin(key_node)
            if key_node.tag == MERGE_TAG:
                included += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{origin}: a key must be a single word, not a list or a mapping")
            key = self.scalar(key_node, origin)
            if key in pairs:
                self.problems.append(Problem(origin, f"{key!r} is given twice, first in line {lines[key]}"))
            pairs[key], lines[key] = self.convert(value_node, origin), origin.line
        merged: Dict[Any, Node] = {}
        for mapping in included:
            if not isinstance(mapping, yaml.MappingNode):
                raise UserError(f"{self.origin(mapping)}: the value of '<<' must be a mapping or a list of mappings")
            for key, value in self.convert(mapping).value.items():
                merged.setdefault(key, value)
        return {**merged, **pairs}

    def origin(self, node: yaml.Node) -> Origin:
        return COMMAND_LINE if self.path is None else Origin(self.path, node.start_mark.line + 1)
