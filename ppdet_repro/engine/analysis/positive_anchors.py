"""Counts the positive anchors that objects of different sizes get from the assigners of several configs.

Only boxes and anchors are needed: no image is decoded and no network runs. The anchors take the place of predictions,
as the predictions of an untrained network are nearly the anchors. Source: YOLOF, figure 6.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np
import paddle

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.resize import Resize, Size, resized_size
from ppdet_repro.metrics.coco import SIZES
from ppdet_repro.utils.analysis_plots import positives_plot
from ppdet_repro.utils.boxes import areas
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.table import text_table

AREA_LIMITS = (32**2, 96**2)  # COCO's limits between small, medium and large, in pixels of the original image
PAD = 32  # images are padded to a multiple of it


class PositiveCounts(NamedTuple):
    """The counts for one config, by size of object."""

    objects: np.ndarray
    anchors: np.ndarray  # positive anchors of all these objects

    @property
    def per_object(self) -> List[float]:
        """The mean number of positive anchors per object, by size."""
        return (self.anchors / np.maximum(self.objects, 1)).tolist()

    @property
    def shares(self) -> List[float]:
        """The share of each size in all positive anchors."""
        return (self.anchors / max(self.anchors.sum(), 1)).tolist()


def count_positives(configs: Sequence[Config], number: int) -> Dict[str, PositiveCounts]:
    """Count the positive anchors under each config, on the first `number` images of the first config's TrainDataset.

    Returns the counts by name of the config. Raises UserError if a config's detector has no anchors or no
    `bbox_assigner`, or if its EvalReader does not contain exactly one `Resize`.
    """
    dataset = build(configs[0], "TrainDataset")
    return {cfg.name: count_for_config(cfg, dataset, number) for cfg in configs}


def count_for_config(cfg: Config, dataset: Source, number: int) -> PositiveCounts:
    """The counts for one config."""
    head = build(cfg, part_with_assigner(cfg))
    resizes = [t for t in build(cfg, "EvalReader").sample_transforms if isinstance(t, Resize)]
    if len(resizes) != 1:
        raise UserError(f"{cfg.path}: positive anchors need one Resize in EvalReader, there are {len(resizes)}")
    objects, anchors = np.zeros(len(SIZES), np.int64), np.zeros(len(SIZES), np.int64)
    for index in range(min(number, len(dataset))):
        record = dataset.record(index)
        boxes = record["gt_bbox"]
        if len(boxes):
            sizes = np.digitize(areas(boxes), AREA_LIMITS)
            positives = positives_per_object(head, boxes, Size(int(record["h"]), int(record["w"])), resizes[0])
            np.add.at(objects, sizes, 1)
            np.add.at(anchors, sizes, positives)
    return PositiveCounts(objects, anchors)


def part_with_assigner(cfg: Config) -> str:
    """The name of the part of the architecture that has anchors and an assigner, else a `UserError`."""
    architecture = cfg.run.architecture
    settings = cfg.tree()[architecture].value.settings if architecture else {}
    for setting in settings.values():
        if setting.has_parts() and {"bbox_assigner", "anchor_generator"} <= set(setting.value.settings):
            return setting.value.component.name
    raise UserError(f"{cfg.path}: {architecture} has no bbox_assigner for anchors; YOLOF and RetinaNet have one")


@paddle.no_grad()
def positives_per_object(head: Any, boxes: np.ndarray, size: Size, resize: Resize) -> np.ndarray:
    """The number of different positive anchors of each box [G, 4], in pixels of an image of this size."""
    target = resized_size(size, resize.target_size, resize.keep_ratio)
    scale = np.array([target.width / size.width, target.height / size.height] * 2, np.float32)
    height, width = (math.ceil(side / PAD) * PAD for side in target)
    generator = head.anchor_generator
    maps = [paddle.zeros([1, 1, math.ceil(height / s), math.ceil(width / s)]) for s in generator.strides]
    levels = generator(maps)
    anchors = paddle.concat(levels)
    matches = head.bbox_assigner(anchors, anchors, paddle.to_tensor(boxes * scale), [len(level) for level in levels])
    pairs = np.unique(np.stack([matches.anchors.numpy(), matches.gts.numpy()], axis=1).reshape(-1, 2), axis=0)
    return np.bincount(pairs[:, 1], minlength=len(boxes))


def counts_table(counts: Dict[str, PositiveCounts]) -> str:
    """The counts as text."""
    header = ["positives per object", *SIZES, *(f"share {size}" for size in SIZES)]
    (first, *_) = counts.values()
    rows = [(name, *found.per_object, *found.shares) for name, found in counts.items()]
    numbers = ", ".join(f"{count} {size}" for count, size in zip(first.objects, SIZES))
    return f"{text_table(header, rows)}\nObjects: {numbers}."


def write_plot(counts: Dict[str, PositiveCounts], path: Path) -> None:
    """Write a plot of the counts to a PNG file. Raises UserError if the file cannot be written."""
    bars = {name: [*found.per_object, *found.shares] for name, found in counts.items()}
    write_output(path, positives_plot(SIZES, bars))
