"""Time models on every engine and precision that this machine has; see benchmark.sh."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Union

import cv2
import numpy as np
import yaml
from report import Row, draw, markdown, write_csv

from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.cpu_env import usable_cores
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.pictures import write_picture

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "paddlelite", "numpy")
PICTURES, PICTURE_SIZE = 8, (480, 640)  # made where no --image_dir is given


class Export(NamedTuple):
    """A model exported for one target: the network alone (None for an export of the user's), and whole."""

    network: Optional[Path]
    whole: Path


class Subject(NamedTuple):
    """A model to time: its export for a target (paddle, onnx or lite; UserError if there is none), and the paper's
    figure."""

    name: str
    export: Callable[[str], Export]
    weights: str
    paper: str


def main() -> None:
    flags = parse_flags()

    from cases import ENGINES, SETS

    from ppdet_repro.runtime.paddle_engine import installed_build

    flags.output.mkdir(parents=True, exist_ok=True)
    images = find_images(flags.image_dir) if flags.image_dir else make_pictures(flags.output / "pictures")
    if not images:
        raise UserError(f"there is no image in {flags.image_dir}")
    build, rows, begun = installed_build(), [], time.monotonic()
    packages = [name for name in {engine.package for engine in ENGINES} if importlib.util.find_spec(name)]
    subjects = [own(folder) for folder in flags.model_dir] or [
        made_up(model.config, model.paper, flags.output / "models") for model in SETS[flags.set]
    ]
    for subject in subjects:
        exports = {"paddle": attempt(subject, "paddle")}
        quantised = holds_int8(exports["paddle"])
        reference: Optional[Path] = None
        for engine in ENGINES:
            row = Row(
                subject.name, engine.name, engine.precision, "", flags.batch_size,
                None if engine.target == "lite" else flags.cpu_threads, flags.warmup, flags.repeats,
                weights=subject.weights, paper=subject.paper,
            )  # fmt: skip
            reason = engine.why_not(build, packages, quantised, flags.batch_size)
            if reason is None and engine.target not in exports:
                exports[engine.target] = attempt(subject, engine.target)
            export = reason or exports[engine.target]
            if isinstance(export, str):
                row = row._replace(remark=f"not run: {export}")
            else:
                outputs = flags.output / "outputs" / f"{subject.name}-{len(rows)}.npz"
                row = row._replace(input="x".join(map(str, target_size(export.whole))))
                row = measured(row, export, engine.flags, images, outputs, reference or outputs, flags)
                reference = reference or (outputs if outputs.is_file() else None)
            rows.append(row)
            print(f"{row.model}, {row.engine} {row.precision}: {row.remark or describe(row)}", flush=True)
    machine = {**this_machine(), "seconds": f"{time.monotonic() - begun:.0f}"}
    write_csv(flags.output / "benchmark.csv", rows, machine)
    (flags.output / "benchmark.md").write_text(markdown(rows, machine), encoding="utf-8")
    draw(flags.output / "benchmark.png", rows)
    print(f"benchmark.md, benchmark.csv and benchmark.png in {flags.output}, after {machine['seconds']} seconds")


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=["small", "full"], default="small", help="models, with random weights")
    parser.add_argument("--model_dir", type=Path, nargs="+", default=[], help="your exports instead of a set")
    parser.add_argument("--image_dir", help="pictures for the end-to-end column; made up without it")
    parser.add_argument("--eval_json", help="COCO file of --image_dir: AP of the --model_dir models")
    parser.add_argument("--cpu_threads", type=at_least_one, default=usable_cores())
    parser.add_argument("--batch_size", type=at_least_one, default=1)
    parser.add_argument("--warmup", type=at_least_one, default=3)
    parser.add_argument("--repeats", type=at_least_one, default=20)
    parser.add_argument("--seconds", type=at_least_one, default=3, help="enough for one time, of 3 runs or more")
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"))
    flags = parser.parse_args()
    if flags.eval_json and not (flags.image_dir and flags.model_dir):
        raise UserError("--eval_json needs --image_dir and --model_dir; random weights have no AP")
    return flags


def own(folder: Path) -> Subject:
    """An exported folder of the user's, and those beside it for other engines. UserError if it is not whole."""
    open_model_folder(folder)
    return Subject(folder.name, partial(beside, folder), "yours", "")


def beside(folder: Path, target: str) -> Export:
    """The export of a Paddle folder's model for a target, where tools/export_model.py writes it."""
    whole = folder if target == "paddle" else folder.with_name(f"{folder.name}_{target}")
    if not whole.is_dir():
        raise UserError(f"there is no {whole}; tools/export_model.py --target {target} writes it")
    return Export(None, whole)


