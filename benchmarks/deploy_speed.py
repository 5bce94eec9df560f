"""Measure the speed of deployed models, as ratios of measurements that alternate within one run.

    python benchmarks/deploy_speed.py infer --model_dir MODEL --image_dir PHOTOS
    python benchmarks/deploy_speed.py infer --model_dir MODEL --image_dir PHOTOS --paddledetection PaddleDetection
    python benchmarks/deploy_speed.py infer --model_dir MODEL --image_dir PHOTOS --int8_dir QUANTIZED_MODEL
    python benchmarks/deploy_speed.py post --network NETWORK --whole MODEL     # exports with export.benchmark on, off
    python benchmarks/deploy_speed.py post --network NETWORK --whole MODEL --image_dir PHOTOS
    python benchmarks/deploy_speed.py parts                                    # the models that ./benchmark.sh exported

`infer` times the pipeline of deploy/python/infer.py with batch size 1 in fp32 and bfloat16. It also times int8 if a
quantized model is given, and PaddleDetection's deploy/python/infer.py on the same exported folder if a checkout of
PaddleDetection is given (the packages that it imports must be installed). Each is a process that waits for its turn. A
ratio is the median of the ratios within each round.

`post` measures what decoding and suppression add to the network, in CPU time on one thread, which hardly depends on
other programs. On T threads the network's wall time is about its CPU time divided by T; that of decoding and
suppression is not divided.

`parts` measures where the time between file and boxes goes, for each model in each engine: each part alone, one picture
at a time, and many pictures as infer.py reads them, during the network of others. The last column is CPU time, the sum
of all threads: pictures cannot take a smaller multiple of the network's time if the network already uses all cores.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import site
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List

import _checkout
import numpy as np

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table

EXPORTED = Path("output/benchmark")  # where ./benchmark.sh leaves its models and pictures
LOWEST = 0.3  # boxes with at least this score are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    infer = commands.add_parser("infer", help="time whole pipelines")
    infer.add_argument("--model_dir", required=True, help="folder of an exported model")
    infer.add_argument("--image_dir", required=True, help="folder of images")
    infer.add_argument("--paddledetection", help="a checkout of PaddleDetection")
    infer.add_argument("--int8_dir", help="the same model, quantized by tools/post_quant.py")
    post = commands.add_parser("post", help="time decoding and suppression")
    post.add_argument("--network", required=True, help="export without post-processing (export.benchmark=true)")
    post.add_argument("--whole", required=True, help="export of the same model with post-processing")
    post.add_argument(
        "--side", type=at_least_one, default=640, help="size in pixels of an image of noise (default: 640)"
    )
    post.add_argument("--image_dir", help="folder of images to use instead of noise, for trained weights")
    infer.add_argument("--threads", type=at_least_one, default=2, help="CPU threads (default: 2)")
    parts = commands.add_parser("parts", help="time the parts between file and boxes")
    parts.add_argument("--models", type=Path, default=EXPORTED / "models", metavar="DIR",
                       help="folder with exports in network/ and whole/ (default: %(default)s)")  # fmt: skip
    parts.add_argument("--image_dir", default=str(EXPORTED / "images"), help="folder of images (default: %(default)s)")
    parts.add_argument("--engines", nargs="+", choices=["paddle", "onnxruntime", "openvino"], metavar="ENGINE",
                       default=["paddle", "onnxruntime"], help="default: paddle onnxruntime")  # fmt: skip
    parts.add_argument("--threads", type=at_least_one, default=2, help="CPU threads (default: 2)")
    for command in (infer, post, parts):
        command.add_argument("--rounds", type=at_least_one, default=5, help="measured rounds (default: 5)")
    worker = commands.add_parser("worker", help="used by infer: one pipeline, in a process of its own")
    worker.add_argument("kind")
    worker.add_argument("model_dir")
    worker.add_argument("image_dir")
    worker.add_argument("threads", type=int)
    worker.add_argument("paddledetection", nargs="?")
    part = commands.add_parser("part", help="used by parts: one model in one engine, in a process of its own")
    for name in ("network", "whole", "engine", "image_dir"):
        part.add_argument(name)
    for name in ("threads", "rounds"):
        part.add_argument(name, type=int)
    flags = parser.parse_args()
    functions = {"infer": compare, "post": time_post, "parts": compare_parts, "worker": serve, "part": time_parts}
    functions[flags.command](flags)


# Whole pipelines ------------------------------------------------------------------------------------------


class Worker:
    """A process that detects objects on all images when it is its turn."""

    def __init__(self, kind: str, flags: argparse.Namespace):
        model_dir = flags.int8_dir if kind == "int8" else flags.model_dir
        command = [sys.executable, __file__, "worker", kind, model_dir, flags.image_dir, str(flags.threads)]
        command += [flags.paddledetection] if flags.paddledetection else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None  # they are pipes
        self._input, self._output = self._process.stdin, self._process.stdout

    def turn(self) -> Dict:
        """The seconds for all images in total (`wall`) and in the network (`inference`), and the boxes per image."""
        self._input.write("go\n")
        self._input.flush()
        for line in self._output:
            if line.startswith("{"):
                return json.loads(line)
        raise UserError("a worker process failed; see its message above")

    def end(self) -> None:
        self._input.close()
        self._process.wait()


def serve(flags: argparse.Namespace) -> None:
    """Run a worker: for each line on standard input, process all images and print one line of JSON."""
    from ppdet_repro.data.source.image_folder import find_images

    files = find_images(flags.image_dir)
    detect = theirs(flags) if flags.kind == "theirs" else ours(flags)
    for _ in sys.stdin:
        print(json.dumps(detect(files)), flush=True)


def ours(flags: argparse.Namespace):
    """Our pipeline as infer.py runs it: in bfloat16 for `bf16`, otherwise in the precision of the model."""
    from ppdet_repro.runtime.engines import open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.options import build_parser
    from ppdet_repro.runtime.timing import StageTimer

    line = [f"--model_dir={flags.model_dir}", f"--cpu_threads={flags.threads}"]
    line += ["--enable_mkldnn_bfloat16"] if flags.kind == "bf16" else []
    pipeline = open_pipeline(open_model_folder(flags.model_dir), build_parser().parse_args(line))

    def detect(files: List[str]) -> Dict:
        pipeline.timer = StageTimer()
        start = time.perf_counter()
        rows = [found.rows.tolist() for (found,) in pipeline.stream([file] for file in files)]
        wall = time.perf_counter() - start
        return {"wall": wall, "inference": sum(pipeline.timer.seconds["inference"]), "rows": rows}

    return detect


def theirs(flags: argparse.Namespace):
    """PaddleDetection's deploy/python/infer.py with oneDNN, without drawing."""
    site.addsitedir(str(Path(flags.paddledetection) / "deploy" / "python"))
    settings = {"device": "CPU", "cpu_threads": flags.threads, "enable_mkldnn": True}
    detector = importlib.import_module("infer").Detector(flags.model_dir, **settings)

    def detect(files: List[str]) -> Dict:
        before = detector.det_times.inference_time_s.value()
        start = time.perf_counter()
        rows = [detector.predict_image([file], visual=False)["boxes"].tolist() for file in files]
        wall = time.perf_counter() - start
        return {"wall": wall, "inference": detector.det_times.inference_time_s.value() - before, "rows": rows}

    return detect


