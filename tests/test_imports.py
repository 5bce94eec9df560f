"""Which modules may import which, which private names they may use, and what works where Paddle is not installed.

All rules but the last are checked on the syntax trees.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Tuple

import pytest
from paths import ROOT

import ppdet_repro

PACKAGE = "ppdet_repro"

# The lowest layer comes first. A module may import from its own layer and from those below. The longest prefix counts:
# "modeling" stands for the files in that folder that no other entry names (layers, nms, ...).
LAYERS = [
    ("core", "utils", "paddle_private", ""),
    ("onednn", "modeling.sizes"),
    ("modeling.boxes", "modeling.anchors", "modeling.shape_spec"),
    ("modeling", "data.transform", "data.source", "optimizer", "metrics"),
    ("modeling.heads", "data"),
    ("modeling.architectures", "slim", "runtime"),
    ("engine",),
    ("studies",),
    ("serve", "cli", "__main__"),
    ("tools", "deploy"),
]
READS_PARSERS = "_reference.py"  # it lists the flags of all commands
ARGPARSE = {"_actions", "_get_formatter", "_format_args", "_expand_help", "_get_default_metavar_for_optional"}
READS_YAML = "runtime.model_folder"  # it reads infer_cfg.yml with the loader and the types of configs
ENGINE = LAYERS.index(("engine",))
WITHOUT_PADDLE = ("core", "utils", "data.transform", "data.source", "runtime")  # but for runtime/paddle_*.py

MAX_FILE, MAX_FUNCTION = 350, 60  # lines
PRIVATE_FOLDER = ROOT / PACKAGE / "paddle_private"  # the only place where Paddle's private names may be used
NAMEDTUPLES = {"_replace", "_asdict", "_fields"}  # these are public in spite of their underscore

FILES = [path for folder in (PACKAGE, "tools", "deploy") for path in sorted((ROOT / folder).rglob("*.py"))]
INIT = ROOT / PACKAGE / "__init__.py"  # exports functions of all layers, lazily
OTHERS = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
CONFIGS = [str(path) for path in sorted(ROOT.glob("configs/**/*.yml")) if path.parent.name != "_base_"]


def module_name(path: Path) -> str:
    """ppdet_repro/data/reader.py -> data.reader; tools/train.py -> tools.train."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(part for part in parts if part not in (PACKAGE, "__init__"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[Tuple[str, int]]:
    """The package's modules that a file imports anywhere in it, without the package's name, and the lines."""
    for name, line in all_imported(path):
        if name.split(".")[0] == PACKAGE:
            yield name.partition(".")[2], line


def all_imported(path: Path) -> Iterator[Tuple[str, int]]:
    """Everything that a file imports as a dotted name, and the lines."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{item.name}", node.lineno) for item in node.names)
        elif isinstance(node, ast.Import):
            yield from ((item.name, node.lineno) for item in node.names)


def layer(module: str) -> int:
    """The number of a module's layer. What `ppdet_repro` itself exports belongs to the module that defines it."""
    module = ppdet_repro._MODULES.get(module, module)
    prefixes = {prefix: number for number, layer in enumerate(LAYERS) for prefix in layer}
    known = [prefix for prefix in prefixes if prefix and f"{module}.".startswith(f"{prefix}.")]
    assert known or "." not in module, f"module {module!r} is in no layer; add it to LAYERS"
    return prefixes[max(known, key=len, default="")]


@pytest.mark.parametrize("path", [path for path in FILES if path != INIT], ids=module_name)
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
        allowed = own.split(".")[0] in ("", "core") or own == READS_YAML
        assert allowed or not sees_config, f"{path}:{line}: {own} imports {name}"


