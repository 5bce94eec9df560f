"""Measure how fast images become batches: the reader against a straightforward implementation, and images per second.

    python benchmarks/data_loading.py [--images 48] [--rounds 8] [--workers 0 1 2 4]

The images are generated JPEGs of 480 x 640 pixels. The work is that of YOLOF's evaluation: decode, resize to 800 x 1333
keeping the aspect ratio, normalize, transpose to channels first, pad to a multiple of 32, batch size 4. The
straightforward implementation does the same arithmetic step by step; both must give identical bits. Their ratio comes
from alternating rounds of one run. The fastest round counts, in CPU time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict

import _checkout
import cv2
import numpy as np

from ppdet_repro.data.reader.readers import EvalReader
from ppdet_repro.data.transform.base import Compose, Context, Sample, apply_to_batch
from ppdet_repro.data.transform.decode import Decode, read_image
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import PadBatch, stack
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.utils.workers import run_on_one_thread

BATCH = 4
SHORT, LONG = 800, 1333
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Images:
    """A dataset of JPEG files without boxes."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> Sample:
        return {"im_file": self.files[index], "im_id": np.array([index])}


def make_images(folder: Path, count: int) -> list[str]:
    """Write JPEGs that resemble photographs (smooth shapes with some noise, about 100 KB) and return their paths."""
    files = []
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (30, 40, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.integers(-12, 13, image.shape), 0, 255).astype(np.uint8)
        files.append(str(folder / f"{i}.jpg"))
        cv2.imwrite(files[-1], image)
    return files


def plain_batch(files: list[str]) -> np.ndarray:
    """The same batch by the straightforward implementation: [B, 3, H, W] float32."""
    images = []
    for file in files:
        image = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)
        height, width = image.shape[:2]
        scale = min(SHORT / min(height, width), LONG / max(height, width))
        fx, fy = int(scale * width + 0.5) / width, int(scale * height + 0.5) / height
        image = cv2.resize(image, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        image *= 1.0 / 255.0
        image -= np.array(MEAN)
        image /= np.array(STD)
        images.append(image.transpose(2, 0, 1))
    height, width = (-(-max(image.shape[axis] for image in images) // 32) * 32 for axis in (1, 2))
    padded = []
    for image in images:
        canvas = np.zeros((3, height, width), np.float32)
        canvas[:, : image.shape[1], : image.shape[2]] = image
        padded.append(canvas)
    return np.stack(padded)


def our_batch(reader: EvalReader, files: list[str]) -> np.ndarray:
    """The batch as a worker of the reader makes it."""
    ctx = Context(np.random.default_rng(0))
    samples = [Compose(reader.sample_transforms)({"im_file": file}, ctx) for file in files]
    samples = apply_to_batch(reader.batch_transforms, samples, ctx)
    return stack([sample["image"] for sample in samples])


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU time of a call in seconds; unlike wall time it hardly depends on other processes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print the images per second for each number of workers, then the times of both implementations."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=48, help="number of images (default: 48)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds, the fastest counts (default: 8)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="numbers of worker processes (default: 0 1 2 4)"
    )
    arguments = parser.parse_args()
    reader = EvalReader(
        [Decode(), Resize([SHORT, LONG], keep_ratio=True), NormalizeImage(MEAN, STD), Permute()],
        [PadBatch(32)],
        batch_size=BATCH,
    )
    with tempfile.TemporaryDirectory() as folder:
        files = make_images(Path(folder), arguments.images)
        if not np.array_equal(plain_batch(files[:BATCH]), our_batch(reader, files[:BATCH])):
            raise SystemExit("the two implementations differ")
        for workers in arguments.workers:
            start = time.perf_counter()
            batches = reader.batches(Images(files), epoch=0, epochs_total=1, seed=0, workers=workers)
            done = sum(len(batch["image"]) for batch in batches)
            spent = time.perf_counter() - start
            print(f"workers {workers}: {done / spent:.1f} img/s, including the start of the workers")
        run_on_one_thread()
        works: Dict[str, Callable[[], object]] = {
            "plain": partial(plain_batch, files[:BATCH]),
            "reader": partial(our_batch, reader, files[:BATCH]),
            "reading and decoding only": lambda: [read_image(file) for file in files[:BATCH]],
        }
        times = [{name: cpu_seconds(work) for name, work in works.items()} for _ in range(arguments.rounds)]
    best = {name: min(each[name] for each in times) / BATCH * 1000 for name in works}
    print("per image, on one thread: " + ", ".join(f"{name} {value:.1f} ms" for name, value in best.items()))
    print(f"the reader is {best['plain'] / best['reader']:.1f} times as fast as the plain implementation")


if __name__ == "__main__":
    main()
