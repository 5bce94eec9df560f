"""Who may import whom, read from the syntax trees; and what works where Paddle is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Tuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ppdet_repro"

# Lowest first; a module may import from its own layer and from those below. The longest prefix counts:
# "modeling" stands for the files in that folder that are not named elsewhere (layers, nms, ...).
LAYERS = [
    ("core", "utils", "paddle_private", ""),
    ("modeling.boxes", "modeling.anchors", "modeling.shape_spec"),
    ("modeling", "data.transform", "data.source", "optimizer", "metrics"),
    ("modeling.heads", "data"),
    ("modeling.architectures", "slim", "runtime"),
    ("engine",),
    ("serve", "cli", "__main__"),
    ("tools", "deploy"),
]
ENGINE = LAYERS.index(("engine",))
WITHOUT_PADDLE = ("core", "utils", "data.transform", "data.source")


FILES = [path for folder in (PACKAGE, "tools", "deploy") for path in sorted((ROOT / folder).rglob("*.py"))]
CONFIGS = [str(path) for path in sorted(ROOT.glob("configs/**/*.yml")) if path.parent.name != "_base_"]


def module_name(path: Path) -> str:
    """ppdet_repro/data/reader.py -> data.reader; tools/train.py -> tools.train."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(part for part in parts if part not in (PACKAGE, "__init__"))


def imported(path: Path) -> Iterator[Tuple[str, int]]:
    """The package's modules that a file imports anywhere in it, without the package's name, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{item.name}" for item in node.names]
        elif isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE:
                yield name.partition(".")[2], node.lineno


def layer(module: str) -> int:
    """The number of a module's layer. What `ppdet_repro` itself exports is core's."""
    prefixes = {prefix: number for number, layer in enumerate(LAYERS) for prefix in layer}
    known = [prefix for prefix in prefixes if prefix and f"{module}.".startswith(f"{prefix}.")]
    assert known or "." not in module, f"module {module!r} is in no layer; add it to LAYERS"
    return prefixes[max(known, key=len, default="")]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_only_downward(path):
    module = module_name(path)
    for name, line in imported(path):
        assert layer(name) <= layer(module), f"{path}:{line}: {module} imports {name}, which is above it"
        sides = {module.split(".")[0], name.split(".")[0]}
        assert sides != {"data", "modeling"}, f"{path}:{line}: data and modeling never import each other"


@pytest.mark.parametrize("path", [f for f in FILES if layer(module_name(f)) < ENGINE], ids=module_name)
def test_components_see_no_config(path):
    own = module_name(path)
    for name, line in imported(path):
        sees_config = name.startswith(("core.config", "load_config", "build_model"))
        assert not sees_config or own.split(".")[0] in ("", "core"), f"{path}:{line}: {own} imports {name}"


def test_configs_data_sources_and_transforms_need_no_paddle():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
        for path in FILES
        if module_name(path).startswith(WITHOUT_PADDLE)
    ]
    program = f"""
import importlib, sys

class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError("Paddle is not here")

sys.meta_path.insert(0, NoPaddle())
for module in {modules!r}:
    importlib.import_module(module)
from ppdet_repro import load_config
from ppdet_repro.core.config import show
for path in {CONFIGS!r}:
    show(load_config(path))
assert "paddle" not in sys.modules
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
