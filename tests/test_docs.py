"""The pages of documentation name files, modules, configs, commands and flags that exist.

What is checked, in README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md:

- Links to files.
- In back quotes: words with a slash or a suffix of `SUFFIXES`, modules (`ppdet_repro.core`), and configs without their
  suffix (names that end in `_coco`, `_bccd` or `_synthetic`). In blocks of code: words with one of these suffixes, or
  that start with one of `FOLDERS`. A path may lack its first folders: `heads/sapd_head.py` is enough.
- Flags. Beside a command of ours: that command's `--help` must list them. Alone in back quotes: some command must.

Words in which a part is in capitals (CONFIG, DIR/NAME, PATH) are placeholders, and the files of `YOURS` belong to the
reader or are written by a command.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import FrozenSet, Iterator, List, Tuple

import pytest
from paths import ROOT
from test_imports import LAYERS

from ppdet_repro.cli.foreign import NO_EFFECT, REFUSED
from ppdet_repro.cli.main import COMMANDS, PROGRAM, build_parser, load

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = ("configuration.md", "commands.md", "first_hour_notebook.md")  # by mkdocs: tools/_reference.py
FOLDERS = ("benchmarks", "configs", "deploy", "docs", "ppdet_repro", "studies", "tests", "tools")
SUFFIXES = (".py", ".md", ".yml", ".sh", ".toml", ".lock", ".html", ".j2")
YOURS = (
    "output*", "dataset/*", ".venv*", "/*", "infer_cfg.yml", "inference.yml", "report.html", "index.html", "data.yaml",
    "configs/yolof/cells.yml", "shapes/*", "ppdet_repro/train.json", "ppdet_repro/val.json", "images/train",
    "labels/train", "space.yml", "checkpoints/epoch_0003", "out/0", "compare.html",
    "lite/tools/build_android.sh",  # Paddle-Lite's
)  # fmt: skip
OTHERS_FLAGS = {
    "--check",
    "--gpus",
    "--ips",
    "--with_benchmark",
    "--x",
}  # of ruff, Paddle's launcher and Paddle-Lite; any flag

BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
SCRIPT = r"(?:tools|benchmarks|deploy/\w+)/[a-z]\w*\.py|deploy/lite/benchmark_arm\.sh|benchmark\.sh"
DECLARED_IN = {  # scripts whose flags another file declares
    "benchmark.sh": "deploy/benchmark/run.py",
    "deploy/lite/benchmark_arm.sh": "deploy/lite/benchmark_arm.py",
}


@cache
def repository() -> FrozenSet[str]:
    """All files of the repository and the folders that they are in, with a leading slash."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    known = {path.relative_to(ROOT) for path in [*files, *ROOT.glob("*.*")] if path.suffix != ".pyc"}
    return frozenset(f"/{path.as_posix()}" for file in known for path in (file, *file.parents))


def exists(path: str) -> bool:
    """Whether a file or folder of the repository has this path, or one that ends with it. It may contain `*`."""
    return any(fnmatch(known, f"*/{path}") for known in repository())


def expand(text: str) -> List[str]:
    """What a shell makes of braces: a_{1,2} -> a_1, a_2."""
    braces = re.search(r"\{([^{}]*,[^{}]*)\}", text)
    if not braces:
        return [text]
    before, after = text[: braces.start()], text[braces.end() :]
    return [word for part in braces[1].split(",") for word in expand(before + part + after)]


def is_yours(word: str) -> bool:
    """Whether a word is a placeholder, or a file of the reader."""
    placeholder = re.search(r"(?:^|[/_.-])[A-Z]{2,}(?:[/_.-]|$)", word)
    return bool(placeholder) or any(fnmatch(word, pattern) for pattern in YOURS)


def spans(text: str) -> List[str]:
    """The texts in back quotes outside of blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def named_paths(text: str) -> Iterator[str]:
    """The paths in the repository that a page names; see the rules above."""
    for span in spans(text):
        for word in span.split():
            word = word.strip("'\",:").removeprefix("./").rstrip("/")
            if re.fullmatch(r"ppdet_repro(\.[a-z_]\w*)+", word):
                module = word.replace(".", "/")
                yield module if exists(module) else f"{module}.py"
            elif re.fullmatch(r"[\w{},]+_(coco|bccd|synthetic)", word):
                yield from (f"{stem}.yml" for stem in expand(word))
            elif re.fullmatch(r"[\w.*{},/-]+", word) and ("/" in word or word.endswith(SUFFIXES)):
                yield from expand(word)
    for block in BLOCK.findall(text):
        for word in re.findall(r"[\w.*{},$/-]+", block):
            word = re.sub(r"\$\w+", "*", word.strip(",.").removeprefix("./"))
            if word.endswith(SUFFIXES) or word.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                yield from (path.rstrip("/") for path in expand(word))


def missing_paths(text: str) -> List[str]:
    """The paths that a page names and that the repository does not have."""
    return sorted({path for path in named_paths(text) if not exists(path) and not is_yours(path)})


@cache
def flags_of_command(*words: str) -> FrozenSet[str]:
    """The flags that `ppdet-repro WORDS --help` lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        build_parser(words).parse_args([*words, "--help"])
    return frozenset(FLAG.findall(text.getvalue()))


