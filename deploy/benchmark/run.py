"""Time models on every engine and precision that this machine has; see benchmark.sh."""
from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT / "deploy" / "python"), str(ROOT)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from report import Row, draw, markdown, write_csv  # noqa: E402
from runtime.model_folder import open_model_folder  # noqa: E402
from runtime.options import build_parser  # noqa: E402

from ppdet_repro.data.source.image_folder import find_images  # noqa: E402
from ppdet_repro.utils.cli import at_least_one  # noqa: E402
from ppdet_repro.utils.cpu_env import usable_cores  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402
from ppdet_repro.utils.pictures import write_picture  # noqa: E402

PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino", "paddlelite", "numpy")
PICTURES, PICTURE_SIZE = 8, (480, 640)  # made where no --image_dir is given


class Subject(NamedTuple):
    """A model to time: its folders (`network` alone is None for an export of the user's) and the paper's figure."""

    name: str
    network: Optional[Path]
    whole: Path
    weights: str
    paper: str


def main() -> None:
    flags = parse_flags()

    from cases import ENGINES, SETS
    from runtime.paddle_engine import installed_build
    from runtime.program import is_quantised, read_operators

    flags.output.mkdir(parents=True, exist_ok=True)
    images = find_images(flags.image_dir) if flags.image_dir else make_pictures(flags.output / "pictures")
    if not images:
        raise UserError(f"there is no image in {flags.image_dir}")
    build, rows, begun = installed_build(), [], time.monotonic()
    subjects = [own(folder) for folder in flags.model_dir] or [
        exported(model.config, model.paper, flags.output / "models") for model in SETS[flags.set]
    ]
    for subject in subjects:
        quantised = is_quantised(read_operators(open_model_folder(subject.whole).program))
        reference: Optional[Path] = None
        for engine in ENGINES:
            reason = engine.why_not(build, quantised)
            row = base_row(subject, engine.name, engine.precision, flags)
            if reason is None:
                outputs = flags.output / "outputs" / f"{subject.name}-{len(rows)}.npz"
                reference = reference or outputs
                row = measured(row, subject, engine.flags, images, outputs, reference, flags)
            else:
                row = row._replace(remark=f"not run: {reason}")
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
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"))
    flags = parser.parse_args()
    if flags.eval_json and not (flags.image_dir and flags.model_dir):
        raise UserError("--eval_json needs --image_dir and --model_dir; random weights have no AP")
    return flags


def own(folder: Path) -> Subject:
    """An exported folder of the user's. UserError if it is not whole."""
    open_model_folder(folder)
    return Subject(folder.name, None, folder, "yours", "")


def exported(config: str, paper: str, folder: Path) -> Subject:
    """A config's model with random weights, exported below `folder` unless it is there. UserError if that fails."""
    name = Path(config).name
    if not (folder / "whole" / name).is_dir():
        print(f"exporting {config}", flush=True)
        script = Path(__file__).with_name("export_random.py")
        command = [sys.executable, str(script), str(ROOT / "configs" / f"{config}.yml"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{config} cannot be exported: {last_line(done.stderr)}")
    return Subject(name, folder / "network" / name, folder / "whole" / name, "random", paper)


def base_row(subject: Subject, engine: str, precision: str, flags: argparse.Namespace) -> Row:
    size = "x".join(str(side) for side in target_size(subject.whole))
    return Row(
        subject.name, engine, precision, size, flags.batch_size, flags.cpu_threads, flags.warmup, flags.repeats,
        weights=subject.weights, paper=subject.paper,
    )  # fmt: skip


def measured(
    row: Row, subject: Subject, engine_flags: Dict[str, object], images: List[str], outputs: Path, reference: Path,
    flags: argparse.Namespace,
) -> Row:  # fmt: skip
    """The row with its numbers, from a process of its own; with the reason if that fails."""
    defaults = vars(build_parser().parse_args([f"--model_dir={subject.whole}"]))
    settings = {**defaults, "batch_size": flags.batch_size, "cpu_threads": flags.cpu_threads, **engine_flags}
    outputs.parent.mkdir(parents=True, exist_ok=True)
    job = {
        "flags": {**settings, "image_dir": flags.image_dir, "eval_json": flags.eval_json},
        "network": str(subject.network) if subject.network else None,
        "whole": str(subject.whole),
        "images": images,
        "warmup": flags.warmup,
        "repeats": flags.repeats,
        "outputs": str(outputs),
    }
    command = [sys.executable, str(Path(__file__).with_name("measure.py"))]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        return row._replace(remark=f"failed (exit code {done.returncode}): {last_line(done.stderr)}")
    result = json.loads(done.stdout.splitlines()[-1])
    row = row._replace(
        end_to_end_ms=float(np.median(result["end_to_end"])),
        end_to_end_p95_ms=float(np.percentile(result["end_to_end"], 95)),
        ap=result["ap"],
    )
    if subject.network is None:
        return row
    return row._replace(
        network_ms=float(np.median(result["network"])),
        network_p95_ms=float(np.percentile(result["network"], 95)),
        difference=difference(outputs, reference),
    )


def difference(outputs: Path, reference: Path) -> float:
    """The largest difference of any output, relative to the largest value of the reference's; infinity if the
    shapes differ."""
    with np.load(outputs) as ours, np.load(reference) as theirs:
        pairs = [(ours[name].astype(np.float64), theirs[name].astype(np.float64)) for name in theirs.files]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)) for a, b in pairs)


def describe(row: Row) -> str:
    network = "" if row.network_ms is None else f"network {row.network_ms:.1f} ms, "
    return f"{network}end to end {row.end_to_end_ms:.1f} ms"


def target_size(folder: Path) -> List[int]:
    """Height and width that the model's pictures are resized to."""
    steps = open_model_folder(folder).preprocess
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
    return lines[-1].strip() if lines else "no message"


if __name__ == "__main__":
    run_command(main)
