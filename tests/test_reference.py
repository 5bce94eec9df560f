"""The pages that mkdocs makes from the sources: every key and every flag is explained, and the site builds strictly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from paths import ROOT

from ppdet_repro.core.config import components
from tools import _reference as reference

needs_mkdocs = pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material (extra docs) is not installed")


def test_every_key_and_every_flag_has_a_meaning():
    """A name in this list needs a line under `Args` in its class's docstring, a comment in RunSettings, or help."""
    assert reference.holes() == []


def test_a_key_without_a_meaning_is_found(monkeypatch):
    monkeypatch.delitem(reference.MEANINGS, "backbone")
    assert "YOLOF.backbone" in reference.holes() and "YOLOF.neck" not in reference.holes()


def test_meanings_are_read_from_args_sections():
    text = "What.\n\nArgs:\n    a, b: the first\n        and more: 2\n    `c`: third\n\nRaises:\n    UserError: no"
    assert reference.arguments_in(text) == {"a": "the first and more: 2", "b": "the first and more: 2", "c": "third"}
    assert reference.arguments_in("What it is.") == {}


def test_the_page_of_configs_has_types_defaults_and_meanings():
    page = reference.configuration()
    assert "| `epoch` | an integer | `0` | number of epochs |" in page
    assert "| `export.padding` | 'mean' or 'black' | `'mean'` |" in page
    assert "| `ctr_clip` | a number or null | `32.0` | The largest distance between the centers" in page
    assert "| `match_times` | an integer | `4` |" in page  # UniformAssigner
    assert "| `master_grad` | true or false | `false` | no effect: " in page
    assert all(f"\n### {name}\n" in page for name in components.names() if in_package(name))


def in_package(name: str) -> bool:
    component = components.find(name)
    return component is not None and components.in_package(component.module)


def test_the_page_of_commands_has_all_of_them():
    page = reference.command_line()
    for words in ("train", "data check", "data convert", "infer", "infer --model_dir=DIR", "reproduce"):
        assert f"\n## ppdet-repro {words}\n" in page
    assert "| `-n, --number NUMBER` | number of images if --image is not given (default: 4) |" in page


def test_links_of_a_page_are_those_of_the_site(monkeypatch):
    monkeypatch.setitem(reference.TITLES, "slim.md", "Int8")
    for text, on_the_site in [
        ("[slim.md](slim.md#pruning)", "[Int8](slim.md#pruning)"),
        ("[int8](slim.md), [slim.md](other.md)", "[int8](slim.md), [slim.md](other.md)"),
        ("[a notebook](notebooks/first_hour.ipynb)", "[a notebook](first_hour_notebook.md)"),
        ("[README](../README.md)", "README"),
    ]:
        assert reference.on_page_markdown(text) == on_the_site


def test_a_notebook_becomes_a_page(tmp_path):
    path = tmp_path / "small.ipynb"
    picture = {"output_type": "display_data", "data": {"image/png": "iVBO\nRw==", "text/plain": "<Figure>"}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": "2"}}, picture]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    shown = '<img alt="output" src="data:image/png;base64,iVBORw==">'
    assert reference.notebook(path) == f"# Title\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n{shown}\n"


def build(folder) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", "site"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@needs_mkdocs
def test_the_site_builds_strictly_and_a_broken_anchor_ends_the_build(tmp_path):
    for name in ("docs", "tools", "ppdet_repro", "configs"):
        if name in ("docs", "tools"):
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "configuration" / "index.html").exists()
    for link in ("install.md#no-such-section", "no_such_page.md"):
        shutil.copy(ROOT / "docs" / "schedules.md", tmp_path / "docs")
        with (tmp_path / "docs" / "schedules.md").open("a") as page:
            page.write(f"\n[a link]({link})\n")
        done = build(tmp_path)
        assert done.returncode != 0 and link in done.stdout + done.stderr
