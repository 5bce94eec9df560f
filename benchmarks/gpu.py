"""Measure exported models on a GPU, in one call of at most eight minutes, without a network and without Paddle.

    python benchmarks/gpu_prepare.py --output output/gpu_models                  # on any machine, with Paddle
    python benchmarks/gpu.py output/gpu_models --output output/gpu               # on a machine with a GPU
    python benchmarks/gpu.py output/gpu_models --device cpu --output output/gpu  # the same on a CPU, as a trial

Every engine that is installed (TensorRT or TensorRT-RTX, ONNX Runtime with CUDA and with TensorRT) runs every model in
FP16, TF32 and float32. Each measurement is a process of its own. The most important ones come first: batch 1 before
others, the network alone before the whole. What the time does not reach is listed as not run; engines of TensorRT are
kept in the output folder, so a second call starts with them.

The results are gpu.json, gpu.md and gpu.png. docs/gpu.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import _checkout
import _gpu_models
import numpy as np
from _gpu_engines import ON_CPU, ON_GPU, PRECISIONS, Variant, open_runner, prepare_process, why_not

from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.runtime.precision import only_errors
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table

PACKAGES = (
    "numpy", "tensorrt", "tensorrt-rtx-cu13", "onnxruntime", "onnxruntime-gpu", "cuda-bindings",
    "opencv-python-headless",
)  # fmt: skip
LIMITS = {"fp32": 1e-3, "tf32": 3e-2, "fp16": 1e-1}  # of the difference, relative to the largest value of an output
SHARE = 0.5  # of the best boxes that have to be found again
LONGEST = 200  # seconds for one measurement
RESERVE = 8  # seconds for the reports
PARTS = ("network", "whole")


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        print("RESULT " + json.dumps(measure(json.loads(sys.argv[2]))), flush=True)
        return
    flags = parse_flags()
    begun = time.monotonic()
    flags.output.mkdir(parents=True, exist_ok=True)
    rows: List[Dict[str, Any]] = []
    facts = machine()
    for job in jobs(flags):
        left = 60 * flags.minutes - RESERVE - (time.monotonic() - begun)
        rows.append({**job, **run_job(job, left)})
        print(one_line(rows[-1]), flush=True)
        write_json(flags, facts, rows, begun)  # what is measured is kept if the next process takes the machine down
    write_reports(flags, rows)


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("models", type=Path, help="folder that benchmarks/gpu_prepare.py wrote")
    add("--device", choices=["gpu", "cpu"], default="gpu", help="default: gpu")
    add("--output", type=Path, default=Path("output/gpu"), metavar="DIR", help="default: output/gpu")
    add("--only", nargs="+", default=[], metavar="NAME", help="models to measure (default: all)")
    add("--engines", nargs="+", choices=[*ON_GPU, *ON_CPU], metavar="NAME", help="default: all of the device")
    add("--minutes", type=float, default=8, help="for everything (default: 8)")
    add("--warmup", type=at_least_one, default=20, help="runs that are not timed (default: 20)")
    add("--repeats", type=at_least_one, default=100, help="timed runs (default: 100)")
    text = "for the timed runs of one measurement, of which there are at least 5 (default: 4)"
    add("--seconds", type=float, default=4, help=text)
    add("--cpu_threads", type=at_least_one, default=len(os.sched_getaffinity(0)), help="default: all cores")
    flags = parser.parse_args()
    names = [folder.parent.name for folder in sorted(flags.models.glob("*/facts.json"))]
    if not names:
        raise UserError(f"{flags.models} has no models; benchmarks/gpu_prepare.py writes them")
    if unknown := set(flags.only) - set(names):
        raise UserError(f"--only {sorted(unknown)[0]}: {flags.models} has {', '.join(names)}")
    flags.only = flags.only or names
    return flags


def jobs(flags: argparse.Namespace) -> List[Dict[str, Any]]:
    """All measurements, the most important ones first."""
    settings = {name: getattr(flags, name) for name in ("warmup", "repeats", "seconds", "cpu_threads")}
    found = []
    for name in flags.only:
        facts = json.loads((flags.models / name / "facts.json").read_text(encoding="utf-8"))
        for batch in facts["batches"]:
            for part in PARTS:
                for precision in PRECISIONS[flags.device]:
                    for engine in flags.engines or (ON_GPU if flags.device == "gpu" else ON_CPU):
                        job = {"model": name, "engine": engine, "precision": precision, "batch": batch, "part": part}
                        paths = {"folder": str(flags.models / name), "cache": str(flags.output / "engines")}
                        found.append({**job, **paths, **settings, "size": facts["size"]})
    order = {name: i for i, name in enumerate((*PARTS, *PRECISIONS[flags.device], *ON_GPU, *ON_CPU))}
    return sorted(found, key=lambda job: (job["batch"], *(order[job[key]] for key in ("part", "precision", "engine"))))


def run_job(job: Dict[str, Any], left: float) -> Dict[str, Any]:
    """The result of a measurement in a process of its own, or a remark why there is none."""
    if (reason := why_not(job["engine"])) is not None:
        return {"remark": f"not run: {reason}"}
    if left < 10:
        return {"remark": "not run: the time was over"}
    command = [sys.executable, __file__, "worker", json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=min(left, LONGEST))
    except subprocess.TimeoutExpired:
        return {"remark": f"failed: it took more than {min(left, LONGEST):.0f} seconds"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[len("RESULT ") :])
    last = (done.stderr.strip() or "it printed nothing").splitlines()[-1]
    return {"remark": f"failed with exit code {done.returncode}: {last.removeprefix('error: ')[:200]}"}


# One measurement ------------------------------------------------------------------------------------------


def measure(job: Dict[str, Any]) -> Dict[str, Any]:
    """Open, check and time one part of one model. UserError if the engine cannot run it."""
    prepare_process(job["precision"])
    graph = "fp16" if job["precision"] == "fp16" else "fp32"
    folder = Path(job["folder"]) / f"{job['part']}-b{job['batch']}-{graph}"
    try:
        variant = Variant(_gpu_models.complete(folder), job["size"], job["batch"], job["precision"], job["cpu_threads"])
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    begun = time.perf_counter()
    with only_errors():
        runner = open_runner(job["engine"], variant, Path(job["cache"]))
    opened = time.perf_counter() - begun
    inputs = _gpu_models.inputs_for(folder, job["size"], job["batch"])
    outputs = runner.run(inputs)
    with np.load(Path(job["folder"]) / "recorded.npz") as recorded:
        expected = {name: recorded[name] for name in recorded.files}
    result: Dict[str, Any] = {"open_seconds": opened, "gpu": runner.cuda.gpu if runner.cuda else None}
    if job["part"] == "whole":
        again, total = found_again(expected["boxes"], _gpu_models.candidates(*outputs[:2]))
        result.update(again=again, total=total, agrees=again >= SHARE * total)
        result["end_to_end"] = summary(timed(end_to_end(folder, runner, job), job))
        return result
    result["difference"] = difference([expected[f"output{i}"] for i in range(len(outputs))], outputs)
    result["agrees"] = result["difference"] <= LIMITS[job["precision"]]
    result["copies"] = summary(timed(lambda: runner.run(inputs), job))
    result["network"] = summary(timed_network(runner, inputs, job))
    return result


def difference(expected: List[np.ndarray], outputs: List[np.ndarray]) -> float:
    """The largest difference of any number that was recorded, relative to the largest value of its output."""
    found = [_gpu_models.sample(output) for output in outputs]
    if any(a.shape != b.shape for a, b in zip(expected, found)):
        raise UserError("the engine's outputs have other shapes than those that were recorded")
    pairs = zip(expected, found)
    worst = [float(np.abs(a[:-1] - b[:-1]).max(initial=0.0) / max(float(a[-1]), 1e-12)) for a, b in pairs]
    return float(np.max(worst)) if np.isfinite(worst).all() else 1e9


def end_to_end(folder: Path, runner: Any, job: Dict[str, Any]) -> Callable[[], object]:
    """What detects on a batch of image files: reading, preprocessing, the network, and suppression."""
    import cv2

    from ppdet_repro.data.transform.preprocess import from_list
    from ppdet_repro.runtime.engines import NetworkEngine
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.pipeline import Pipeline

    with only_errors():
        model = open_model_folder(folder, engine="onnxruntime")
    steps = {step["type"]: step for step in model.preprocess}
    height, width = steps.get("Resize", {}).get("target_size", job["size"])
    coarse = np.random.default_rng(0).integers(0, 255, (height // 20, width // 20, 3), np.uint8)
    file = str(folder / "image.jpg")
    cv2.imwrite(file, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    pipeline = Pipeline(from_list(model.preprocess), NetworkEngine(runner, model))
    return lambda: pipeline([file] * job["batch"])


def timed(call: Callable[[], object], job: Dict[str, Any]) -> List[float]:
    """Milliseconds of each call by the clock of this process, after the warm-up."""
    for _ in range(job["warmup"]):
        call()
    times: List[float] = []
    while len(times) < job["repeats"] and (len(times) < 5 or sum(times) < 1000 * job["seconds"]):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return times


def timed_network(runner: Any, inputs: Dict[str, np.ndarray], job: Dict[str, Any]) -> List[float]:
    """Milliseconds of the network alone: between two events of CUDA on a GPU, otherwise by the clock."""
    runner.load(inputs)
    cuda = runner.cuda
    if cuda is None:
        return timed(runner.launch, job)
    for _ in range(job["warmup"]):
        runner.launch()
    start, end = cuda("cudaEventCreate"), cuda("cudaEventCreate")
    times: List[float] = []
    while len(times) < job["repeats"] and (len(times) < 5 or sum(times) < 1000 * job["seconds"]):
        cuda("cudaEventRecord", start, cuda.stream)
        runner.launch()
        cuda("cudaEventRecord", end, cuda.stream)
        cuda("cudaEventSynchronize", end)
        times.append(float(cuda("cudaEventElapsedTime", start, end)))
    return times


def summary(times: List[float]) -> Dict[str, float]:
    """Median and 95th percentile of milliseconds per batch, and their number."""
    median, p95 = np.percentile(times, [50, 95])
    return {"median": float(median), "p95": float(p95), "runs": len(times)}


# Reports --------------------------------------------------------------------------------------------------


def one_line(row: Dict[str, Any]) -> str:
    """A measurement as a line of the log."""
    what = f"{row['model']}, {row['engine']} {row['precision']}, batch {row['batch']}, {row['part']}"
    if "remark" in row:
        return f"{what}: {row['remark']}"
    times = {name: row[name]["median"] for name in ("network", "copies", "end_to_end") if name in row}
    text = ", ".join(f"{name.replace('_', ' ')} {value:.2f} ms" for name, value in times.items())
    return f"{what}: {text}, {agreement_text(row)}"


def agreement_text(row: Dict[str, Any]) -> str:
    """How far a row agrees with the recorded outputs."""
    if "agrees" not in row:
        return "-"
    text = f"{row['difference']:.1e}" if "difference" in row else f"{row['again']}/{row['total']} boxes"
    return text if row["agrees"] else f"WRONG: {text}"


def machine() -> Dict[str, str]:
    """Hardware, driver and versions by name."""
    facts = {"date": time.strftime("%Y-%m-%d %H:%M"), "GPU": "none was used", "CPU": cpu_name()}
    with suppress(OSError, subprocess.SubprocessError):
        query = [
            "nvidia-smi",
            "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit",
            "--format=csv,noheader",
        ]
        facts["driver, SM clock, its maximum, power limit"] = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {**facts, "versions": ", ".join(versions)}


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return platform.machine()


def write_json(flags: argparse.Namespace, facts: Dict[str, str], rows: List[Dict[str, Any]], begun: float) -> None:
    """Write gpu.json: the machine, the settings, and all rows."""
    gpu = next((row["gpu"] for row in rows if row.get("gpu")), facts["GPU"])
    keep = ("device", "warmup", "repeats", "seconds", "cpu_threads", "minutes")
    content = {
        "machine": {**facts, "GPU": gpu},
        "settings": {name: getattr(flags, name) for name in keep},
        "seconds": round(time.monotonic() - begun, 1),
        "rows": rows,
    }
    (flags.output / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def merged(rows: List[Dict[str, Any]]) -> Dict[Tuple[str, ...], Dict[str, Dict[str, Any]]]:
    """The rows of both parts by model, batch, engine and precision."""
    found: Dict[Tuple[str, ...], Dict[str, Dict[str, Any]]] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in ("model", "batch", "engine", "precision"))
        found.setdefault(key, {})[row["part"]] = row
    return dict(sorted(found.items()))


def write_reports(flags: argparse.Namespace, rows: List[Dict[str, Any]]) -> None:
    """Write gpu.md and gpu.png from gpu.json."""
    content = json.loads((flags.output / "gpu.json").read_text(encoding="utf-8"))
    cells = []
    for key, parts in merged(rows).items():
        network, whole = parts.get("network", {}), parts.get("whole", {})
        times = [cell(network, "network"), cell(network, "copies"), cell(whole, "end_to_end")]
        remarks = dict.fromkeys(row["remark"] for row in (network, whole) if "remark" in row)
        cells.append([*key, *times, agreement_text(network), agreement_text(whole), "; ".join(remarks)])
    header = [
        "model",
        "batch",
        "engine",
        "precision",
        "network",
        "with copies",
        "end to end",
        "difference",
        "boxes",
        "",
    ]
    facts = "\n".join(f"- {name}: {value}" for name, value in content["machine"].items())
    settings = content["settings"]
    protocol = (
        f"- {settings['warmup']} warm-up runs, then up to {settings['repeats']} timed runs in {settings['seconds']} "
        "seconds, at least 5; median (95th percentile) in milliseconds per batch\n"
        "- the weights are random; docs/gpu.md explains the columns"
    )
    table = text_table(header, cells, style="github")
    text = f"# Benchmark of the {flags.device.upper()}\n\n{facts}\n{protocol}\n\n{table}\n"
    (flags.output / "gpu.md").write_text(text, encoding="utf-8")
    draw(flags.output / "gpu.png", rows)
    print(f"gpu.json, gpu.md and gpu.png in {flags.output}, after {content['seconds']} seconds")


def cell(row: Dict[str, Any], name: str) -> str:
    return f"{row[name]['median']:.2f} ({row[name]['p95']:.2f})" if name in row else "-"


def draw(path: Path, rows: List[Dict[str, Any]]) -> None:
    """A bar for each time of the network alone with the smallest batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    smallest = min(row["batch"] for row in rows)
    shown = [row for row in rows if "network" in row and row["batch"] == smallest]
    shown.sort(key=lambda row: (row["model"], row["network"]["median"]), reverse=True)
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.3 * len(shown)))
    axes.barh(range(len(shown)), [row["network"]["median"] for row in shown], color="tab:green")
    axes.set_yticks(range(len(shown)), [f"{r['model']}, {r['engine']} {r['precision']}" for r in shown], fontsize=8)
    axes.set_xlabel(f"milliseconds of the network alone, batch {smallest}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    run_command(main)