def compare(flags: argparse.Namespace) -> None:
    """Print times, ratios and the differences between the boxes."""
    kinds = ["fp32", "bf16"] + ["int8"] * bool(flags.int8_dir) + ["theirs"] * bool(flags.paddledetection)
    workers = {kind: Worker(kind, flags) for kind in kinds}
    first = {kind: worker.turn() for kind, worker in workers.items()}  # warm-up
    turns: Dict[str, List[Dict]] = {kind: [] for kind in kinds}
    for _ in range(flags.rounds):
        for kind, worker in workers.items():
            turns[kind].append(worker.turn())
    for worker in workers.values():
        worker.end()
    images = len(first["fp32"]["rows"])
    rows = []
    for kind in kinds:
        wall = np.array([turn["wall"] for turn in turns[kind]])
        inside = np.array([turn["inference"] for turn in turns[kind]])
        base = np.array([turn["wall"] for turn in turns["theirs" if flags.paddledetection else "fp32"]])
        rows.append([kind, *map(float, (1000 * np.median(wall) / images, 1000 * np.median(inside) / images,
                                        np.median(wall / inside), np.median(base / wall)))])  # fmt: skip
    against = "PaddleDetection" if flags.paddledetection else "fp32"
    print(text_table(["ms per image", "end to end", "network", "ratio", f"speed, {against} = 1"], rows))
    for kind in kinds[1:]:
        print(f"{kind} against fp32: {box_difference(first['fp32']['rows'], first[kind]['rows'])}")


