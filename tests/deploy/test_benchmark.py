"""benchmark.sh: the rows, the outputs that they are compared with, and the table and the plot."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from argparse import Namespace
from importlib.util import find_spec

import cases
import numpy as np
import pytest
import run as benchmark
from cases import ENGINES, SETS, Model
from measure import timed
from paths import ROOT
from report import Row, fastest, markdown, point
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.runtime.paddle_options import Build

CPU = Build(("cpu",), False)
GPU = Build(("cpu", "gpu"), True)


PACKAGES = {"paddle", "onnxruntime", "openvino", "paddlelite"}


def reasons(build, packages=PACKAGES, **options):
    options = {"quantized": False, **options}
    return {f"{engine.name} {engine.precision}": engine.why_not(build, packages, **options) for engine in ENGINES}


def test_rows_that_need_a_gpu_say_so():
    assert reasons(CPU) == {
        "Paddle, oneDNN fp32": None,
        "Paddle, oneDNN bf16": None,
        "Paddle, oneDNN int8": "the model is not quantized",
        "Paddle, no oneDNN fp32": None,
        "ONNX Runtime fp32": None,
        "OpenVINO fp32": None,
        "Paddle-Lite, x86 fp32": None,
        "ONNX Runtime int8, simulated": "the model is not quantized",
        "OpenVINO int8": "the model is not quantized",
        "Paddle-Lite, x86 int8": "the model is not quantized",
        "Paddle, CUDA fp32": "no GPU",
        "TensorRT fp32": "no GPU",
        "TensorRT fp16": "no GPU",
        "TensorRT int8": "no GPU",
    }
    assert reasons(GPU)["TensorRT fp16"] is None and reasons(GPU)["TensorRT int8"] == "the model is not quantized"
    assert reasons(GPU._replace(tensorrt=False))["TensorRT fp32"] == "this Paddle has no TensorRT"
    assert reasons(CPU._replace(bfloat16=False))["Paddle, oneDNN bf16"] == "the CPU has no AVX-512"


def test_rows_whose_runtime_is_missing_say_so():
    found = reasons(CPU, {"paddle"})
    assert found["OpenVINO fp32"] == "openvino is not installed"
    assert found["ONNX Runtime fp32"] == "onnxruntime is not installed"
    assert found["Paddle-Lite, x86 fp32"] == "paddlelite is not installed"
    assert found["Paddle, oneDNN fp32"] is None and found["TensorRT fp32"] == "no GPU"
    batches = reasons(CPU, batch_size=2)
    assert batches["Paddle-Lite, x86 fp32"] == "Paddle-Lite's models take one image per batch"
    assert batches["ONNX Runtime fp32"] is None


def test_a_quantized_model_is_timed_in_int8_alone():
    quantized = reasons(CPU, quantized=True)
    assert quantized["Paddle, oneDNN int8"] is None
    assert (
        quantized["ONNX Runtime int8, simulated"]
        is quantized["OpenVINO int8"]
        is quantized["Paddle-Lite, x86 int8"]
        is None
    )
    assert quantized["Paddle, oneDNN fp32"] == quantized["ONNX Runtime fp32"] == "the model is quantized"


@pytest.mark.parametrize("model", [model for models in SETS.values() for model in models], ids=lambda m: m.config)
def test_every_model_of_the_sets_has_a_config(model):
    assert (ROOT / "configs" / f"{model.config}.yml").is_file()


def test_the_difference_is_relative_to_the_largest_value(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([4.0, -8.0]), np.array([1.0]))
    np.savez(tmp_path / "b.npz", np.array([4.0, -8.4]), np.array([1.02]))
    np.savez(tmp_path / "c.npz", np.array([4.0]), np.array([1.0]))
    np.savez(tmp_path / "d.npz", np.array([4.0, -8.0]))
    assert benchmark.difference(tmp_path / "a.npz", tmp_path / "a.npz") == 0
    assert benchmark.difference(tmp_path / "b.npz", tmp_path / "a.npz") == pytest.approx(0.05)  # 0.4 / 8, 0.02 / 1
    assert benchmark.difference(tmp_path / "c.npz", tmp_path / "a.npz") == float("inf")
    assert benchmark.difference(tmp_path / "d.npz", tmp_path / "a.npz") == float("inf")


def test_boxes_that_are_not_the_first_engines_are_a_failure(tmp_path):
    right = np.array([[0, 0.9, 0, 0, 64, 64], [0, 0.8, 100, 100, 164, 164], [1, 0.7, 0, 0, 64, 64]])
    wrong = right.copy()
    wrong[:2, 4:] = right[:2, 2:4] + 4  # 16 times smaller
    for name, rows in (("right", right), ("wrong", wrong)):
        np.save(tmp_path / f"{name}.npy", rows)
    assert benchmark.other_boxes(tmp_path / "right.npy", tmp_path / "right.npy") == ""
    expected = "failed: other boxes than the first engine's, 1 of the best 3 agree"
    assert benchmark.other_boxes(tmp_path / "wrong.npy", tmp_path / "right.npy") == expected


def test_slow_engines_are_run_less_often_but_three_times():
    calls = [lambda: time.sleep(0.002)] * 9
    assert len(timed(calls, warmup=1, seconds=60)) == 8
    assert len(timed(calls, warmup=1, seconds=0.001)) == 3
    assert min(timed(calls, warmup=1, seconds=0.001)) >= 2  # milliseconds


def test_the_table_marks_the_papers_figures_and_what_was_not_run():
    times = (10.04, 12.0, 20.0, 21.0)
    row = Row("pafnet", "Paddle", "fp32", "320x320", 1, 2, 3, 20, *times, 0.0, 1.5, None, "random", "26.00 ms")
    missing = Row("pafnet", "TensorRT", "fp16", "320x320", 1, 2, 3, 20, remark="not run: no GPU")
    page = markdown([row, missing], {"hardware": "a CPU"})
    assert (
        "| pafnet | Paddle | fp32 | 320x320 | 10.0 (12.0) | 20.0 (21.0) | 0.0e+00 | 1.50 |  | random | 26.00 ms |"
        in page
    )
    assert "| TensorRT | fp16 | 320x320 | not run: no GPU |" in page
    assert "- hardware: a CPU" in page and "3 warm-up runs, then 20 timed runs" in page
    slow = row._replace(engine="Paddle-Lite, x86", threads=None, repeats=3)
    assert "then 3 to 20 timed runs" in markdown([row, slow, missing], {})
    assert "the papers' figures are quoted" in page
    assert point(row, with_ap=False) == (10.04, 1e-8)
    assert point(missing, with_ap=False) is None
    assert point(row._replace(ap=0.3), with_ap=True) == (20.0, 0.3)


def test_a_line_names_the_fastest_engine_in_float32():
    paddle = Row("pafnet", "Paddle", "fp32", "320x320", 1, 2, 3, 20, end_to_end_ms=30.0)
    other = paddle._replace(engine="ONNX Runtime", end_to_end_ms=20.0)
    low = paddle._replace(precision="bf16", end_to_end_ms=1.0)
    wrong = paddle._replace(engine="OpenVINO", end_to_end_ms=2.0, remark="failed: other boxes")
    line = "pafnet in fp32, end to end: ONNX Runtime is the fastest, before Paddle (1.50 times its time)"
    assert fastest([paddle, other, low, wrong]) == line
    assert f"\n- {line}\n" in markdown([paddle, other, low, wrong], {})
    assert fastest([paddle, low, wrong]) == ""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A little YOLOF, exported for Paddle, and for ONNX where that is installed."""
    folder = tmp_path_factory.mktemp("benchmark")
    write_config(folder, write_images(folder / "data", count=3))
    cfg, model = load_config(folder / "tiny.yml"), tiny_model(folder / "tiny.yml")
    export_model(model, cfg, folder / "export")
    if find_spec("paddle2onnx"):
        export_model(model, cfg, folder / "export", "onnx")
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
    weights = (tiny / "export" / "tiny" / "model.pdiparams").stat().st_size / 1e6
    assert weights < float(plain["megabytes"]) < weights + 0.5  # with the program
    assert plain["threads"] == "1" and "Python 3" in plain["versions"] and plain["hardware"]
    if "gpu" not in done.stdout:
        assert rows["TensorRT", "fp16"]["remark"] == "not run: no GPU"
    lite = "paddlelite is not installed"
    if find_spec("paddlelite"):
        lite = f"there is no {tiny / 'export' / 'tiny_lite'}; tools/export_model.py --target lite writes it"
    assert rows["Paddle-Lite, x86", "fp32"]["remark"] == f"not run: {lite}"
    if find_spec("paddle2onnx") and find_spec("onnxruntime"):
        other = rows["ONNX Runtime", "fp32"]
        assert other["ap"] == plain["ap"] and float(other["end_to_end_ms"]) > 0 and other["repeats"] == "2"
    assert "not run: no GPU" in (tiny / "out" / "benchmark.md").read_text()
    assert (tiny / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_an_export_that_fails_or_is_missing_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "ENGINES", [ENGINES[0], ENGINES[-1]])
    monkeypatch.setattr(sys, "argv", ["run.py", "--repeats=1", f"--output={tmp_path}"])
    monkeypatch.setitem(SETS, "small", [Model("yolof/absent", "32 FPS")])
    benchmark.main()
    with open(tmp_path / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["paper"] for row in rows] == ["32 FPS"] * 2
    assert rows[0]["remark"].startswith("not run: cannot be exported: ") and "absent.yml" in rows[0]["remark"]
    assert rows[1]["remark"].startswith("not run: ")
    assert (tmp_path / "benchmark.png").is_file()