def made_up(config: str, paper: str, folder: Path) -> Subject:
    """A config's model with random weights; its exports go below `folder` when they are asked for."""
    return Subject(Path(config).name, partial(exported, config, folder), "random", paper)


def exported(config: str, folder: Path, target: str) -> Export:
    """A config's exports for a target, made unless they are there. UserError if that fails."""
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
    """A model's export for a target, or why there is none."""
    try:
        return subject.export(target)
    except UserError as error:
        return str(error)


def holds_int8(export: Union[Export, str]) -> bool:
    """Whether a Paddle model is there and quantised."""
    from ppdet_repro.runtime.paddle_program import is_quantised, read_operators

    return isinstance(export, Export) and is_quantised(read_operators(open_model_folder(export.whole).program))


def measured(
    row: Row, export: Export, engine_flags: Dict[str, object], images: List[str], outputs: Path, reference: Path,
    flags: argparse.Namespace,
) -> Row:  # fmt: skip
    """The row with its numbers, from a process of its own; with the reason if that fails."""
    defaults = vars(build_parser().parse_args([f"--model_dir={export.whole}"]))
    settings = {**defaults, "batch_size": flags.batch_size, "cpu_threads": flags.cpu_threads, **engine_flags}
    outputs.parent.mkdir(parents=True, exist_ok=True)
    outputs.unlink(missing_ok=True)
    job = {
        "flags": {**settings, "image_dir": flags.image_dir, "eval_json": flags.eval_json},
        "network": str(export.network) if export.network else None,
        "whole": str(export.whole),
        "images": images,
        "warmup": flags.warmup,
        "repeats": flags.repeats,
        "seconds": flags.seconds,
        "outputs": str(outputs),
    }
    command = [sys.executable, str(Path(__file__).with_name("measure.py"))]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        return row._replace(remark=f"failed (exit code {done.returncode}): {last_line(done.stderr)}")
    result = json.loads(done.stdout.splitlines()[-1])
    row = row._replace(
        repeats=min(len(result[name]) for name in ("network", "end_to_end") if name in result),
        end_to_end_ms=float(np.median(result["end_to_end"])),
        end_to_end_p95_ms=float(np.percentile(result["end_to_end"], 95)),
        ap=result["ap"],
    )
    if export.network is None:
        return row
    return row._replace(
        network_ms=float(np.median(result["network"])),
        network_p95_ms=float(np.percentile(result["network"], 95)),
        difference=difference(outputs, reference),
    )


def difference(outputs: Path, reference: Path) -> float:
    """The largest difference of any output, relative to the largest value of the reference's; infinity if their
    number or sizes differ."""
    with np.load(outputs) as ours, np.load(reference) as theirs:
        if ours.files != theirs.files:
            return float("inf")
        pairs = [[file[name].astype(np.float64).ravel() for file in (ours, theirs)] for name in theirs.files]
    if any(a.size != b.size for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)) for a, b in pairs)


def describe(row: Row) -> str:
    network = "" if row.network_ms is None else f"network {row.network_ms:.1f} ms, "
    return f"{network}end to end {row.end_to_end_ms:.1f} ms"


def target_size(folder: Path) -> List[int]:
    """Height and width that the model's pictures are resized to."""
    steps = yaml.safe_load((folder / "infer_cfg.yml").read_text(encoding="utf-8"))["Preprocess"]
    return next((step["target_size"] for step in steps if step["type"] == "Resize"), [])


def make_pictures(folder: Path) -> List[str]:
    """Smooth random pictures as JPEG files."""
    rng, (height, width) = np.random.default_rng(0), PICTURE_SIZE
    for i in range(PICTURES):
        coarse = rng.integers(0, 255, (height // 20, width // 20, 3), np.uint8)
        write_picture(folder / f"{i}.jpg", cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return find_images(str(folder))


def this_machine() -> Dict[str, str]:
    """Hardware and versions."""
    names = {}
    for package in PACKAGES:
        try:
            names[package] = version(package)
        except PackageNotFoundError:
            continue
    versions = ", ".join(f"{name} {number}" for name, number in names.items())
    return {
        "hardware": f"{cpu_name()}, {usable_cores()} usable cores",
        "versions": f"Python {platform.python_version()}, OpenCV {cv2.__version__}, {versions}",
        "date": time.strftime("%Y-%m-%d"),
    }


def cpu_name() -> str:
    """The CPU's name as Linux has it, else the machine's type."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("error: ") if lines else "no message"


if __name__ == "__main__":
    run_command(main)
