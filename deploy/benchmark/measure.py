"""Measure the speed of one model in one engine.

`run.py` starts this in a child process, so that an engine that crashes loses one row only. It reads a job (json) from
standard input and prints one line of json. All times are milliseconds per batch.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from argparse import Namespace
from typing import Any, Callable, Dict, Iterable, List, Sequence

import _checkout
import numpy as np

from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.runtime.engines import open_network, open_pipeline
from ppdet_repro.runtime.model_folder import ModelFolder, open_model_folder
from ppdet_repro.runtime.pipeline import Pipeline, batched
from ppdet_repro.runtime.sources import coco_images
from ppdet_repro.utils.errors import UserError, run_command


def main() -> None:
    job = json.load(sys.stdin)
    flags = Namespace(**job["flags"])
    whole = open_model_folder(job["whole"], engine=flags.engine)
    result: Dict[str, object] = {}
    if job["network"]:
        result["network"] = time_network(job, flags)
    pipeline = open_pipeline(whole, flags)
    wanted = flags.batch_size * (job["warmup"] + job["repeats"])
    batches = batched(itertools.islice(itertools.cycle(job["images"]), wanted), flags.batch_size)
    calls = (lambda batch=batch: pipeline(batch) for batch in batches)
    np.save(job["boxes"], pipeline(job["images"][:1])[0].rows)
    result["end_to_end"] = timed(calls, job["warmup"], job["seconds"])
    result["ap"] = average_precision(pipeline, flags, len(whole.labels)) if flags.eval_json else None
    print(json.dumps(result))


def time_network(job: Dict[str, Any], flags: Namespace) -> List[float]:
    """The times of the network alone, as papers report them. Its outputs are written to the file that the job names."""
    model = open_model_folder(job["network"], engine=flags.engine)
    network = open_network(model, flags)
    height, width = input_size(model)
    normalizes = all(step["type"] != "NormalizeImage" for step in model.preprocess)
    pixels = np.random.default_rng(0).uniform(0, 255, [flags.batch_size, 3, height, width])
    inputs = {
        "image": (pixels if normalizes else (pixels - 114) / 57).astype(np.float32),
        "im_shape": np.full([flags.batch_size, 2], (height, width), np.float32),
        "scale_factor": np.ones([flags.batch_size, 2], np.float32),
    }
    times = timed([lambda: network.run(inputs)] * (job["warmup"] + job["repeats"]), job["warmup"], job["seconds"])
    np.savez(job["outputs"], *network.run(inputs))
    return times


def average_precision(pipeline: Pipeline, flags: Namespace, classes: int) -> float:
    """COCO AP on the images of --eval_json."""
    images = coco_images(flags.eval_json, flags.image_dir, classes)
    stream = pipeline.stream(batched(images.files, flags.batch_size))
    found = [image.rows for detected in stream for image in detected]
    rows = coco_rows(map(ImageDetections, images.ids, found), images.category_ids)
    return evaluate_coco(load_coco_json(flags.eval_json), rows, images.ids).summary["bbox_mAP"]


def timed(calls: Iterable[Callable[[], object]], warmup: int, seconds: float) -> List[float]:
    """The milliseconds of each call after the first `warmup` ones, which end when they have taken `seconds` in total,
    but not before the third."""
    times: List[float] = []
    for call in calls:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
        if len(times) >= warmup + 3 and sum(times[warmup:]) >= 1000 * seconds:
            break
    return times[warmup:]


def input_size(model: ModelFolder) -> Sequence[int]:
    """Height and width of the network's input: the target size of Resize, rounded up to the stride of the padding."""
    steps = {step["type"]: step for step in model.preprocess}
    if "Resize" not in steps:
        raise UserError(f"{model.config_file} has no Resize, so the input size is unknown")
    stride = max(1, steps.get("PadStride", {}).get("stride", 1))
    return [-(-side // stride) * stride for side in steps["Resize"]["target_size"]]


if __name__ == "__main__":
    run_command(main)
