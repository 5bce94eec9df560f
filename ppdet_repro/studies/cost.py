"""Estimates what the runs of a study cost, in GFLOPs and in time, without training.

GFLOPs are counted as `ppdet-repro info` does: 1e9 multiply-adds of one image at the size of evaluation. A training
image costs three times as much as one in evaluation at its size: forward, and twice that backward.
"""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from ppdet_repro.core.config import Config, build, build_model, load_config
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.analysis.counting import TYPICAL_SIZES, count_images
from ppdet_repro.studies.identity import annotation_files
from ppdet_repro.studies.plan import MINIATURE, RESULT, config_of, data_folder, read_json, row_overrides, run_name
from ppdet_repro.studies.study import Row, Study
from ppdet_repro.utils.table import text_table

COCO_IMAGES = {  # minitrain: github.com/giddyyupp/coco-minitrain
    "instances_train2017.json": 118287, "instances_val2017.json": 5000, "instances_minitrain2017.json": 25000,
}  # fmt: skip
TRAINING_FACTOR = 3  # forward and backward


class Cost(NamedTuple):
    """What one run of a row costs."""

    row: Row
    config: str
    gflops: float  # per image, at the size of evaluation
    training: Optional[int]  # images in all epochs; None: unknown, because the data are missing
    evaluated: Optional[int]  # images in all evaluations
    ratio: float  # the mean area of training images divided by the area in evaluation

    @property
    def total(self) -> Optional[float]:
        """GFLOPs of the run."""
        if self.training is None or self.evaluated is None:
            return None
        return self.gflops * (TRAINING_FACTOR * self.training * self.ratio + self.evaluated)


def estimate(
    study: Study, scale: str, output: Path, data: Optional[str], extra: Sequence[str], rows: Sequence[str] = ()
) -> List[Cost]:
    """The costs of a run of every row. Nothing is trained, and no data are generated."""
    folder = data_folder(study, scale, output, data)
    synthetic = study.synthetic if scale == MINIATURE and data is None else None
    costs = []
    for row in study.chosen(rows):
        config = config_of(row, scale)
        costs.append(
            cost_of(row, config, load_config(config, row_overrides(study, row, scale, folder, extra)), synthetic)
        )
    return costs


def cost_of(row: Row, config: str, cfg: Config, synthetic: Optional[Dict[str, Any]]) -> Cost:
    """The cost of a run with this config."""
    preprocess = Preprocess(build(cfg, "EvalReader").preprocess)
    image = count_images(build_model(cfg), preprocess, TYPICAL_SIZES[:1])[0]
    numbers = {
        name: (synthetic or {}).get(key, default) if synthetic is not None else count_of(cfg, name)
        for name, key, default in (("TrainDataset", "train", 400), ("EvalDataset", "val", 100))
    }
    epochs, every = cfg.run.epoch, cfg.run.snapshot_epoch
    plain = cfg.document.plain().get("TrainReader", {})
    per_epoch = numbers["TrainDataset"]
    if plain.get("epoch_steps"):
        per_epoch = plain["epoch_steps"] * plain.get("batch_size", 1)
    training = None if per_epoch is None else per_epoch * epochs
    evaluated = None if numbers["EvalDataset"] is None else numbers["EvalDataset"] * math.ceil(epochs / every)
    ratio = mean_training_area(plain, image.padded[0] * image.padded[1])
    return Cost(row, config, image.cost.total / 1e9, training, evaluated, ratio)


def mean_training_area(reader: Dict[str, Any], area: int) -> float:
    """The mean area of square training images of several sizes, divided by the area in evaluation; 1 for one size."""
    for transform in reader.get("batch_transforms") or []:
        sizes = (transform.get("BatchRandomResize") or {}).get("target_size")
        if isinstance(sizes, list) and sizes and all(isinstance(size, int) for size in sizes):
            return sum(size * size for size in sizes) / len(sizes) / area
    return 1.0


def count_of(cfg: Config, name: str) -> Optional[int]:
    """The number of images of a dataset: from its annotation file, or COCO's if the config names COCO's; else None."""
    files = annotation_files(cfg.document.plain().get(name))
    numbers = []
    for file in files:
        if file.is_file() and file.suffix == ".json":
            numbers.append(len(json.loads(file.read_text(encoding="utf-8")).get("images", [])))
        elif file.is_file() and file.suffix == ".txt":
            numbers.append(sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip()))
        elif file.name in COCO_IMAGES:
            numbers.append(COCO_IMAGES[file.name])
    return sum(numbers) if numbers else None


def measured_speed(costs: List[Cost], output: Path, seeds: Sequence[int]) -> Optional[float]:
    """GFLOPs a second of the runs in a folder that are done and were not interrupted; None if there are none."""
    work = seconds = 0.0
    for cost in costs:
        for seed in seeds:
            result = read_json(output / "runs" / run_name(cost.row.name, seed) / RESULT)
            if result.get("seconds") and cost.total is not None:
                work, seconds = work + cost.total, seconds + result["seconds"]
    return work / seconds if seconds else None


def dry_run(
    study: Study, scale: str, output: Path, data: Optional[str], seeds: Sequence[int], extra: Sequence[str],
    chosen: Sequence[str] = (),
) -> str:  # fmt: skip
    """All runs with their costs and times, as text; of all rows, or of those chosen."""
    costs = estimate(study, scale, output, data, extra, chosen)
    measured = measured_speed(costs, output, seeds)
    speed = measured or study.speed
    rows: List[List[object]] = []
    for seed in seeds:
        for cost in costs:
            total = None if cost.total is None else f"{cost.total:,.0f}"
            time = None if cost.total is None else duration(cost.total / speed)
            name = run_name(cost.row.name, seed)
            rows.append([name, cost.config, f"{cost.gflops:.3g}", cost.training, total, time])
    lines = [text_table(["run", "config", "GFLOPs per image", "training images", "GFLOPs", "time"], rows), ""]
    known = [cost.total for cost in costs if cost.total is not None]
    if len(known) == len(costs):
        lines.append(
            f"{len(rows)} runs, {sum(known) * len(seeds):,.0f} GFLOPs, {duration(sum(known) * len(seeds) / speed)}."
        )
    else:
        lines.append(
            f"{len(rows)} runs. The data are not here, so some costs are unknown; give their folder with --data."
        )
    where = (
        "as the finished runs in this folder" if measured else "the study's figure for two cores; runs will correct it"
    )
    lines.append(f"Times are for {speed:.1f} GFLOPs a second, {where}.")
    lines.append("A GFLOP is 1e9 multiply-adds, as counted by `ppdet-repro info`; training counts three times.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`4.2 min`, `3.1 h` or `12 days`."""
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{datetime.timedelta(seconds=seconds).days} days"
