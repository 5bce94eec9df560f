"""Measure the speed of models in every engine and precision that this machine supports; see benchmark.sh."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Union

import _checkout
import cv2
import numpy as np
import yaml
from report import Row, draw, fastest, markdown, write_csv

from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.precision import SHARE
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.cpu_env import usable_cores
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.visualize import write_image

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "paddlelite", "numpy")
LARGEST_DIFFERENCE = 0.3  # int8 reaches 0.2; an engine that loses a factor is far above
IMAGES, IMAGE_SIZE = 8, (480, 640)  # generated if there is no --image_dir


class Export(NamedTuple):
    """The exports of a model for one target."""

    network: Optional[Path]  # alone; None for models of the user
    whole: Path  # with final boxes


class Subject(NamedTuple):
    """A model to measure."""

    name: str
    export: Callable[[str], Export]  # for a target (paddle, onnx or lite); raises UserError if that fails
    weights: str  # where they come from
    paper: str  # the speed that the paper reports


def main() -> None:
    flags = parse_flags()

    from cases import SETS

    flags.output.mkdir(parents=True, exist_ok=True)
    images = find_images(flags.image_dir) if flags.image_dir else make_images(flags.output / "images")
    if not images:
        raise UserError(f"there is no image in {flags.image_dir}")
    begun = time.monotonic()
    subjects = [Subject(folder.name, partial(beside, folder), "yours", "") for folder in flags.model_dir]
    for folder in flags.model_dir:
        open_model_folder(folder)  # an error if a file is missing
    if not subjects:
        subjects = [with_random_weights(m.config, m.paper, flags.output / "models") for m in SETS[flags.set]]
    rows: List[Row] = []
    for subject in subjects:
        found = list(measure_subject(subject, images, flags))
        rows += found
        if line := fastest(found):
            print(line, flush=True)
    machine = {**this_machine(), "seconds": f"{time.monotonic() - begun:.0f}"}
    write_csv(flags.output / "benchmark.csv", rows, machine)
    (flags.output / "benchmark.md").write_text(markdown(rows, machine), encoding="utf-8")
    draw(flags.output / "benchmark.png", rows)
    print(f"benchmark.md, benchmark.csv and benchmark.png in {flags.output}, after {machine['seconds']} seconds")


def measure_subject(subject: Subject, images: List[str], flags: argparse.Namespace) -> Iterator[Row]:
    """A row per engine for one model. Each row is also printed."""
    from cases import ENGINES

    from ppdet_repro.runtime.paddle_options import installed_build

    build = installed_build()
    packages = [name for name in {engine.package for engine in ENGINES} if importlib.util.find_spec(name)]
    exports = {"paddle": attempt(subject, "paddle")}
    quantized = holds_int8(exports["paddle"])
    reference: Optional[Path] = None
    for number, engine in enumerate(ENGINES):
        row = Row(
            subject.name, engine.name, engine.precision, "", flags.batch_size,
            None if engine.target == "lite" else flags.cpu_threads, flags.warmup, flags.repeats,
            weights=subject.weights, paper=subject.paper,
        )  # fmt: skip
        reason = engine.why_not(build, packages, quantized, flags.batch_size)
        if reason is None and engine.target not in exports:
            exports[engine.target] = attempt(subject, engine.target)
        export = reason or exports[engine.target]
        if isinstance(export, str):
            row = row._replace(remark=f"not run: {export}")
        else:
            outputs = flags.output / "outputs" / f"{subject.name}-{number}.npz"
            row = row._replace(input="x".join(map(str, target_size(export.whole))))
            row = measured(row, export, engine.flags, images, outputs, reference or outputs, flags)
            reference = reference or (outputs if boxes_file(outputs).is_file() else None)
        times = {"network": row.network_ms, "end to end": row.end_to_end_ms}
        text = ", ".join(f"{name} {value:.1f} ms" for name, value in times.items() if value is not None)
        print(f"{row.model}, {row.engine} {row.precision}: {row.remark or text}", flush=True)
        yield row


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    text = "models to measure, with random weights (default: small)"
    add("--set", choices=["small", "full"], default="small", help=text)
    add("--model_dir", type=Path, nargs="+", default=[], metavar="DIR", help="exported models to measure instead")
    add("--image_dir", metavar="DIR", help="images for the end-to-end times (default: random ones)")
    add("--eval_json", metavar="FILE", help="COCO annotation file of --image_dir: also measure the AP of --model_dir")
    add("--cpu_threads", type=at_least_one, default=usable_cores(), help="default: all cores")
    add("--batch_size", type=at_least_one, default=1, help="default: 1")
    add("--warmup", type=at_least_one, default=3, help="runs that are not timed (default: 3)")
    add("--repeats", type=at_least_one, default=20, help="timed runs (default: 20)")
    text = "time limit for the timed runs, of which there are at least 3 (default: 3)"
    add("--seconds", type=at_least_one, default=3, help=text)
    add("--output", type=Path, default=Path("output/benchmark"), metavar="DIR", help="default: output/benchmark")
    flags = parser.parse_args()
    if flags.eval_json and not (flags.image_dir and flags.model_dir):
        raise UserError("--eval_json needs --image_dir and --model_dir; random weights have no AP")
    return flags


def beside(folder: Path, target: str) -> Export:
    """The export for a target that tools/export_model.py wrote beside a Paddle export. UserError if there is none."""
    whole = folder if target == "paddle" else folder.with_name(f"{folder.name}_{target}")
    if not whole.is_dir():
        raise UserError(f"there is no {whole}; tools/export_model.py --target {target} writes it")
    return Export(None, whole)


def with_random_weights(config: str, paper: str, folder: Path) -> Subject:
    """A config's model with random weights. Its exports are written below `folder` when they are needed."""
    return Subject(Path(config).name, partial(export_random, config, folder), "random", paper)