@pytest.mark.parametrize("target", ["paddle", "lite"])
def test_a_model_of_free_size_is_timed_alone_and_whole(target, tmp_path):
    """A set's model with made-up weights is exported twice, for Paddle-Lite at the size of its Resize."""
    if target == "lite":
        pytest.importorskip("paddlelite")
    config = tmp_path / "tiny.yml"
    write_config(tmp_path, write_images(tmp_path / "data", count=1))
    config.write_text(config.read_text().replace("[96, 128], keep_ratio: true", "[64, 64], keep_ratio: false"))
    model = benchmark.with_random_weights(str(config.with_suffix("")), "", tmp_path / "models")
    export = benchmark.attempt(model, target)
    assert isinstance(export, benchmark.Export), export
    engine = next(engine for engine in ENGINES if engine.target == target)
    flags = Namespace(batch_size=1, cpu_threads=1, image_dir=None, eval_json=None, warmup=1, repeats=1, seconds=1)
    row = Row(model.name, engine.name, engine.precision, "", 1, 1, 1, 1)
    outputs, image = tmp_path / "outputs.npz", str(tmp_path / "data/images/000.png")
    found = benchmark.measured(row, export, engine.flags, [image], outputs, outputs, flags)
    outputs_of_another = tmp_path / "other.npz"
    with np.load(outputs) as arrays:
        np.savez(outputs_of_another, *(2 * arrays[name] for name in arrays.files))
    other = benchmark.measured(row, export, engine.flags, [image], outputs, outputs_of_another, flags)
    assert other.remark == "failed: the network's outputs differ by 0.5 of the largest value from the first engine's"
    assert other.network_ms > 0 and other.difference == 0.5
    assert not found.remark and found.network_ms > 0 and found.end_to_end_ms > 0 and found.repeats == 1
    assert found.difference == 0
    with np.load(outputs) as arrays:
        assert len(arrays.files) == 3  # anchors, logits, deltas: the network alone


def test_a_model_folder_that_is_none_is_one_line(tmp_path):
    command = [str(ROOT / "benchmark.sh"), "--model_dir", str(tmp_path / "absent"), f"--output={tmp_path / 'out'}"]
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300, check=False)
    assert done.returncode == 2 and "absent is not a folder" in done.stderr and "Traceback" not in done.stderr