def box_difference(reference: List[List], others: List[List]) -> str:
    """Describe how far `others` are from the reference boxes that score at least LOWEST, in pixels and in scores.

    Each reference box is compared with the nearest box of its class.
    """
    pixels, scores, lost = [], [], 0
    for image, other in zip(reference, others):
        rows, candidates = np.array(image).reshape(-1, 6), np.array(other).reshape(-1, 6)
        for row in rows[rows[:, 1] >= LOWEST]:
            same = candidates[candidates[:, 0] == row[0]]
            distance = np.abs(same[:, 2:] - row[2:]).max(axis=1, initial=0)
            if not len(same) or distance.min() > 0.5 * max(row[4] - row[2], row[5] - row[3]):
                lost += 1
                continue
            pixels.append(distance.min())
            scores.append(abs(same[distance.argmin(), 1] - row[1]))
    if not pixels:
        return f"no box scores {LOWEST}"
    median, p95, most = np.percentile(pixels, [50, 95, 100])
    return (
        f"{len(pixels)} boxes of score {LOWEST} or more: median {median:.4f}, p95 {p95:.4f}, maximum {most:.4f} px; "
        f"scores differ by at most {max(scores):.5f}; {lost} have no counterpart"
    )


# Decoding and suppression ---------------------------------------------------------------------------------


def time_post(flags: argparse.Namespace) -> None:
    """Print the CPU time of the network, and what decoding and suppression add to it."""
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.paddle_network import PaddleNetwork

    networks = [PaddleNetwork(open_model_folder(folder).network_file) for folder in (flags.network, flags.whole)]
    batches = photographs(flags) if flags.image_dir else [noise(flags.side)]
    times: List[List[float]] = []
    for i in range(flags.rounds + 1):
        times.append([])
        for network in networks:
            start = time.process_time()
            network.run(batches[i % len(batches)])
            times[-1].append(1000 * (time.process_time() - start))
    alone, whole = np.array(times[1:]).T
    added = float(np.median(whole - alone))
    print(
        f"network {np.median(alone):.1f} ms of CPU time, decoding and suppression add {added:.1f} ms "
        f"({100 * added / np.median(alone):.1f} %); medians of {flags.rounds} turns"
    )


def noise(side: int) -> Dict[str, np.ndarray]:
    """The network's inputs for a square image of noise."""
    return {
        "image": np.random.default_rng(0).normal(size=[1, 3, side, side]).astype(np.float32),
        "im_shape": np.array([[side, side]], np.float32),
        "scale_factor": np.ones([1, 2], np.float32),
    }


