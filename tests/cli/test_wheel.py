"""A wheel is built from a source distribution and installed; its command then works in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from paths import CONFIGS, ROOT

SOURCES = ("ppdet_repro", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*command, cwd):
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy of the checkout so that nothing from earlier builds gets into it."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build_sdist = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build_sdist, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(*pip, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of python and ppdet-repro of a new environment: the wheel, and the packages of this environment
    behind it. An editable installation there is not seen, because Python reads no .pth files in that folder."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", venv, cwd=venv)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=venv)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=venv).strip()
    behind = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(packages, "behind.pth").write_text("\n".join(behind))
    return python.parent


@pytest.fixture
def command(programs, tmp_path):
    """Runs ppdet-repro in an empty folder; returns what it prints."""
    return lambda line: run(programs / "ppdet-repro", *line.split(), cwd=tmp_path)


def files_in(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_the_wheel_holds_every_file_and_every_config(programs, tmp_path):
    code = "import ppdet_repro; print(ppdet_repro.__file__)"
    package = Path(run(programs / "python", "-c", code, cwd=tmp_path).strip()).parent
    assert programs.parent in package.parents
    assert files_in(package) == files_in(ROOT / "ppdet_repro") | {"configs" / file for file in files_in(CONFIGS)}


def test_from_generated_data_to_detections(command, tmp_path):
    config, exported = "demo/yolof_demo.yml", "output_inference/yolof_demo"
    weights = "-o weights=output/yolof_demo/best_model.pdparams"
    command("data synth dataset/demo --train 8 --val 4 --size 64 --objects 1-3")
    command(f"train -c {config} --eval --processes 2 -o epoch=1 snapshot_epoch=1")
    command(f"eval -c {config} {weights} --report output/report")
    command(f"export -c {config} {weights}")
    assert "corners, pixels" in command(
        f"verify -c {config} {weights} --model_dir output_inference/yolof_demo --verify 2"
    )
    command(f"infer --model_dir {exported} --image_dir dataset/demo/val --save_results")
    for file in ("bbox.json", "report/report.html", "yolof_demo/checkpoints/epoch_0001/model.pdparams"):
        assert (tmp_path / "output" / file).is_file()
    assert len(list((tmp_path / "output").glob("*.jpg"))) == 4
