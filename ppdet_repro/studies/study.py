"""Reads a study: a YAML file with rows, seeds, data and claims. docs/reproduction.md describes its keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ppdet_repro.core.config.document import Node
from ppdet_repro.core.config.yaml_text import read_yaml
from ppdet_repro.studies import claims
from ppdet_repro.studies.claims import Comparison
from ppdet_repro.utils.errors import UserError

PACKAGED = Path(__file__).parent / "papers"
SPEED = 18.0  # GFLOPs a second: `make demo` trains so fast on 2 cores of an AMD EPYC (Zen 4)
METRICS = {  # their names in log.jsonl, and here
    "bbox_mAP": "AP", "bbox_mAP_50": "AP50", "bbox_mAP_75": "AP75",
    "bbox_mAP_s": "AP_S", "bbox_mAP_m": "AP_M", "bbox_mAP_l": "AP_L",
}  # fmt: skip
KEYS = {"title", "source", "notes", "metric", "seeds", "data", "overrides", "speed", "rows", "claims"}
SYNTHETIC_KEYS = {
    "train", "val", "size", "classes", "objects", "scales", "noise", "clutter", "contrast", "likeness", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class PaperRow:
    """What the paper says about a row, and the config of the paper's size."""

    config: Optional[str] = None
    overrides: Tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)  # in points, by metric


@dataclass(frozen=True)
class Row:
    """One variant of the detector."""

    name: str
    label: str
    config: str
    overrides: Tuple[str, ...]
    paper: PaperRow


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: it holds if all its comparisons hold."""

    text: str
    comparisons: Tuple[Comparison, ...]


@dataclass(frozen=True)
class Study:
    """A study, checked. `document` is its YAML file as plain data."""

    name: str
    title: str
    source: str
    notes: str
    metric: str
    seeds: Tuple[int, ...]
    synthetic: Optional[Dict[str, Any]]  # options of `data synth`; None: `folder`
    folder: Optional[str]  # of a dataset that the user has
    overrides: Tuple[str, ...]  # of all rows, at the miniature's size
    speed: float  # GFLOPs a second of training, for the first estimate of time
    rows: Tuple[Row, ...]
    claims: Tuple[Claim, ...]
    document: Dict[str, Any]

    def chosen(self, names: Sequence[str]) -> Tuple[Row, ...]:
        """The rows of these names, in the study's order; all rows without names. UserError if there is no such row."""
        for name in names:
            if name not in [row.name for row in self.rows]:
                raise UserError(f"--rows: there is no row {name}; the rows are {', '.join(r.name for r in self.rows)}")
        return tuple(row for row in self.rows if not names or row.name in names)


def find_study(text: str) -> Study:
    """Read a study's file, or a packaged study by its name. UserError if there is none, or if it has a mistake."""
    path, packaged = Path(text), PACKAGED / f"{text}.yml"
    if not path.is_file() and packaged.is_file():
        path = packaged
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.yml")))
        raise UserError(f"{text}: no such study; give a YAML file, or one of {names}")
    return read_study(path.stem, read_yaml(path))


def read_study(name: str, root: Node) -> Study:
    """Check a study's document. UserError, with file and line, if it has a mistake."""
    known(root, KEYS, "a study")
    rows = tuple(read_row(key, node) for key, node in mapping(root, "rows").items())
    if len(rows) < 2:
        fail(root, "a study compares at least two rows")
    claimed = tuple(read_claim(node, [row.name for row in rows]) for node in items(root, "claims"))
    seeds = [integer(node, "a seed") for node in items(root, "seeds")]
    if not seeds or len(set(seeds)) < len(seeds):
        fail(root, "seeds must be a list of different whole numbers")
    synthetic, folder = read_data(root)
    speed = root.value.get("speed", Node(SPEED)).value
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or speed <= 0:
        fail(root, "speed is in GFLOPs a second, a number above 0")
    metric = text_of(root, "metric", "AP")
    if metric not in METRICS.values():
        fail(root, f"metric {metric!r} is unknown; known are {', '.join(METRICS.values())}")
    return Study(
        name, text_of(root, "title", name), text_of(root, "source", ""), text_of(root, "notes", ""), metric,
        tuple(seeds), synthetic, folder, texts(root, "overrides"), float(speed), rows, claimed, root.plain(),
    )  # fmt: skip


