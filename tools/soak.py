"""Run the server or the inference on a folder for hours, with good, damaged and hostile input, and watch the memory.

tools/soak.py --what serve --hours 2
tools/soak.py --what infer --hours 0.01 --csv /tmp/infer.csv

`serve` is the command with a small model; 4 clients send the cases of tests/fuzzing/requests.py. `infer` detects on the
images of a folder again and again in one process, and on files that are no images. The resident memory of the process
and its children is sampled every few seconds and written to a CSV file. The exit code is 1 if a case fails, or if the
mean memory of the last quarter of the time is more than 2 % above that of the second quarter.
"""

import argparse
import csv
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Union

import _checkout

from ppdet_repro.utils.errors import UserError

GROWTH = 1.02  # most memory of the last quarter, relative to the second one
CLIENTS = 4
SHOWN = 60.0  # seconds between two lines of progress


class Sample(NamedTuple):
    """The state at a time: seconds since the start, MB in memory, requests or images so far, and how many failed."""

    seconds: float
    memory: float
    done: int
    failed: int


class Serve:
    """Requests to the server, of which `work` sends some."""

    def __init__(self, seed: int):
        from tests.fuzzing import requests

        self.server = requests.Server()
        self.clients = ThreadPoolExecutor(CLIENTS)
        self.seed, self.done, self.failed = seed, 0, 0
        self.fill_caches()

    def fill_caches(self) -> None:
        """Send pictures of many shapes. The network keeps the kernels of its last 10 input sizes, about 45 MB for each
        with this model, and random requests have a new size only now and then."""
        import cv2
        import numpy as np

        from tests.fuzzing.requests import upload_headers

        for side in (int(1000 * 0.8**i) for i in range(24)):  # up to 211 times as high as wide, or as wide as high
            for shape in ((side, 1000, 3), (1000, side, 3)):
                body = cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes()
                head = "\r\n".join(["POST /api/detect HTTP/1.1", *upload_headers(body), "", ""])
                self.server({"0": head.encode() + body})

    @property
    def pid(self) -> int:
        return self.server.process.pid

    def work(self, seconds: float) -> None:
        """Send requests for so many seconds."""
        from tests.fuzzing.runner import case

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            batch = [case("requests", self.seed, self.done + i) for i in range(CLIENTS)]
            for result in self.server.together(batch, self.clients):
                if result.outcome not in ("loaded", "refused"):
                    self.failed += 1
                    print(f"request {self.done}: {result.outcome}: {result.detail}", flush=True)
                self.done += 1

    def close(self) -> None:
        self.server.close()


class Infer:
    """A process that detects on images; `work` waits for it."""

    def __init__(self, seed: int):
        from tests.fuzzing.requests import export_tiny_model

        self.folder = tempfile.TemporaryDirectory(prefix="soak")
        folder = Path(self.folder.name)
        context: Any = multiprocessing.get_context("spawn")
        self.counts = context.Array("q", 2, lock=False)
        arguments = (export_tiny_model(folder), folder, seed, self.counts)
        self.process = context.Process(target=infer_again_and_again, args=arguments, daemon=True)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def done(self) -> int:
        return self.counts[0]

    @property
    def failed(self) -> int:
        return self.counts[1]

    def work(self, seconds: float) -> None:
        """Wait. SystemExit if the process has ended."""
        self.process.join(seconds)
        if self.process.exitcode is not None:
            sys.exit(f"the process ended with exit code {self.process.exitcode}")

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()


def infer_again_and_again(model_dir: Path, folder: Path, seed: int, counts: Any) -> None:
    """Detect on all images of a folder, then on files that are damaged, and so on without an end."""
    import contextlib
    import os
    import random

    from ppdet_repro.runtime.engines import open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder
    from ppdet_repro.runtime.options import add_arguments
    from ppdet_repro.runtime.run import run_images
    from ppdet_repro.runtime.timing import StageTimer
    from tests.fuzzing.mutations import damaged
    from tests.fuzzing.requests import bodies
    from tests.tiny_yolof import write_images

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders write about damaged files
    parser, rng = argparse.ArgumentParser(), random.Random(seed)
    add_arguments(parser)
    good, bad = write_images(folder / "good", count=20) / "images", folder / "bad.png"
    flags = parser.parse_args([f"--model_dir={model_dir}", f"--output_dir={folder / 'output'}", "--save_results"])
    model = open_model_folder(model_dir)
    pipeline = open_pipeline(model, flags)
    while True:
        pipeline.timer = StageTimer()
        flags.image_file, flags.image_dir = None, str(good)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            run_images(pipeline, model.labels, flags)
            counts[0] += 20
            for _ in range(20):
                bad.write_bytes(damaged(rng, rng.choice(bodies()), bodies()))
                flags.image_file = str(bad)
                try:
                    run_images(pipeline, model.labels, flags)
                except UserError:
                    pass
                except Exception as error:
                    counts[1] += 1
                    print(f"{error!r}", file=sys.__stdout__, flush=True)
                counts[0] += 1


def soak(what: str, hours: float, path: Path, every: float, seed: int) -> List[Sample]:
    """Let it work so long, and write the samples to a file."""
    from tests.fuzzing.requests import memory

    load: Union[Serve, Infer] = Serve(seed) if what == "serve" else Infer(seed)
    samples: List[Sample] = []
    shown = 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(Sample._fields)
            start = time.monotonic()
            while (now := time.monotonic() - start) < 3600 * hours:
                load.work(every)
                sample = Sample(time.monotonic() - start, memory(load.pid) / 2**20, load.done, load.failed)
                samples.append(sample)
                rows.writerow([round(value, 1) for value in sample])
                file.flush()
                if now - shown >= SHOWN:
                    shown = now
                    print("{:.0f} s: {:.1f} MB, {} done, {} failed".format(*sample), flush=True)
    finally:
        load.close()
    return samples


def verdict(samples: List[Sample]) -> Optional[str]:
    """What is wrong, or None. Prints the memory of the second and the last quarter of the time."""
    end = samples[-1].seconds
    second, last = (
        statistics.mean(sample.memory for sample in samples if first * end <= sample.seconds <= (first + 0.25) * end)
        for first in (0.25, 0.75)
    )
    change = f"{100 * (last / second - 1):+.2f} %"
    print(f"{samples[-1].done} done in {end / 3600:.2f} hours; at most {max(s.memory for s in samples):.1f} MB;")
    print(f"{second:.1f} MB in the second quarter of the time, {last:.1f} MB in the last ({change})")
    if samples[-1].failed:
        return f"{samples[-1].failed} failed"
    return "the memory grows" if last > GROWTH * second else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--what", choices=["serve", "infer"], required=True, help="what to run")
    add("--hours", type=float, default=2.0, help="how long (default: 2)")
    add("--csv", type=Path, metavar="FILE", help="file for the samples (default: output/soak_WHAT.csv)")
    add("--every", type=float, default=5.0, metavar="SECONDS", help="time between two samples (default: 5)")
    add("--seed", type=int, default=0, help="the same seed makes the same input (default: 0)")
    arguments = parser.parse_args()
    path = arguments.csv or Path(f"output/soak_{arguments.what}.csv")
    wrong = verdict(soak(arguments.what, arguments.hours, path, arguments.every, arguments.seed))
    print(f"failed: {wrong}" if wrong else "passed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
