"""Installation: lock files satisfy pyproject.toml, every script answers --help, make finds a Python, the README's
commands exist."""

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
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
PYTHONS = {"2.6": ("3.9", "3.10", "3.11", "3.12"), "3.2": ("3.9", "3.10", "3.11", "3.12", "3.13")}  # by Paddle
PAIRS = [(paddle, python) for paddle, pythons in PYTHONS.items() for python in pythons]
SCRIPTS = [
    path for folder in ("tools", "deploy/python") for path in sorted(ROOT.glob(f"{folder}/*.py")) if path.stem[0] != "_"
]
MODULES = {  # that are not named like their package
    "cuda": "cuda-bindings",
    "cv2": "opencv-python-headless",
    "google": "paddlepaddle",  # protobuf, which Paddle itself needs
    "paddle": "paddlepaddle",
    "PIL": "pillow",
    "starlette": "fastapi",
    "yaml": "pyyaml",
}
OUR_FOLDERS = {"_checkout", "phone", "cases", "report"}  # modules beside the scripts that import them


def lock_lines(paddle: str) -> list[Requirement]:
    """The requirements in a lock file."""
    lines = (ROOT / f"requirements-paddle{paddle}.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    """Whether the marker of a requirement, if it has one, is true for that Python."""
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


def locked(paddle: str, python: str) -> dict[str, str]:
    """The versions by package that a lock file has for a Python. No package may have two."""
    pins = [(canonicalize_name(line.name), line) for line in lock_lines(paddle) if applies(line, python)]
    assert len(dict(pins)) == len(pins), f"Paddle {paddle}, Python {python}: a package has two versions"
    return {name: next(iter(line.specifier)).version for name, line in pins}


def disagreements(texts: list[str], paddle: str, python: str, missing: bool = True) -> list[str]:
    """The requirements that the lock file does not satisfy; those that it does not have count if `missing` is true."""
    pins, found = locked(paddle, python), []
    for wanted in map(Requirement, texts):
        version = pins.get(canonicalize_name(wanted.name))
        if not applies(wanted, python) or (version is None and not missing):
            continue
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted}, locked: {version}")
    return found


def test_there_is_a_lock_file_for_each_paddle():
    assert {path.name for path in ROOT.glob("requirements-paddle*.lock")} == {
        f"requirements-paddle{paddle}.lock" for paddle in PYTHONS
    }


@pytest.mark.parametrize("paddle", PYTHONS)
def test_the_lock_files_pin_exact_versions(paddle):
    for line in lock_lines(paddle):
        assert [s.operator for s in line.specifier] == ["=="] and "*" not in str(line.specifier), line


@pytest.mark.parametrize("paddle, python", PAIRS)
def test_the_lock_files_satisfy_pyproject_toml(paddle, python):
    assert python in Requirement(f"python{PROJECT['requires-python']}").specifier
    texts = [*REQUIREMENTS, *EXTRAS["dev"], *EXTRAS["serve"], *EXTRAS["onnx"]]
    assert disagreements(texts, paddle, python) == []
    assert locked(paddle, python)["paddlepaddle"].startswith(paddle)


@pytest.mark.parametrize("python", PYTHONS["2.6"])
def test_the_extra_for_paddle_2_6_is_what_its_lock_file_has(python):
    assert disagreements(EXTRAS["paddle26"], "2.6", python) == []


@pytest.mark.parametrize("paddle, python", PAIRS)
def test_what_slim_and_lite_share_with_the_lock_files_agrees_with_them(paddle, python):
    assert disagreements([*EXTRAS["slim"], *EXTRAS["lite"]], paddle, python, missing=False) == []


def test_both_paddles_are_tested_with_the_same_tools():
    for python in PYTHONS["2.6"]:
        for name in (canonicalize_name(Requirement(text).name) for text in EXTRAS["dev"]):
            assert locked("2.6", python)[name] == locked("3.2", python)[name], name


def test_every_python_of_the_lock_files_is_in_the_classifiers():
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert named == list(PYTHONS["3.2"])


@pytest.mark.parametrize("paddle, python", PAIRS)
def test_paddle_opencv_and_numpy_fit_each_other(paddle, python):
    """Paddle 2.6 and OpenCV 4.6 are built for NumPy 1, OpenCV from 4.12 on for NumPy 2."""
    pins = locked(paddle, python)
    assert (pins["numpy"][0], pins["opencv-python-headless"][:3]) == {"2.6": ("1", "4.6"), "3.2": ("2", "4.1")}[paddle]


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
    without = (ROOT / "requirements-no-deps.lock").read_text(
        encoding="utf-8"
    )  # packages whose own needs clash with ours
    declared |= set(re.findall(r"^(\w+)==", without, re.MULTILINE))
    # of users who have them: supervision depends on opencv-python, a second package for cv2; PyTorch is run by a Python
    # of its own (benchmarks/train_cpu.py)
    declared |= {"supervision", "torch"}
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
    return set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_the_readmes_commands_exist():
    text = README + (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert target in make_targets(), f"make {target}"
    for command in re.findall(r"(?:^|`)ppdet-repro ([a-z_]+)", text, re.MULTILINE):
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
    assert os.access(script, os.X_OK)
    runs = re.findall(r"^run (\w+) PADDLE=([\d.]+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(paddle for goal, paddle in runs if goal != "docs") == sorted(PYTHONS)
    assert runs[0][0] == "test" and {goal for goal, _ in runs[1:]} == {"pytest", "docs"}


def outside_of_make(**more: str) -> dict[str, str]:
    """The environment without what a make that runs these tests, or its user, has set."""
    ours = {"PADDLE", "PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **more}


def make(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=outside_of_make(**environ), capture_output=True, text=True
    )


def default_paddle() -> str:
    return re.search(r"^DEFAULT_PADDLE := (.*)$", MAKEFILE, re.MULTILINE)[1]


@pytest.mark.parametrize("paddle", PYTHONS)
def test_each_paddle_has_its_environment(paddle):
    folder = ".venv" if paddle == default_paddle() else f".venv-paddle{paddle}"
    commands = f"tools/make_venv.sh {folder} {paddle}\n{folder}/bin/python -m pytest"
    assert make("--dry-run", "pytest", f"PADDLE={paddle}").stdout.startswith(commands)
    assert make("--dry-run", "pytest", PADDLE=paddle).stdout.startswith(commands)


def test_the_default_paddle_is_the_one_that_the_documentation_names():
    assert f"tools/make_venv.sh .venv {default_paddle()}\n" in make("--dry-run", "venv").stdout
    for page in ("README.md", "docs/install.md"):
        assert f"`make` installs Paddle {default_paddle()}," in (ROOT / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("paddle", ["3.2.2", "4", ""])
def test_an_unknown_paddle_is_refused_in_one_line(paddle):
    refused = make("demo", f"PADDLE={paddle}")
    assert refused.returncode == 2 and refused.stdout == ""
    assert f"PADDLE is '{paddle}', but must be one of: 2.6 3.2" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "broken, named", [("2.6", "make test PADDLE=2.6, make docs PADDLE=2.6"), ("3.2", "make pytest PADDLE=3.2")]
)
def test_the_ci_runs_both_paddles_and_names_what_failed(tmp_path, broken, named):
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text('test pytest docs:\n\t@test "$(PADDLE)" != "$(BROKEN)"\n')
    passed, failed = (
        subprocess.run([tmp_path / ".ci" / "run"], env=outside_of_make(BROKEN=paddle), capture_output=True, text=True)
        for paddle in ("none", broken)
    )
    assert passed.returncode == 0 and failed.returncode == 1
    assert passed.stdout.count("== make") == failed.stdout.count("== make") == 3
    assert failed.stderr.endswith(f"error: failed: {named}\n")


def fake_python(path: Path, version: str) -> None:
    """An executable that is this Python and says that it has that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = tuple(map(int, version.split(".")))
    claim = f"import sys; sys.version_info = {numbers}; sys.executable = '$0'"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -c "{claim}\n$2"\n')
    path.chmod(0o755)


def find_python(tmp_path: Path, paddle: str = "2.6", **environ: str) -> subprocess.CompletedProcess:
    """Run tools/find_python.sh where nothing is on PATH but tmp_path/bin."""
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), **environ}
    script = str(ROOT / "tools" / "find_python.sh")
    return subprocess.run([shutil.which("sh"), script, paddle], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("paddle", PYTHONS)
def test_python_3_10_is_preferred_wherever_it_is(tmp_path, paddle):
    fake_python(tmp_path / "bin" / "python3.11", "3.11.7")
    assert find_python(tmp_path, paddle).stdout.strip() == str(tmp_path / "bin" / "python3.11")
    fake_python(tmp_path / ".pyenv" / "versions" / "3.10.13" / "bin" / "python", "3.10.13")
    found = find_python(tmp_path, paddle)
    assert found.stdout.strip() == str(tmp_path / ".pyenv/versions/3.10.13/bin/python")
    assert found.stderr == ""
    fake_python(tmp_path / "bin" / "python3.10", "3.10.2")
    assert find_python(tmp_path, paddle).stdout.strip() == str(tmp_path / "bin" / "python3.10")


def test_a_pyenv_shim_that_does_not_run_is_passed_over(tmp_path):
    fake_python(tmp_path / "bin" / "python3.12", "3.12.1")
    (tmp_path / "bin" / "python3.10").write_text("#!/bin/sh\necho pyenv: command not found >&2\nexit 127\n")
    (tmp_path / "bin" / "python3.10").chmod(0o755)
    found = find_python(tmp_path)
    assert found.stdout.strip().endswith("python3.12")
    assert "3.10 is the tested version" in found.stderr and "the extra lite (it has no wheel)" in found.stderr


def test_paddle_3_takes_python_3_13_and_says_what_is_missing(tmp_path):
    fake_python(tmp_path / "bin" / "python3.13", "3.13.0")
    found = find_python(tmp_path, "3.2")
    assert found.stdout.strip().endswith("python3.13")
    assert "Python 3.13 is used, without ONNX export (paddle2onnx has no wheel)" in found.stderr
    refused = find_python(tmp_path, "2.6")
    assert refused.returncode == 2 and "no Python 3.9 to 3.12" in refused.stderr
    assert refused.stderr.endswith("; Python 3.13 needs PADDLE=3.2\n")


def test_the_users_python_is_respected_or_refused_in_one_line(tmp_path):
    fake_python(tmp_path / "bin" / "python3.10", "3.10.2")
    fake_python(tmp_path / "mine", "3.9.1")
    assert find_python(tmp_path, PYTHON=str(tmp_path / "mine")).stdout.strip() == str(tmp_path / "mine")
    for paddle, version in (("2.6", "3.13.0"), ("3.2", "3.14.0"), ("3.2", "3.8.18")):
        fake_python(tmp_path / "other", version)
        refused = find_python(tmp_path, paddle, PYTHON=str(tmp_path / "other"))
        assert refused.returncode == 2 and refused.stderr.startswith("error: PYTHON=")
        assert refused.stderr.count("\n") == 1


def test_without_any_python_the_error_says_what_to_install(tmp_path):
    (tmp_path / "bin").mkdir()
    missing = find_python(tmp_path)
    assert missing.returncode == 2 and "install Python 3.10" in missing.stderr
