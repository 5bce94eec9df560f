"""benchmarks/gpu.py: the whole script with ONNX Runtime on the CPU, and its GPU engines with replacements of NVIDIA's
packages (see `fake_nvidia`), because no GPU is at hand."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import _gpu_models
import gpu
import gpu_prepare
import numpy as np
import pytest
from fake_nvidia import FakeCuda, FakeOrt, FakeTensorRt
from paths import ROOT

from ppdet_repro.utils.errors import UserError

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with one small prepared model, for batch 1."""
    folder = tmp_path_factory.mktemp("gpu")
    gpu_prepare.prepare(str(ROOT / "configs/yolof/yolof_r18vd_bccd.yml"), folder / "tiny", [1])
    return folder


def run(monkeypatch, models, output, *more):
    """Call the script in this process, with its measurements. The content of gpu.json."""
    monkeypatch.setattr(gpu, "run_job", lambda job, left: gpu.measure(job))
    line = ["gpu.py", str(models), f"--output={output}", "--warmup=1", "--repeats=5", "--cpu_threads=1", *more]
    monkeypatch.setattr(sys, "argv", line)
    gpu.main()
    return json.loads((output / "gpu.json").read_text())


def test_the_whole_script_runs_on_a_cpu(models, monkeypatch, tmp_path):
    content = run(monkeypatch, models, tmp_path, "--device=cpu")
    rows = content["rows"]
    assert [(row["part"], row["precision"]) for row in rows] == [
        ("network", "fp32"), ("network", "fp16"), ("whole", "fp32"), ("whole", "fp16")
    ]  # fmt: skip
    assert all(row["agrees"] for row in rows) and rows[0]["difference"] < 1e-5 < rows[1]["difference"]
    assert rows[2]["again"] == rows[2]["total"] > 0
    assert all(row[key]["runs"] >= 5 for row in rows[:2] for key in ("network", "copies"))
    assert all(row["end_to_end"]["median"] > 0 for row in rows[2:])
    assert {"CPU", "versions", "date"} <= set(content["machine"])
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("| tiny") == 2 and "WRONG" not in table and (tmp_path / "gpu.png").stat().st_size > 1000


def test_a_wrong_result_is_marked(models, monkeypatch, tmp_path):
    honest = _gpu_models.inputs_for
    monkeypatch.setattr(_gpu_models, "inputs_for", lambda *given: {k: 2 * v for k, v in honest(*given).items()})
    content = run(monkeypatch, models, tmp_path, "--device=cpu")
    assert not any(row["agrees"] for row in content["rows"][:2]) and "WRONG" in (tmp_path / "gpu.md").read_text()


def test_the_engines_of_a_gpu_get_their_inputs_and_are_timed_by_events(models, monkeypatch, tmp_path):
    cuda, ort = FakeCuda(), FakeOrt()
    packages = {name: ModuleType(name) for name in ("cuda", "cuda.bindings")}
    packages["cuda.bindings"].runtime = cuda
    for name, module in {**packages, "tensorrt": FakeTensorRt(), "onnxruntime": ort}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")
    content = run(monkeypatch, models, tmp_path, "--engines", "TensorRT", "ONNX Runtime CUDA")
    rows = content["rows"]
    assert len(rows) == 2 * 3 * 2  # parts, precisions, engines
    assert all(row["agrees"] and row["gpu"] == "Made-up 1 GB" for row in rows), rows
    assert content["machine"]["GPU"] == "Made-up 1 GB"
    assert all(row["network"]["median"] > 0 for row in rows if row["part"] == "network")
    settings = [providers[0][1] for providers in ort.asked]
    assert {s["user_compute_stream"] for s in settings} == {"7"} and {s["use_tf32"] for s in settings} == {"0", "1"}
    assert len(list((tmp_path / "engines").glob("*.engine"))) == 6  # and a second run builds none
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "engines").glob("*.engine")}
    run(monkeypatch, models, tmp_path, "--engines", "TensorRT")
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "engines").glob("*.engine")}


def job_for(models, **more):
    facts = {"model": "tiny", "engine": "ONNX Runtime CPU", "precision": "fp32", "batch": 1, "part": "network"}
    paths = {"folder": str(models / "tiny"), "cache": "", "size": [192, 256]}
    return {**facts, **paths, "warmup": 1, "repeats": 5, "seconds": 1, "cpu_threads": 1, **more}


def test_a_measurement_is_a_process_of_its_own(models):
    assert gpu.run_job(job_for(models), left=100)["agrees"]
    assert gpu.run_job(job_for(models, batch=3), left=100)["remark"].startswith("failed with exit code 2: ")
    assert gpu.run_job(job_for(models), left=9)["remark"] == "not run: the time was over"
    assert gpu.run_job(job_for(models, engine="ONNX Runtime CUDA"), left=100)["remark"].startswith("not run: ")


def test_what_matters_most_comes_first(models, tmp_path, monkeypatch):
    facts = json.loads((models / "tiny" / "facts.json").read_text())
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "facts.json").write_text(json.dumps({**facts, "batches": [1, 8]}))
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path)])
    found = [(job["batch"], job["part"], job["precision"], job["engine"]) for job in gpu.jobs(gpu.parse_flags())]
    assert found[:2] == [(1, "network", "fp16", "TensorRT")] * 2  # of both models
    assert [batch for batch, *_ in found] == [1] * 36 + [8] * 36  # 2 models, 2 parts, 3 precisions, 3 engines
    assert [part for _, part, *_ in found[:36]] == ["network"] * 18 + ["whole"] * 18


# Weights and pictures from seeds ----------------------------------------------------------------------------


def test_numbers_from_seeds_are_the_same_everywhere():
    # PCG64(7) begins with 0xa00641a9f1e54a8b. Its lower half 0xf1e54a8b is first, and has the upper 14 bits 0x3c79,
    # which is 15481; those of the other half are 0x2801, 10241
    expected = [(2 * bits + 1 - 16384) / 16384 for bits in (15481, 10241)]
    assert _gpu_models.uniform(7, 2, 1.0).tolist() == expected
    numbers = _gpu_models.uniform(1, 100_001, 3.0)
    assert len(numbers) == 100_001 and numbers.dtype == np.float32 and np.abs(numbers).max() <= 3
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 3**0.5) < 0.02  # of a uniform distribution


def test_weights_that_are_not_those_of_the_record_are_refused(models, tmp_path):
    variant = models / "tiny" / "network-b1-fp16"
    content = json.loads((variant / "weights.json").read_text())
    graph = (variant / "model.onnx").stat().st_size
    assert graph < 250_000 < sum(entry["bytes"] for entry in content["tensors"])
    content["tensors"][0]["seed"] += 1
    (tmp_path / "weights.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="are not those of the recorded outputs"):
        _gpu_models.complete(tmp_path)
    assert not (tmp_path / "weights.bin").exists()


def test_a_folder_without_models_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path)])
    with pytest.raises(UserError, match="has no models; benchmarks/gpu_prepare.py writes them"):
        gpu.main()