def export_random(config: str, folder: Path, target: str) -> Export:
    """Export a config's model for a target unless that was done before. UserError if it fails."""
    name = Path(config).name if target == "paddle" else f"{Path(config).name}_{target}"
    if not (folder / "whole" / name).is_dir():
        print(f"exporting {config} for {target}", flush=True)
        script = Path(__file__).with_name("export_random.py")
        command = [sys.executable, str(script), str(ROOT / "configs" / f"{config}.yml"), str(folder), target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"cannot be exported: {last_line(done.stderr)}")
    return Export(folder / "network" / name, folder / "whole" / name)


def attempt(subject: Subject, target: str) -> Union[Export, str]:
    """A model's export for a target, or the reason why there is none."""
    try:
        return subject.export(target)
    except UserError as error:
        return str(error)


def holds_int8(export: Union[Export, str]) -> bool:
    """Whether there is a Paddle model, and it is quantized."""
    from ppdet_repro.paddle_private.saved_program import read_operators
    from ppdet_repro.runtime.paddle_program import is_quantized

    return isinstance(export, Export) and is_quantized(read_operators(open_model_folder(export.whole).network_file))


def measured(
    row: Row, export: Export, engine_flags: Dict[str, object], images: List[str], outputs: Path, reference: Path,
    flags: argparse.Namespace,
) -> Row:  # fmt: skip
    """The row with the results of `measure.py`, or with the reason why that failed."""
    defaults = vars(build_parser().parse_args([f"--model_dir={export.whole}"]))
    settings = {**defaults, "batch_size": flags.batch_size, "cpu_threads": flags.cpu_threads, **engine_flags}
    outputs.parent.mkdir(parents=True, exist_ok=True)
    for file in (outputs, boxes_file(outputs)):
        file.unlink(missing_ok=True)
    job = {
        "flags": {**settings, "image_dir": flags.image_dir, "eval_json": flags.eval_json},
        "network": str(export.network) if export.network else None,
        "whole": str(export.whole),
        "images": images,
        "outputs": str(outputs),
        "boxes": str(boxes_file(outputs)),
        **{name: getattr(flags, name) for name in ("warmup", "repeats", "seconds")},
    }
    command = [sys.executable, str(Path(__file__).with_name("measure.py"))]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        return row._replace(remark=f"failed (exit code {done.returncode}): {last_line(done.stderr)}")
    result = json.loads(done.stdout.splitlines()[-1])
    times = {name: result[name] for name in ("network", "end_to_end") if name in result}
    size = sum(file.stat().st_size for file in export.whole.glob("model*") if "_arm" not in file.name) / 1e6
    row = row._replace(repeats=min(map(len, times.values())), megabytes=size, ap=result["ap"])
    for name, milliseconds in times.items():
        median, p95 = map(float, np.percentile(milliseconds, [50, 95]))
        row = row._replace(**{f"{name}_ms": median, f"{name}_p95_ms": p95})
    if export.network is None:
        return row._replace(remark=other_boxes(boxes_file(outputs), boxes_file(reference)))
    found = difference(outputs, reference)
    wrong = f"failed: the network's outputs differ by {found:.2g} of the largest value from the first engine's"
    return row._replace(difference=found, remark=wrong if found > LARGEST_DIFFERENCE else "")


def boxes_file(outputs: Path) -> Path:
    """The file of the boxes on the first image, beside that of the network's outputs."""
    return outputs.with_suffix(".npy")


def other_boxes(found: Path, expected: Path) -> str:
    """What is wrong if the boxes in a file are not those of the first engine; empty if they agree."""
    again, total = found_again(np.load(expected), np.load(found))
    wrong = f"failed: other boxes than the first engine's, {again} of the best {total} agree"
    return wrong if again < SHARE * total else ""


def difference(outputs: Path, reference: Path) -> float:
    """The largest difference of any output, relative to the largest value of that output in the reference. Infinity if
    the number or the sizes of the outputs differ."""
    arrays = []
    for path in (outputs, reference):
        with np.load(path) as file:
            arrays.append([file[name].astype(np.float64).ravel() for name in file.files])
    pairs = list(zip(*arrays))
    if len(arrays[0]) != len(arrays[1]) or any(a.size != b.size for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)) for a, b in pairs)


def target_size(folder: Path) -> List[int]:
    """Height and width to which the model's preprocessing resizes images."""
    steps = yaml.safe_load((folder / "infer_cfg.yml").read_text(encoding="utf-8"))["Preprocess"]
    return next((step["target_size"] for step in steps if step["type"] == "Resize"), [])


def make_images(folder: Path) -> List[str]:
    """Write smooth random images as JPEG files."""
    rng, (height, width) = np.random.default_rng(0), IMAGE_SIZE
    for i in range(IMAGES):
        coarse = rng.integers(0, 255, (height // 20, width // 20, 3), np.uint8)
        write_image(folder / f"{i}.jpg", cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return find_images(str(folder))


def this_machine() -> Dict[str, str]:
    """Hardware and versions by name."""
    versions = [f"Python {platform.python_version()}", f"OpenCV {cv2.__version__}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {
        "hardware": f"{cpu_name()}, {usable_cores()} usable cores",
        "versions": ", ".join(versions),
        "date": time.strftime("%Y-%m-%d"),
    }


def cpu_name() -> str:
    """The name of the CPU on Linux, otherwise the type of the machine."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def last_line(text: str) -> str:
    """The last line that is not empty, without the prefix of error messages."""
    return text.rstrip().rpartition("\n")[2].strip().removeprefix("error: ") or "no message"


if __name__ == "__main__":
    run_command(main)
