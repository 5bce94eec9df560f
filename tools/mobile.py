"""Make a detector for phones: train a teacher, train a student with it, quantize the student, export, measure.

    python tools/mobile.py                    # in miniature: the demo's YOLOF teaches one with half as many channels
    python tools/mobile.py --recipe pafnet    # PAFNet teaches PAFNet-lite on COCO; needs GPUs
    python tools/mobile.py --dry_run          # print the commands

Each step is a command of this package, which is printed before it runs. All results go to output/mobile/RECIPE/. A step
that was done is not repeated, and an interrupted training continues where it was; --from STEP repeats a step and those
after it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import _checkout

from ppdet_repro.utils.cpu_env import usable_cores
from ppdet_repro.utils.errors import UserError, run_command

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("paddle", "onnx", "lite")
RESUME = " --resume auto"


class Recipe(NamedTuple):
    """Configs without folder prefix and suffix, and the dataset."""

    teacher: str
    student: str
    distill: str  # with `slim: Distill`: how the student learns from the teacher
    qat: str  # with `slim: QAT`: how the student is quantized
    data: str  # the command that creates the dataset; empty if the user has it
    train: str  # how a training is started
    size: str  # height and width of the network's input on a phone
    images: str  # folder of the images to evaluate
    annotations: str  # their COCO annotation file


RECIPES = {
    "miniature": Recipe(
        teacher="demo/yolof_demo",
        student="demo/yolof_demo_narrow",
        distill="slim/distill/yolof_demo_distill",
        qat="slim/quant/yolof_demo_qat",
        data="tools/dataset.py synth dataset/demo --train 2500 --val 200",
        train=f"tools/train.py --processes {usable_cores()}",
        size="128 128",
        images="dataset/demo/val",
        annotations="dataset/demo/annotations/instances_val.json",
    ),
    "pafnet": Recipe(
        teacher="ttfnet/pafnet_10x_coco",
        student="ttfnet/pafnet_lite_mobilenet_v3_20x_coco",
        distill="slim/distill/pafnet_lite_from_pafnet",
        qat="slim/quant/pafnet_lite_mobilenet_v3_qat",
        data="",
        train="-m paddle.distributed.launch --gpus 0,1,2,3,4,5,6,7 tools/train.py",
        size="320 320",
        images="dataset/coco/val2017",
        annotations="dataset/coco/annotations/instances_val2017.json",
    ),
}


def commands(recipe: Recipe, out: str) -> Dict[str, List[str]]:
    """The commands of each step, without the interpreter."""

    def config(name: str) -> str:
        return f"configs/{name}.yml"

    def best(name: str) -> str:
        return f"{out}/{name.rpartition('/')[2]}/best_model.pdparams"

    def exports(name: str, flags: str) -> List[str]:
        size = {"lite": f" --input_size {recipe.size}"}
        export = f"tools/export_model.py {flags} --output_dir {exported}"
        return [f"{export}{size.get(target, '')} --target {target}" for target in TARGETS]

    exported = f"{out}/exported"
    folders = " ".join(f"{exported}/{name.rpartition('/')[2]}" for name in (recipe.teacher, recipe.student, recipe.qat))
    train = f"{recipe.train} --eval{RESUME}"
    student, qat = f"-c {config(recipe.student)}", f"--slim_config {config(recipe.qat)}"
    taught = f"teacher.pretrain_weights={best(recipe.teacher)}"
    return {
        **({"data": [recipe.data]} if recipe.data else {}),
        "teacher": [f"{train} -c {config(recipe.teacher)} -o save_dir={out}"],
        "student": [f"{train} {student} --slim_config {config(recipe.distill)} -o save_dir={out} {taught}"],
        "qat": [f"{train} {student} {qat} -o save_dir={out} pretrain_weights={best(recipe.distill)}"],
        "export": exports(recipe.student, f"{student} -o weights={best(recipe.distill)}")
        + exports(recipe.qat, f"{student} {qat} -o weights={best(recipe.qat)}")
        + exports(recipe.teacher, f"-c {config(recipe.teacher)} -o weights={best(recipe.teacher)}"),
        "benchmark": [
            f"deploy/benchmark/run.py --model_dir {folders} --image_dir {recipe.images} --eval_json "
            f"{recipe.annotations} --output {out}/benchmark"
        ],
    }


def possible(command: str) -> bool:
    """Whether the installed Paddle can run a command. If not, a line says why."""
    if "--target" not in command:
        return True
    from ppdet_repro.paddle_private.targets import check_target

    try:
        check_target(command.rpartition(" ")[2], quantized="--slim_config" in command)
    except UserError as error:
        print(f"left out: python {command}\n  {error}", flush=True)
        return False
    return True


def run(step: str, lines: List[str], resume: bool) -> None:
    """Run the commands of a step one after the other. UserError if one fails; it has printed its own message."""
    for command in filter(possible, lines):
        command = command if resume else command.replace(RESUME, "")
        print(f"\n== {step}: python {command}", flush=True)
        code = subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=False).returncode
        if code:
            again = "Start this again to continue there"
            raise UserError(f"the step '{step}' failed with exit code {code}; see its message above. {again}")


def run_steps(steps: Dict[str, List[str]], done: Path, first: Optional[str]) -> None:
    """Run the steps that the folder `done` does not record with the same commands, and those after them; `first` and
    those after it in any case. A training continues if it was interrupted and nothing before it has changed."""
    done.mkdir(parents=True, exist_ok=True)
    resume, changed = True, False
    for number, (step, lines) in enumerate(steps.items()):
        record = done / step
        if step == first:
            resume, changed = False, True
        if not changed and record.is_file() and record.read_text(encoding="utf-8").splitlines()[1:] == lines:
            print(f"== {step}: done before, {record.read_text(encoding='utf-8').splitlines()[0]}", flush=True)
            continue
        for later in list(steps)[number:]:
            (done / later).unlink(missing_ok=True)
        start = time.perf_counter()
        run(step, lines, resume)
        seconds = f"in {time.perf_counter() - start:.0f} seconds"
        record.write_text("\n".join([seconds, *lines]) + "\n", encoding="utf-8")
        resume, changed = False, True  # the later steps use what this one made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="miniature", help="default: miniature")
    parser.add_argument("--from", dest="first", metavar="STEP", help="repeat this step and those after it")
    parser.add_argument("--dry_run", action="store_true", help="print the commands and run nothing")
    flags = parser.parse_args()

    out = f"output/mobile/{flags.recipe}"
    steps = commands(RECIPES[flags.recipe], out)
    if flags.first and flags.first not in steps:
        raise UserError(f"--from {flags.first}: the steps are {', '.join(steps)}")
    if flags.dry_run:
        print("\n".join(f"python {command}" for lines in steps.values() for command in lines))
        return
    run_steps(steps, ROOT / out / "done", flags.first)
    print(f"\n== done: the table is {ROOT / out}/benchmark/benchmark.md")


if __name__ == "__main__":
    run_command(main)