def flags_of_script(script: str, *words: str) -> FrozenSet[str]:
    """The flags of a script: those of its command, or those that its file declares."""
    source = (ROOT / DECLARED_IN.get(script, script)).read_text(encoding="utf-8")
    command = re.search(r'script\("(\w+)"\)', source)
    if command is None:
        return frozenset(re.findall(r'"(--?[\w-]+)"', source))
    if command[1] not in (*COMMANDS, "infer_exported"):  # a script that is no subcommand
        parser = argparse.ArgumentParser()
        load(command[1]).add_arguments(parser)
        return frozenset(parser._option_string_actions)
    return flags_of_command(*("infer", "--model_dir=m") if command[1] == "infer_exported" else (command[1], *words))


def flags_beside(line: str) -> Tuple[List[str], FrozenSet[str]]:
    """The flags after a command of ours, and those that it has. Nothing if the line has no command of ours.

    If the command does not exist, its name is returned in place of its flags.
    """
    found = re.search(rf"(?:^|[/\s])({PROGRAM} (\w+)|{SCRIPT})(?= |$)(?: (check|show|synth|convert) )?(.*)", line)
    if found is None:
        return [], frozenset()
    words = [found[3]] if found[3] else []
    given = FLAG.findall(re.sub(r"'[^']*'", "", found[4]))
    if found[2] is None:
        return given, flags_of_script(found[1], *words)
    if found[2] not in COMMANDS:
        return [found[2]], frozenset()
    exported = ["--model_dir=m"] if found[2] == "infer" and "-c" not in given else []
    return given, flags_of_command(found[2], *words, *exported)


def wrong_flags(text: str) -> List[str]:
    """The flags that a page gives a command which does not have them, and those that no command has."""
    wrong = set()
    for block in BLOCK.findall(text):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            given, known = flags_beside(re.sub(r"\s# .*", "", line))
            wrong |= set(given) - known
    for span in spans(text):
        given, known = flags_beside(span)
        wrong |= set(given) - known
        if span.startswith("--"):
            wrong |= set(FLAG.findall(span)[:1]) - every_flag() - OTHERS_FLAGS
    return sorted(wrong)


@cache
def every_flag() -> FrozenSet[str]:
    """The flags of all commands and scripts."""
    commands = [*map(flags_of_command, COMMANDS), flags_of_command("infer", "--model_dir=m")]
    commands += [frozenset(flags) for table in (NO_EFFECT, REFUSED) for flags in table.values()]  # hidden from --help
    data = [flags_of_command("data", name) for name in ("check", "show", "synth", "convert")]
    scripts = [path[1:] for path in repository() if re.fullmatch(SCRIPT, path[1:])]
    return frozenset().union(*commands, *data, *map(flags_of_script, scripts))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_modules_and_configs_exist(page):
    assert missing_paths(read(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", read(page)) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists() and target not in MADE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_flags_beside_them(page):
    assert wrong_flags(read(page)) == []


@pytest.mark.parametrize(
    "text, path",
    [
        ("see `modeling/assigner/matches.py`", "modeling/assigner/matches.py"),
        ("see `ppdet_repro.inference`", "ppdet_repro/inference.py"),
        ("see `table5a_{0,3}_blocks_1x_coco`", "table5a_3_blocks_1x_coco.yml"),
        ("```\npython tools/trainer.py\n```", "tools/trainer.py"),
        ("```\nppdet-repro eval -c yolof/NAME.yml -o weights=PATH\n```", None),
        ("`output/x.md`, `ppdet_repro/modeling/nms.py`, `heads/sapd_head.py`, `tests/test_*.py`, `slim/`", None),
    ],
)
def test_which_paths_are_missing(text, path):
    assert missing_paths(text) == ([path] if path else [])


@pytest.mark.parametrize(
    "text, flag",
    [
        ("```\nppdet-repro train -c CONFIG \\\n  --evaluate   # --ignored\n```", "--evaluate"),
        ("```\npython tools/dataset.py show a.json --decode\n```", "--decode"),
        ("```\nppdet-repro infer --model_dir=DIR --infer_dir=photos\n```", "--infer_dir"),
        ("```\ndeploy/lite/benchmark_arm.sh --binary b --modell m\n```", "--modell"),
        ("`ppdet-repro serve --tide`", "--tide"),
        ("`ppdet-repro trian -c CONFIG`", "trian"),
        ("`--infer_directory`", "--infer_directory"),
        ("`ppdet-repro infer -c CONFIG --infer_dir photos`, `--save_csv`, `pip install --no-deps`", None),
    ],
)
def test_which_flags_are_wrong(text, flag):
    assert wrong_flags(text) == ([flag] if flag else [])


def test_the_picture_of_the_architecture_shows_the_layers():
    (picture, *_) = BLOCK.findall(read(ROOT / "docs" / "architecture.md"))
    shown = [set(line.split("#")[0].replace("/", ".").split()) for line in picture.splitlines()]
    assert shown == [set(layer) - {"", "__main__"} for layer in reversed(LAYERS)]
