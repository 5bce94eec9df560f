"""From nothing to boxes on pictures: data, training, evaluation, export, inference, on the CPU.

    python tools/demo.py

Every step is a command of this package, printed before it runs. Leaves all it makes in output/demo/.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402

from ppdet_repro.utils.cpu_env import usable_cores  # noqa: E402
from ppdet_repro.utils.curves import draw_curves, read_log  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402
from ppdet_repro.utils.pictures import write_picture  # noqa: E402
from ppdet_repro.utils.visualize import contact_sheet  # noqa: E402

CONFIG, DATA, OUT = "configs/demo/yolof_demo.yml", "dataset/demo", "output/demo"
RUN, MODEL, PICTURES = f"{OUT}/yolof_demo", f"{OUT}/exported/yolof_demo", f"{OUT}/pictures"
WEIGHTS = f"{RUN}/best_model.pdparams"
VAL = f"{DATA}/annotations/instances_val.json"

STEPS = {
    "data": f"tools/dataset.py synth {DATA} --train 2500 --val 200",
    "train": f"tools/train.py -c {CONFIG} --eval --processes {usable_cores()} -o save_dir={OUT}",
    "evaluate": f"tools/eval.py -c {CONFIG} --classwise -o weights={WEIGHTS}",
    "export": f"tools/export_model.py -c {CONFIG} --output_dir {OUT}/exported -o weights={WEIGHTS}",
    "infer": f"deploy/python/infer.py --model_dir={MODEL} --image_dir={DATA}/val --eval_json={VAL} "
    f"--output_dir={PICTURES} --threshold=0.3 --cpu_threads={usable_cores()}",
}


def run(name: str, command: str) -> float:
    """Run one step and return its seconds. UserError: it failed (its own message stands above)."""
    print(f"\n== {name}: python {command}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=False).returncode
    if code:
        raise UserError(f"demo: the step '{name}' failed with exit code {code}; its message stands above")
    return time.perf_counter() - start


def overview(count: int = 16) -> Path:
    """One picture of `count` held-out images with their boxes."""
    files: List[Path] = sorted(ROOT.glob(f"{PICTURES}/*.jpg"))
    if not files:
        raise UserError(f"demo: the step 'infer' left no pictures in {PICTURES}")
    shown = [cv2.imread(str(file))[..., ::-1] for file in files[:: max(1, len(files) // count)][:count]]
    path = ROOT / OUT / "predictions.jpg"
    write_picture(path, contact_sheet(shown))
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
    print(f"pictures  {overview()} and {ROOT / PICTURES}/\ncurves    {curves}\nmodel     {ROOT / MODEL}/")


if __name__ == "__main__":
    run_command(main)
