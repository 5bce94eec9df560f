"""Reads YAML files and overrides into a document.

The dialect is PaddleDetection's: `_BASE_` names files to start from, and `!Name {...}` is a component.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

from ppdet_repro.core.config.document import COMMAND_LINE, Node, Origin, Problem, Problems, display, merge, merge_files
from ppdet_repro.core.config.types import spell
from ppdet_repro.core.config.yaml_text import MAX_DEPTH, Budget, compose, parse, read_text
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import user_path
from ppdet_repro.utils.packaged import nearest_packaged, own_or_packaged

BASE = "_BASE_"
SCHEDULE = re.compile(r"LearningRate\.schedulers(\.\d+)?(.*\.(milestones|max_epochs|cycle_epochs))?")


def load_document(
    path: Path,
    overrides: Sequence[str],
    problems: Problems,
    over: Optional[Path] = None,
    only: Optional[Sequence[str]] = None,
) -> Node:
    """Merge a config file and its bases, then the file `over`, then overrides of the form `a.b.c=value`.

    With `only`, nothing but these top-level keys of `over` is merged. For `schedule_epochs` see `with_schedule_epochs`.

    Duplicate keys and bad overrides are appended to `problems`. Raises a `UserError` if a file is missing, unreadable
    or not YAML, if the files are larger than the limits in `yaml_text`, or if base files include each other in a cycle.
    """
    budget = Budget()
    document = load_file(path.absolute(), (), problems, budget)
    if over is not None:
        second = load_file(over.absolute(), (), problems, budget)
        if only is not None:
            second = replace(second, value={key: node for key, node in second.value.items() if key in only})
        document = with_schedule_epochs(merge_files(document, second), second)
    for override in overrides:
        try:
            document = apply_override(document, override, problems, budget)
        except ValueError as error:
            problems.append(Problem(COMMAND_LINE, f"override {spell(override)}: {error}"))
    paths = [override.partition("=")[0].strip() for override in overrides]
    if any(map(SCHEDULE.fullmatch, paths)) and "schedule_epochs" not in paths:
        written = Node({"LearningRate": Node({"schedulers": Node([])})})
        document = with_schedule_epochs(document, written)
    return document


def load_file(path: Path, chain: Sequence[Path], problems: Problems, budget: Budget) -> Node:
    """One file merged over its base files; `chain` holds the files that include it, outermost first."""
    path = Path(os.path.normpath(path))
    if path in chain:
        cycle = " -> ".join(display(p) for p in (*chain[chain.index(path) :], path))
        raise UserError(f"{display(chain[-1])}: {BASE} files include each other in a cycle: {cycle}")
    wanted = f" (named by {BASE} in {display(chain[-1])})" if chain else ""
    try:
        text = read_text(path, budget, wanted)
    except FileNotFoundError:
        packaged = ", ".join(nearest_packaged(path))
        hint = f"; the packaged configs with the most similar names: {packaged}" if packaged else ""
        raise UserError(f"{display(path)}: no such file{wanted}{hint}") from None
    document = parse(text, path, problems, budget)
    own = Node({key: node for key, node in document.value.items() if key != BASE}, document.origin)
    merged = Node({}, document.origin)
    for origin, name in base_names(document.value.get(BASE, Node([]))):
        try:
            base = own_or_packaged(path.parent / user_path(name), name)
        except UserError as error:
            raise UserError(f"{origin}: {BASE}: {error}") from None
        merged = merge_files(merged, load_file(base, (*chain, path), problems, budget))
    return with_schedule_epochs(merge_files(merged, own), own)


def with_schedule_epochs(merged: Node, own: Node) -> Node:
    """Give a document its `schedule_epochs`, if the file `own`, the last that was merged, writes a schedule.

    The schedule is written for the `epoch` that the document has then. A file that gives `schedule_epochs` itself keeps
    it, and so does a schedule that is written where no `epoch` is known yet: the next file with one completes it.
    """
    epoch, rate = merged.value.get("epoch"), own.value.get("LearningRate")
    writes = rate is not None and isinstance(rate.value, dict) and "schedulers" in rate.value
    if "schedule_epochs" in own.value or epoch is None or type(epoch.value) is not int or epoch.value < 1:
        return merged
    if writes or ("LearningRate" in merged.value and "schedule_epochs" not in merged.value):
        return replace(merged, value={**merged.value, "schedule_epochs": epoch})
    return merged


def base_names(base: Node) -> Iterator[Tuple[Optional[Origin], str]]:
    """The file names in the value of `_BASE_`, which is a string or a list of strings, and their places."""
    for item in base.value if isinstance(base.value, list) else [base]:
        if not isinstance(item.value, str):
            wrong = spell(item.plain())
            raise UserError(f"{item.origin}: {BASE} must be a file name or a list of file names, got {wrong}")
        yield item.origin, item.value


def apply_override(document: Node, override: str, problems: Problems, budget: Budget) -> Node:
    """Merge `a.b.c=value` into a document, or raise a `ValueError`. A number in the path is an index into a list."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError("it is not of the form a.b.c=value")
    if len(keys) > MAX_DEPTH:
        raise ValueError(f"its path has more than {MAX_DEPTH} keys")
    try:
        value = compose(text, None, problems, budget) or Node(None, COMMAND_LINE)
    except UserError as error:
        raise ValueError(str(error).removeprefix(f"{COMMAND_LINE}: ")) from None
    if len(keys) == 1:
        return merge_files(document, Node({keys[0]: value}, document.origin))
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
        if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(node.value):
            raise ValueError(f"{here} has {len(node.value)} items, counted from 0, but no {spell(key)}")
        items = list(node.value)
        items[int(key)] = put(items[int(key)], rest, value, below)
        return replace(node, value=items, origin=COMMAND_LINE)
    hint = f"; override {node.value}.{'.'.join(keys)}" if isinstance(node.value, str) else ""
    raise ValueError(f"{here} is {spell(node.value)} and has no {spell(key)} inside{hint}")