def read_row(name: str, node: Node) -> Row:
    """A row: its config, overrides, and what the paper says."""
    if not re.fullmatch(claims.NAME, str(name)):
        fail(node, f"row {name!r}: a name consists of letters, digits and _, and does not begin with a digit")
    known(node, {"label", "config", "overrides", "paper"}, f"row {name}")
    config = text_of(node, "config", "")
    if not config:
        fail(node, f"row {name} has no config")
    theirs = node.value.get("paper", Node({}))
    known(theirs, {"config", "overrides", *METRICS.values()}, f"the paper's part of row {name}")
    scores = {key: item.value for key, item in theirs.value.items() if key in METRICS.values()}
    if any(isinstance(score, bool) or not isinstance(score, (int, float)) for score in scores.values()):
        fail(theirs, f"row {name}: the paper's scores are numbers in points")
    paper = PaperRow(text_of(theirs, "config", "") or None, texts(theirs, "overrides"), scores)
    return Row(name, text_of(node, "label", name), config, texts(node, "overrides"), paper)


def read_claim(node: Node, rows: Sequence[str]) -> Claim:
    """A claim: its words, and its test, one comparison or a list of them."""
    known(node, {"text", "test"}, "a claim")
    tests = texts(node, "test")
    if not tests:
        fail(node, "a claim has a test, such as test: a > b")
    comparisons = []
    for test in tests:
        try:
            comparison = claims.parse(test)
        except ValueError as error:
            fail(node, str(error))
        for name in comparison.rows():
            if name not in rows:
                fail(node, f"{test!r}: there is no row {name}; the rows are {', '.join(rows)}")
        for term in comparison.terms:
            if term.metric not in (None, *METRICS.values()):
                fail(node, f"{test!r}: metric {term.metric} is unknown; known are {', '.join(METRICS.values())}")
        comparisons.append(comparison)
    return Claim(text_of(node, "text", " and ".join(tests)), tuple(comparisons))


def read_data(root: Node) -> Tuple[Optional[Dict[str, Any]], Optional[str]]:
    """The options of a synthetic dataset, or the folder of a dataset; one of them is None."""
    node = Node(mapping(root, "data"), root.value["data"].origin)
    known(node, {"synthetic", "folder"}, "data")
    if len(node.value) != 1:
        fail(node, "data is either synthetic: {...} or folder: PATH")
    if "folder" in node.value:
        return None, text_of(node, "folder", "")
    known(node.value["synthetic"], SYNTHETIC_KEYS, "synthetic")
    return node.value["synthetic"].plain(), None


def fail(node: Node, text: str) -> None:
    """Raise a UserError about a value."""
    raise UserError(f"{node.origin}: {text}" if node.origin else f"study: {text}")


def known(node: Node, keys: Any, what: str) -> None:
    """UserError if a value is not a mapping, or has other keys."""
    if not isinstance(node.value, dict):
        fail(node, f"{what} is a mapping of keys to values")
    for key, item in node.value.items():
        if key not in keys:
            fail(item, f"{what} has no key {key!r}; known are {', '.join(sorted(keys))}")


def mapping(node: Node, key: str) -> Dict[str, Node]:
    """The mapping under a key that must be there."""
    item = node.value.get(key)
    if item is None or not isinstance(item.value, dict):
        fail(item or node, f"{key} must be a mapping")
    assert item is not None
    return item.value


def items(node: Node, key: str) -> List[Node]:
    """The list under a key; empty if the key is missing."""
    item = node.value.get(key, Node([]))
    if not isinstance(item.value, list):
        fail(item, f"{key} must be a list")
    return item.value


def texts(node: Node, key: str) -> Tuple[str, ...]:
    """The texts under a key, which may also be a single one; empty if the key is missing."""
    item = node.value.get(key, Node([]))
    values = [part.value for part in item.value] if isinstance(item.value, list) else [item.value]
    if not all(isinstance(value, str) for value in values):
        fail(item, f"{key} must be a text, or a list of texts; put it between quotes")
    return tuple(values)


def text_of(node: Node, key: str, default: str) -> str:
    """The text under a key."""
    item = node.value.get(key, Node(default))
    if not isinstance(item.value, str):
        fail(item, f"{key} must be a text; put it between quotes")
    return item.value


def integer(node: Node, what: str) -> int:
    """A whole number of at least 0."""
    if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 0:
        fail(node, f"{what} is a whole number of at least 0")
    return node.value