def photographs(flags: argparse.Namespace) -> List[Dict[str, np.ndarray]]:
    """The network's inputs for the images of a folder, at most one per turn."""
    from ppdet_repro.data.source.image_folder import find_images
    from ppdet_repro.data.transform.preprocess import from_list
    from ppdet_repro.runtime.model_folder import open_model_folder

    preprocess = from_list(open_model_folder(flags.whole).preprocess)
    return [preprocess([file])._asdict() for file in find_images(flags.image_dir)[: flags.rounds + 1]]


# The parts between file and boxes -------------------------------------------------------------------------


def compare_parts(flags: argparse.Namespace) -> None:
    """Print a table of the parts' times: milliseconds per image, and multiples of the network's time."""
    from ppdet_repro.runtime.networks import network_file

    rows = []
    for engine in flags.engines:
        for folder in sorted((flags.models / "whole").glob("*")):
            network = flags.models / "network" / folder.name
            if not all(network_file(path, engine).is_file() for path in (network, folder)):
                continue
            command = [sys.executable, __file__, "part", network, folder, engine, flags.image_dir, flags.threads]
            done = subprocess.run(
                [*map(str, command), str(flags.rounds)], stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                raise UserError(f"{folder} cannot be timed with {engine}; see the message above")
            rows.append([f"{folder.name.removesuffix('_onnx')}, {engine}", *part_row(json.loads(done.stdout))])
    if not rows:
        raise UserError(f"there are no exports in {flags.models}/network and {flags.models}/whole; run ./benchmark.sh")
    header = ["ms per image", "network", "file", "pixels", "decoding, NMS", "one by one", "ratio", "many", "ratio"]
    print(text_table([*header, "CPU ratio"], rows))


def part_row(times: Dict[str, List[List[float]]]) -> List[float]:
    """A row of the table, from the milliseconds per image, wall and CPU [rounds, 2], of each mode of `time_parts`."""
    wall, cpu = ({name: np.array(pairs)[:, i] for name, pairs in times.items()} for i in (0, 1))
    columns = [
        wall["network"], wall["file"], wall["pixels"], wall["engine"] - wall["network"],
        wall["one by one"], wall["one by one"] / wall["network"], wall["many"], wall["many"] / wall["network"],
        cpu["one by one"] / cpu["network"],
    ]  # fmt: skip
    return [float(np.median(column)) for column in columns]


def time_parts(flags: argparse.Namespace) -> None:
    """Print the times of each round as JSON; the first round is the warm-up."""
    from ppdet_repro.data.source.image_folder import find_images
    from ppdet_repro.runtime.engines import open_network, open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.options import build_parser
    from ppdet_repro.runtime.pipeline import read

    files = find_images(flags.image_dir)
    line = [f"--model_dir={flags.whole}", f"--engine={flags.engine}", f"--cpu_threads={flags.threads}"]
    settings = build_parser().parse_args(line)
    pipeline = open_pipeline(open_model_folder(flags.whole, engine=flags.engine), settings)
    network = open_network(open_model_folder(flags.network, engine=flags.engine), settings)
    images = [read(file) for file in files]
    inputs = [pipeline.preprocess([image])._asdict() for image in images]
    modes: Dict[str, Callable[[], Iterable]] = {
        "network": lambda: map(network.run, inputs),
        "engine": lambda: map(pipeline.engine.run, inputs),
        "file": lambda: map(read, files),
        "pixels": lambda: (pipeline.preprocess([image]) for image in images),
        "one by one": lambda: (pipeline([file]) for file in files),
        "many": lambda: pipeline.stream([file] for file in files),
    }
    times: Dict[str, List[List[float]]] = {name: [] for name in modes}
    for _ in range(flags.rounds + 1):
        for name, mode in modes.items():
            start, before = time.perf_counter(), time.process_time()
            collections.deque(mode(), maxlen=0)
            spent = (time.perf_counter() - start, time.process_time() - before)
            times[name].append([1000 * seconds / len(files) for seconds in spent])
    print(json.dumps({name: rounds[1:] for name, rounds in times.items()}))


if __name__ == "__main__":
    run_command(main)
