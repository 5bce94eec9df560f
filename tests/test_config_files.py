"""The YAML files in `configs/` as text: their comments are true, and nothing is written twice."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from ppdet_repro.core.config.document import Node, merge_files
from ppdet_repro.core.config.reading import BASE, base_names, load_file
from ppdet_repro.core.config.yaml_text import Budget, parse

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yml"))
PARTS = ("_base_", "datasets")  # folders of parts of a config; a public config is everywhere else
PUBLIC = [path for path in FILES if path.parent.name not in PARTS and path.name != "runtime.yml"]

COMMENT = re.compile(r"(?:^|\s)#(.*)")
FILE_NAME = re.compile(r"[\w./*-]+\.(?:yml|py|md|sh|txt|json)\b")
# Files that need not exist: the values of overrides (`-o weights=...`), and those in folders that a command or a
# dataset brings along.
OVERRIDE = re.compile(r"[\w.]+=\S+")
CREATED = ("output/", "dataset/", "ImageSets/")

LONGEST_RUN = 7  # lines that two files may share in a row


def relative(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def missing_files(config: Path, text: str) -> List[str]:
    """The files that the comments of a config's text name and that do not exist."""
    comments = " ".join(match[1] for match in map(COMMENT.search, text.splitlines()) if match)
    names = FILE_NAME.findall(OVERRIDE.sub("", comments))
    folders = (ROOT, CONFIGS, config.parent)
    return [
        name
        for name in names
        if not name.startswith(CREATED) and not any((folder / name).is_file() for folder in folders)
    ]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_named_in_comments_exist(path):
    assert missing_files(path, path.read_text(encoding="utf-8")) == []


def test_a_missing_file_in_a_comment_is_found():
    text = (
        "# As in table1_a_coco.yml, but not gone.yml; docs/gone.md\n"
        "# python tools/train.py -c configs/ppyolo/gone.yml -o weights=output/a.json TrainDataset.anno_path=my.txt\n"
        "epoch: 1  # dataset/labels.txt, ../datasets/voc.yml and _base_/gone.yml\n"
        "anno_path: gone.txt\n"
    )
    expected = ["gone.yml", "docs/gone.md", "configs/ppyolo/gone.yml", "_base_/gone.yml"]
    assert missing_files(CONFIGS / "ppyolo" / "new.yml", text) == expected


@pytest.mark.parametrize("path", PUBLIC, ids=relative)
def test_a_public_config_starts_with_its_row_command_and_result(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line[2:] for line in takewhile(lambda line: line.startswith("#"), lines)]
    commands = " ".join(line for line in header if line.startswith("  "))
    prose = " ".join(line for line in header if not line.startswith("  "))
    assert re.search(r"paper, (Tables?|Figures?|section|appendix)|Not in the .*tables|The paper's .* is", prose)
    assert f"configs/{relative(path)}" in commands
    assert re.search(r"Our result[^:]*: (not measured|.*\d|docs/)", prose)


def runs(path: Path, length: int) -> Iterator[Tuple[str, ...]]:
    """Every `length` lines in a row of a file, without comments and blank lines."""
    lines = [COMMENT.sub("", line).rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    return (tuple(lines[i : i + length]) for i in range(len(lines) - length + 1))


def test_no_two_configs_share_a_long_run_of_lines():
    files: Dict[Tuple[str, ...], Set[str]] = defaultdict(set)
    for path in FILES:
        for run in runs(path, LONGEST_RUN + 1):
            files[run].add(relative(path))
    shared = {tuple(sorted(names)) for names in files.values() if len(names) > 1}
    assert not shared, "put the lines that they share into a file for _BASE_"


def repeated(base: Node, child: Node, place: str = "") -> Iterator[str]:
    """The places where a child says what its base already says."""
    if isinstance(child.value, dict) and isinstance(base.value, dict) and not child.tag:
        for key in set(child.value) & set(base.value):
            yield from repeated(base.value[key], child.value[key], f"{place}.{key}" if place else str(key))
    elif base.plain() == child.plain():
        yield place


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_config_contains_only_what_differs_from_its_bases(path):
    child = parse(path.read_text(encoding="utf-8"), path, [])
    base = Node({})
    for _, name in base_names(child.value.pop(BASE, Node([]))):
        base = merge_files(base, load_file(path.parent / name, (path,), [], Budget()))
    assert sorted(repeated(base, child)) == []