def private_names(path: Path) -> Dict[int, str]:
    """The private names of Paddle that a file imports, and those of any object that it accesses, by line.

    Allowed are the attributes of `self`, `cls` and `super()`, and those of argparse, which has no others for types, nor
    for what a parser takes.
    """
    found: Dict[int, str] = {}
    for name, line in all_imported(path):
        if name.startswith(("paddle.base", "paddle.fluid", "paddle._")) or name.endswith(".LayerHelper"):
            found[line] = name
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        own = isinstance(owner, ast.Name) and owner.id in ("self", "cls", "argparse")
        own = own or (isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super")
        public = NAMEDTUPLES | (ARGPARSE if path.name == READS_PARSERS else set())
        private = node.attr.startswith("_") and not node.attr.endswith("__") and node.attr not in public
        if (private and not own) or ast.unparse(node) in ("paddle.base", "paddle.fluid"):
            found[node.lineno] = ast.unparse(node)
    return found


@pytest.mark.parametrize(
    "code, name",
    [
        ("from paddle import _C_ops", "paddle._C_ops"),
        ("import paddle.base.core", "paddle.base.core"),
        ("from paddle.base.layer_helper import LayerHelper", "paddle.base.layer_helper.LayerHelper"),
        ("paddle._C_ops.relu(x)", "paddle._C_ops"),
        ("x = paddle.base.core", "paddle.base"),
        ("optimizer._accumulators", "optimizer._accumulators"),
        ("self.optimizer._accumulators", "self.optimizer._accumulators"),
        ("self._own, cls._own, super()._own, row._replace(a=1), x.__class__", None),
    ],
)
def test_which_names_are_private(tmp_path, code, name):
    (tmp_path / "a.py").write_text(code)
    assert set(private_names(tmp_path / "a.py").values()) == ({name} if name else set())


# What tells Paddle's version, and what `versions` derives from it. Outside the folder code calls functions that are
# right for every version, so that no condition on a version spreads.
VERSIONS = {"paddle.__version__", "paddle.version", "paddle.framework.use_pir_api", "inference.get_version"}
DERIVED = {"SAVES_PIR", "PROGRAM_SUFFIX", "TESTED", "PADDLE"}


def version_questions(path: Path) -> Dict[int, str]:
    """Where a file asks for Paddle's version, by line."""
    found = {}
    for name, line in all_imported(path):
        if name in VERSIONS or name.split(".")[-1] in DERIVED:
            found[line] = name
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and (ast.unparse(node) in VERSIONS or node.attr in DERIVED):
            found[node.lineno] = ast.unparse(node)
    return found


@pytest.mark.parametrize("path", [f for f in FILES if PRIVATE_FOLDER not in f.parents], ids=module_name)
def test_paddles_private_names_and_its_version_are_used_in_one_folder_only(path):
    assert {**private_names(path), **version_questions(path)} == {}


@pytest.mark.parametrize(
    "code",
    [
        "if paddle.__version__ >= '3': pass",
        "from paddle import version",
        "import paddle.version",
        "from ppdet_repro.paddle_private.versions import SAVES_PIR",
        "versions.SAVES_PIR",
    ],
)
def test_what_asks_for_a_version(tmp_path, code):
    (tmp_path / "a.py").write_text(code)
    assert len(version_questions(tmp_path / "a.py")) == 1


def test_paddleslim_is_imported_in_one_place_only():
    named = ((path, name.split(".")[0]) for path in FILES for name, _ in all_imported(path))
    places = {module_name(path) for path, name in named if name == "paddleslim"}
    assert places == {"slim.engine"}


@pytest.mark.parametrize("path", [*FILES, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_module_search_path_stays_as_it_is(path):
    """Files named _checkout.py may extend it: they let a checkout run without an installation."""
    if path.name != "_checkout.py":
        edits = [node.lineno for node in ast.walk(tree_of(path)) if is_sys_path(node)]
        assert edits == [], f"{path} uses sys.path"
    assert "noqa: E" + "402" not in path.read_text(encoding="utf-8"), f"{path} has imports below other code"


def is_sys_path(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_have_a_readable_length(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
    functions = [n for n in ast.walk(tree_of(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION}
    assert long == {}


def test_configs_data_sources_transforms_and_the_runtime_need_no_paddle():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
        for path in FILES
        if module_name(path).startswith(WITHOUT_PADDLE) and not path.name.startswith("paddle_")
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


@pytest.mark.parametrize("path", [f for f in FILES if module_name(f).startswith(("modeling", "slim"))], ids=module_name)
def test_no_forward_calls_the_one_of_its_base_class(path):
    """Paddle cannot trace such a call, so a model with it cannot be exported."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and node.attr == "forward"]
    assert [node.lineno for node in calls if ast.unparse(node.value).startswith("super(")] == []
