"""Installation: the lock file satisfies pyproject.toml, every script answers --help, the README's commands exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

from ppdet_repro.cli.main import COMMANDS
from tools.demo import CONFIG, STEPS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
SCRIPTS = [
    path for folder in ("tools", "deploy/python") for path in sorted(ROOT.glob(f"{folder}/*.py")) if path.stem[0] != "_"
]
MODULES = {  # that are not named like their package
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "paddle": "paddlepaddle",
    "faster_coco_eval": "faster-coco-eval",
}
OUR_FOLDERS = {"_checkout", "phone", "cases", "report"}  # modules beside the scripts that import them


def locked() -> dict[str, Requirement]:
    """The lock file's lines by package."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def test_the_lock_file_pins_exact_versions():
    for requirement in locked().values():
        assert [s.operator for s in requirement.specifier] == ["=="], requirement


@pytest.mark.parametrize("text", [*REQUIREMENTS, *EXTRAS["dev"], *EXTRAS["serve"]])
def test_the_lock_file_satisfies_pyproject_toml(text):
    wanted = Requirement(text)
    version = next(iter(locked()[canonicalize_name(wanted.name)].specifier)).version
    assert wanted.specifier.contains(version)


def test_what_slim_shares_with_the_lock_file_agrees_with_it():
    for wanted in map(Requirement, EXTRAS["slim"]):
        if wanted.name in locked():
            assert wanted.specifier.contains(next(iter(locked()[wanted.name].specifier)).version)


def top_level_imports(path: Path) -> set[str]:
    """The first words of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name.split(".")[0] for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def is_installed_package(module: str) -> bool:
    """Whether a module is neither Python's nor ours."""
    spec = importlib.util.find_spec(module)
    return spec is None or "site-packages" in str(spec.origin)


def test_every_package_that_is_imported_is_declared():
    texts = REQUIREMENTS + [text for extra in EXTRAS.values() for text in extra]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared |= set(re.findall(r"--no-deps (\w+)==", makefile))  # packages whose own needs clash with ours
    for folder in ("ppdet_repro", "tools", "deploy", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for module in top_level_imports(path) - OUR_FOLDERS:
                package = canonicalize_name(MODULES.get(module, module))
                assert package in declared or not is_installed_package(module), f"{path}: {module}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_answers_help_without_loading_paddle(script, tmp_path):
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert not re.search(r"\|\s+paddle$", done.stderr, re.MULTILINE), "Paddle was imported"


def test_scripts_run_from_a_checkout_that_is_not_installed(tmp_path):
    """-S leaves out site-packages, and so the editable installation; these two need no other package for --help."""
    for script in ("tools/train.py", "deploy/python/infer.py"):
        command = [sys.executable, "-S", "-E", str(ROOT / script), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_readmes_commands_exist():
    text = README + (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert target in make_targets(), f"make {target}"
    for command in re.findall(r"(?:^|`)ppdet-repro ([a-z]+)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for path in re.findall(r"\b(?:tools|deploy|benchmarks|docs)/[\w/]+\.(?:py|md)\b", text):
        assert (ROOT / path).is_file(), path
    for config in re.findall(r"configs/[\w/]+\.yml", text):
        assert (ROOT / config).is_file() or config.endswith("cells.yml"), config


def test_the_demo_runs_commands_that_exist():
    for command in STEPS.values():
        assert (ROOT / command.split()[0]).is_file(), command
    assert (ROOT / CONFIG).is_file()


def test_the_ci_runs_the_tests_as_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text(encoding="utf-8")


def fake_python(path: Path, version: str) -> None:
    """An executable that calls itself that version and can do what a Python must."""
    path.parent.mkdir(parents=True, exist_ok=True)
    major_minor = ".".join(version.split(".")[:2])
    unusable = int(major_minor not in ("3.9", "3.10", "3.11", "3.12"))
    path.write_text(
        f"#!/bin/sh\ncase $2 in\n*ensurepip*) exit {unusable};;\n*%d*) echo {major_minor};;\n"
        '*platform*) echo Linux x86_64;;\n*executable*) echo "$0";;\nesac\n'
    )
    path.chmod(0o755)


def find_python(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess:
    """Run tools/find_python.sh where nothing is on PATH but tmp_path/bin."""
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), **environ}
    script = str(ROOT / "tools" / "find_python.sh")
    return subprocess.run([shutil.which("sh"), script], env=env, capture_output=True, text=True)


def test_python_3_10_is_preferred_wherever_it_is(tmp_path):
    fake_python(tmp_path / "bin" / "python3.11", "3.11.7")
    assert find_python(tmp_path).stdout.strip() == str(tmp_path / "bin" / "python3.11")
    fake_python(tmp_path / ".pyenv" / "versions" / "3.10.13" / "bin" / "python", "3.10.13")
    found = find_python(tmp_path)
    assert found.stdout.strip() == str(tmp_path / ".pyenv/versions/3.10.13/bin/python")
    assert found.stderr == ""
    fake_python(tmp_path / "bin" / "python3.10", "3.10.2")
    assert find_python(tmp_path).stdout.strip() == str(tmp_path / "bin" / "python3.10")


def test_a_pyenv_shim_that_does_not_run_is_passed_over(tmp_path):
    fake_python(tmp_path / "bin" / "python3.12", "3.12.1")
    (tmp_path / "bin" / "python3.10").write_text("#!/bin/sh\necho pyenv: command not found >&2\nexit 127\n")
    (tmp_path / "bin" / "python3.10").chmod(0o755)
    found = find_python(tmp_path)
    assert found.stdout.strip().endswith("python3.12")
    assert "3.10 is the tested version" in found.stderr and "the extra lite (it has no wheel)" in found.stderr


def test_the_users_python_is_respected_or_refused_in_one_line(tmp_path):
    fake_python(tmp_path / "bin" / "python3.10", "3.10.2")
    fake_python(tmp_path / "mine", "3.9.1")
    assert find_python(tmp_path, PYTHON=str(tmp_path / "mine")).stdout.strip() == str(tmp_path / "mine")
    fake_python(tmp_path / "new", "3.13.0")
    refused = find_python(tmp_path, PYTHON=str(tmp_path / "new"))
    assert refused.returncode == 2 and refused.stderr.startswith("error: PYTHON=")
    assert refused.stderr.count("\n") == 1


def test_without_any_python_the_error_says_what_to_install(tmp_path):
    (tmp_path / "bin").mkdir()
    missing = find_python(tmp_path)
    assert missing.returncode == 2 and "install Python 3.10" in missing.stderr


MODULES = {  # what a distribution is called that does not have its module's name
    "cv2": "opencv-python-headless",
    "paddle": "paddlepaddle",
    "PIL": "Pillow",
    "yaml": "PyYAML",
    "faster_coco_eval": "faster-coco-eval",
    "google": "paddlepaddle",  # protobuf, which Paddle itself needs
    "starlette": "fastapi",
    "tidecv": "appdirs",  # `make tide` installs it beside what it imports
}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names was added in Python 3.10")
def test_every_imported_package_is_a_declared_dependency():
    """The wheel's own test runs where all packages of the tests are installed, so it would not find a missing one."""
    listed = [*REQUIREMENTS, *(item for extra in EXTRAS.values() for item in extra)]
    declared = {canonicalize_name(Requirement(item).name) for item in listed}
    imported = set()
    for path in (ROOT / "ppdet_repro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {item.name.split(".")[0] for item in node.names}
    imported -= {*sys.stdlib_module_names, "ppdet_repro", ""}
    assert {name for name in imported if canonicalize_name(MODULES.get(name, name)) not in declared} == set()
