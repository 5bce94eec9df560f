"""Measure training and inference on the CPU with two installations of Paddle, interleaved in one run.

    python benchmarks/paddle_versions.py .venv/bin/python .venv-paddle3.2/bin/python
    python benchmarks/paddle_versions.py PYTHON PYTHON --networks PAFNet-lite --rounds 9

Each Python gets a process of its own, which stays for the whole run. The processes work alternately: while one makes an
update (forward and backward pass, optimizer) or detects on an image (oneDNN, batch size 1, boxes included), the other
waits. The figures are medians over the rounds; the ratio is the median of the ratios per round. Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import _checkout

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.cpu_env import usable_cores
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table

Work = Callable[[], object]
SIDE_KEYS = {  # transform -> its parameter for the size of the result
    "Resize": "target_size=[{0},{0}]",
    "RandomResize": "target_size=[[{0},{0}]]",
    "BatchRandomResize": "target_size=[{0}]",
    "Mosaic": "target_size=[{0},{0}]",
    "Pad": "size=[{0},{0}]",
}


class Subject(NamedTuple):
    """A network to measure."""

    config: str
    side: int  # of the images, in pixels
    batch: int  # images per update


SUBJECTS = {
    "YOLOF-R50": Subject("yolof/yolof_r50_c5_1x_coco.yml", 512, 2),
    "PAFNet-lite": Subject("ttfnet/pafnet_lite_mobilenet_v3_20x_coco.yml", 320, 4),
    "PP-YOLOv2-R50": Subject("ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml", 512, 2),
}
TASKS = ("update", "image")
PAUSE = 0.5  # seconds before each measurement: the threads of the other process spin for a while after their work


def overrides(subject: Subject, tree: Any, data: Path) -> List[str]:
    """Settings that shrink a config's images to the subject's size and read the synthetic dataset in `data`."""
    found = ["use_gpu=false", "worker_num=0", f"TrainReader.batch_size={subject.batch}", "weights=null"]
    for reader in ("TrainReader", "TestReader"):
        settings = tree[reader].value.settings
        for group in ("sample_transforms", "batch_transforms"):
            for i, item in enumerate(settings[group].value or []):
                name = item.value.component.name
                if name in SIDE_KEYS:
                    found.append(f"{reader}.{group}.{i}.{name}.{SIDE_KEYS[name].format(subject.side)}")
    if "image_shape" in (tree["TestReader"].value.settings["inputs_def"].value or {}):
        found.append(f"TestReader.inputs_def.image_shape=[3,{subject.side},{subject.side}]")
    found.append(f"TrainDataset.dataset_dir={data}")
    return [*found, "TrainDataset.image_dir=train", "TrainDataset.anno_path=annotations/instances_train.json"]


def prepare(name: str, data: Path) -> Dict[str, Work]:
    """What is to be timed of a network, by task."""
    import numpy as np
    import paddle

    from ppdet_repro import build_model, export_model, load_config
    from ppdet_repro.core.config import build
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.paddle_network import PaddleNetwork
    from ppdet_repro.runtime.paddle_options import PaddleOptions

    subject = SUBJECTS[name]
    paddle.set_device("cpu")
    paddle.seed(0)
    cfg = load_config(subject.config, overrides(subject, load_config(subject.config).tree(), data))
    model = build_model(cfg)
    source = build(cfg, "TrainDataset")
    source.load()
    reader = build(cfg, "TrainReader")
    batch = next(iter(reader.batches(source, epoch=0, epochs_total=1, seed=0, workers=0)))
    schedule = build(cfg, "LearningRate").schedule(1000, 1.0)
    optimizer = build(cfg, "OptimizerBuilder").build(schedule, model)

    with tempfile.TemporaryDirectory() as folder:
        exported = open_model_folder(export_model(model, cfg, folder))
        network = PaddleNetwork(exported.network_file, PaddleOptions(cpu_threads=usable_cores()))
    side = subject.side
    inputs = {
        "image": np.random.default_rng(0).normal(size=[1, 3, side, side]).astype(np.float32),
        "im_shape": np.full([1, 2], side, np.float32),
        "scale_factor": np.ones([1, 2], np.float32),
    }

    def update() -> None:
        model.train()
        model(batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()

    return {"update": update, "image": lambda: network.run(inputs)}


def work(data: Path) -> None:
    """Answer requests, one per line of standard input, with lines of JSON: {} after preparing, then seconds."""
    tasks: Dict[str, Work] = {}
    for line in sys.stdin:
        kind, name = line.split()
        if kind == "prepare":
            tasks = prepare(name, data)
            answer: Dict[str, Any] = {}
        else:
            time.sleep(PAUSE)
            start = time.perf_counter()
            tasks[kind]()
            answer = {"seconds": time.perf_counter() - start}
        print(f"answer {json.dumps(answer)}", flush=True)


class Worker:
    """A process of one Python that prepares networks and times them."""

    def __init__(self, python: str, data: Path):
        command = [python, __file__, "--data", str(data), python, python]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.python = python

    def ask(self, kind: str, name: str) -> Dict[str, Any]:
        """Send a request and wait for the answer. UserError if the process ends instead."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{kind} {name}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.partition(" ")[2])
        raise UserError(f"{self.python} failed at {kind} of {name}; run it with --data to see its message")


def paddle_version(python: str) -> str:
    """The version of Paddle that a Python has. UserError if it has none."""
    code = "import importlib.metadata as m; print(m.version('paddlepaddle'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{python} has no paddlepaddle; `make venv PADDLE=...` creates environments")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs=2, metavar="PYTHON", help="interpreters with different versions of Paddle")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    parser.add_argument("--rounds", type=at_least_one, default=7, help="measurements of each (default: 7)")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)  # this process is a worker
    options = parser.parse_args()
    if options.data is not None:
        work(options.data)
        return

    from ppdet_repro.data.source.synthetic import generate

    versions = [paddle_version(python) for python in options.pythons]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = generate(Path(folder) / "data", train=16, val=1, size=(480, 640))
        workers = [Worker(python, data) for python in options.pythons]
        for name in options.networks:
            for worker in workers:
                worker.ask("prepare", name)
            for task in TASKS:
                for worker in workers:
                    worker.ask(task, name)  # warm-up
                rounds = [[w.ask(task, name)["seconds"] for w in workers] for _ in range(options.rounds)]
                first, second = (1000 * statistics.median(times) for times in zip(*rounds))
                ratio = statistics.median(one / other for one, other in rounds)
                rows.append([name, task, f"{first:.1f} ms", f"{second:.1f} ms", f"{ratio:.2f}"])
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
        for worker in workers:
            worker.process.kill()
    print(
        text_table(
            ["network", "per", *(f"Paddle {v}" for v in versions), f"speed of {versions[1]} / {versions[0]}"], rows
        )
    )


if __name__ == "__main__":
    run_command(main)
