"""Run the whole pipeline on the CPU: generate data, train, evaluate, export, run the exported model.

    python tools/demo.py

Each step is a command of this package, which is printed before it runs. All results go to output/demo/.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import _checkout
import cv2

from ppdet_repro.utils.cpu_env import usable_cores
from ppdet_repro.utils.curves import draw_curves, read_log
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.visualize import contact_sheet, write_image

ROOT = Path(__file__).resolve().parent.parent
CONFIG, DATA, OUT = "configs/demo/yolof_demo.yml", "dataset/demo", "output/demo"
RUN, MODEL, IMAGES = f"{OUT}/yolof_demo", f"{OUT}/exported/yolof_demo", f"{OUT}/pictures"
WEIGHTS = f"{RUN}/best_model.pdparams"
VAL = f"{DATA}/annotations/instances_val.json"

STEPS = {
    "data": f"tools/dataset.py synth {DATA} --train 2500 --val 200",
    "train": f"tools/train.py -c {CONFIG} --eval --processes {usable_cores()} -o save_dir={OUT}",
    "evaluate": f"tools/eval.py -c {CONFIG} --classwise -o weights={WEIGHTS}",
    "export": f"tools/export_model.py -c {CONFIG} --output_dir {OUT}/exported -o weights={WEIGHTS}",
    "infer": f"deploy/python/infer.py --model_dir={MODEL} --image_dir={DATA}/val --eval_json={VAL} "
    f"--output_dir={IMAGES} --threshold=0.3 --cpu_threads={usable_cores()}",
}


def run(name: str, command: str) -> float:
    """Run one step and return its duration in seconds. UserError if it fails; it has printed its own message."""
    print(f"\n== {name}: python {command}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=False).returncode
    if code:
        raise UserError(f"demo: the step '{name}' failed with exit code {code}; see its message above")
    return time.perf_counter() - start


def overview() -> Path:
    """Write a contact sheet of 16 validation images with their detections, and return its path."""
    files = sorted(ROOT.glob(f"{IMAGES}/*.jpg"))
    if not files:
        raise UserError(f"demo: the step 'infer' wrote no images to {IMAGES}")
    shown = [cv2.imread(str(file))[..., ::-1] for file in files[:: max(1, len(files) // 16)][:16]]
    path = ROOT / OUT / "predictions.jpg"
    write_image(path, contact_sheet(shown))
    return path


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    seconds = {name: run(name, command) for name, command in STEPS.items()}
    log, curves = ROOT / RUN / "log.jsonl", ROOT / OUT / "curves.png"
    draw_curves(log, curves)
    best = max(read_log(log)["eval"], key=lambda entry: entry["bbox_mAP"])

    times = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    print(f"\n== done in {sum(seconds.values()) / 60:.1f} minutes (seconds: {times}; {usable_cores()} cores)")
    print(f"COCO AP {best['bbox_mAP']:.3f}, AP50 {best['bbox_mAP_50']:.3f} on {DATA}/val")
    print(f"images    {overview()} and {ROOT / IMAGES}/\ncurves    {curves}\nmodel     {ROOT / MODEL}/")


if __name__ == "__main__":
    run_command(main)
