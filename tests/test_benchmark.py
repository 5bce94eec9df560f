"""benchmark.sh: which rows there are, what they are compared with, and that it ends with a table and a plot."""
from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_yolof import tiny_model, write_config, write_images

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "deploy" / "benchmark"), str(ROOT / "deploy" / "python")]

import run as benchmark  # noqa: E402
from cases import ENGINES, SETS  # noqa: E402
from report import Row, markdown, point  # noqa: E402
from runtime.paddle_engine import Build  # noqa: E402

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.engine.export import export_model  # noqa: E402

CPU = Build(("cpu",), False)
GPU = Build(("cpu", "gpu"), True)


def reasons(build, quantised=False):
    return {f"{engine.name} {engine.precision}": engine.why_not(build, quantised) for engine in ENGINES}


def test_rows_that_need_a_gpu_say_so():
    assert reasons(CPU) == {
        "Paddle, oneDNN fp32": None,
        "Paddle, oneDNN bf16": None,
        "Paddle, oneDNN int8": "the model is not quantised",
        "Paddle, no oneDNN fp32": None,
        "Paddle, CUDA fp32": "no GPU",
        "TensorRT fp32": "no GPU",
        "TensorRT fp16": "no GPU",
        "TensorRT int8": "no GPU",
    }
    assert reasons(GPU)["TensorRT fp16"] is None and reasons(GPU)["TensorRT int8"] == "the model is not quantised"
    assert reasons(GPU._replace(tensorrt=False))["TensorRT fp32"] == "this Paddle has no TensorRT"
    assert reasons(CPU._replace(bfloat16=False))["Paddle, oneDNN bf16"] == "the CPU has no AVX-512"


def test_a_quantised_model_is_timed_in_int8_alone():
    quantised = reasons(CPU, quantised=True)
    assert quantised["Paddle, oneDNN int8"] is None
    assert quantised["Paddle, oneDNN fp32"] == "the model is quantised"


@pytest.mark.parametrize("model", [model for models in SETS.values() for model in models], ids=lambda m: m.config)
def test_every_model_of_the_sets_has_a_config(model):
    assert (ROOT / "configs" / f"{model.config}.yml").is_file()


def test_the_difference_is_relative_to_the_largest_value(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([4.0, -8.0]), np.array([1.0]))
    np.savez(tmp_path / "b.npz", np.array([4.0, -8.4]), np.array([1.02]))
    np.savez(tmp_path / "c.npz", np.array([4.0]), np.array([1.0]))
    assert benchmark.difference(tmp_path / "a.npz", tmp_path / "a.npz") == 0
    assert benchmark.difference(tmp_path / "b.npz", tmp_path / "a.npz") == pytest.approx(0.05)  # 0.4 / 8, 0.02 / 1
    assert benchmark.difference(tmp_path / "c.npz", tmp_path / "a.npz") == float("inf")


def test_the_table_marks_the_papers_figures_and_what_was_not_run():
    times = (10.04, 12.0, 20.0, 21.0)
    row = Row("pafnet", "Paddle", "fp32", "320x320", 1, 2, 3, 20, *times, 0.0, None, "random", "26.00 ms")
    missing = Row("pafnet", "TensorRT", "fp16", "320x320", 1, 2, 3, 20, remark="not run: no GPU")
    page = markdown([row, missing], {"hardware": "a CPU"})
    assert "| pafnet | Paddle | fp32 | 320x320 | 10.0 (12.0) | 20.0 (21.0) | 0.0e+00 |  | random | 26.00 ms |" in page
    assert "| TensorRT | fp16 | 320x320 | not run: no GPU |" in page
    assert "- hardware: a CPU" in page and "2 threads, 3 warm-up runs, 20 timed runs" in page
    assert "the papers' figures are the papers'" in page
    assert point(row, with_ap=False) == [10.04, 1e-8, "Paddle fp32"] and point(missing, with_ap=False) is None
    assert point(row._replace(ap=0.3), with_ap=True) == [20.0, 0.3, "Paddle fp32"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_config(folder, write_images(folder / "data", count=3))
    export_model(tiny_model(folder / "tiny.yml"), load_config(folder / "tiny.yml"), folder / "export")
    return folder


def test_it_ends_with_a_table_and_a_plot_of_ones_own_model(tiny):
    command = [str(ROOT / "benchmark.sh"), "--model_dir", str(tiny / "export" / "tiny"), "--repeats=2", "--warmup=1",
               f"--image_dir={tiny / 'data' / 'images'}", f"--eval_json={tiny / 'data' / 'truth.json'}",
               f"--output={tiny / 'out'}", "--cpu_threads=1"]  # fmt: skip
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with open(tiny / "out" / "benchmark.csv", newline="") as file:
        rows = {(row["engine"], row["precision"]): row for row in csv.DictReader(file)}
    assert len(rows) == len(ENGINES)
    plain = rows["Paddle, oneDNN", "fp32"]
    assert float(plain["end_to_end_ms"]) > 0 and 0 < float(plain["ap"]) < 1 and plain["network_ms"] == ""
    assert plain["threads"] == "1" and "Python 3" in plain["versions"] and plain["hardware"]
    if "gpu" not in done.stdout:
        assert rows["TensorRT", "fp16"]["remark"] == "not run: no GPU"
    assert "not run: no GPU" in (tiny / "out" / "benchmark.md").read_text()
    assert (tiny / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_folder_that_is_none_is_one_line(tmp_path):
    command = [str(ROOT / "benchmark.sh"), "--model_dir", str(tmp_path / "absent"), f"--output={tmp_path / 'out'}"]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300, check=False)
    assert done.returncode == 2 and "absent is not a folder" in done.stderr and "Traceback" not in done.stderr
