"""How many positive anchors each object gets, by its size, under the matchers of several configs.

Matching needs boxes and anchors alone: pictures are not decoded and no network runs; predictions are the anchors
themselves, as an untrained network's nearly are.
Source: YOLOF, figure 6.
G objects, S sizes.
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
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.table import text_table

EDGES = (32**2, 96**2)  # COCO's limits of small and medium, pixels of the original picture
PAD = 32  # images are padded to a multiple of it


class Positives(NamedTuple):
    """`objects` [S]: how many there are of each size; `anchors` [S]: how many positives they have together."""

    objects: np.ndarray
    anchors: np.ndarray

    @property
    def each(self) -> List[float]:
        """Positive anchors of one object, by size."""
        return (self.anchors / np.maximum(self.objects, 1)).tolist()

    @property
    def shares(self) -> List[float]:
        """The part of all positive anchors that each size has."""
        return (self.anchors / max(self.anchors.sum(), 1)).tolist()


def positives_by_size(configs: Sequence[Config], number: int) -> Dict[str, Positives]:
    """The counts on the first `number` images of the first config's TrainDataset, by each config's name.

    UserError: a config's head has no matcher of anchors, or its EvalReader does not resize once.
    """
    dataset = build(configs[0], "TrainDataset")
    dataset.load()
    return {cfg.name: count_positives(cfg, dataset, number) for cfg in configs}


def count_positives(cfg: Config, dataset: Source, number: int) -> Positives:
    """One config's counts."""
    head = build(cfg, matching_part(cfg))
    resizes = [t for t in build(cfg, "EvalReader").sample_transforms if isinstance(t, Resize)]
    if len(resizes) != 1:
        raise UserError(f"{cfg.path}: EvalReader has {len(resizes)} Resize, to count positives takes one")
    objects, anchors = np.zeros(len(SIZES), np.int64), np.zeros(len(SIZES), np.int64)
    for index in range(min(number, len(dataset))):
        record = dataset.record(index)
        boxes = record["gt_bbox"]
        if len(boxes):
            sizes = np.digitize((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), EDGES)
            each = positives(head, boxes, Size(int(record["h"]), int(record["w"])), resizes[0])
            np.add.at(objects, sizes, 1)
            np.add.at(anchors, sizes, each)
    return Positives(objects, anchors)


def matching_part(cfg: Config) -> str:
    """The name of the architecture's part that has anchors and a matcher. UserError if there is none."""
    for setting in cfg.tree()[cfg.run.architecture].value.settings.values():
        if setting.has_parts() and {"bbox_assigner", "anchor_generator"} <= set(setting.value.settings):
            return setting.value.component.name
    raise UserError(f"{cfg.path}: {cfg.run.architecture} matches no anchors by a bbox_assigner; YOLOF and RetinaNet do")


@paddle.no_grad()
def positives(head: Any, boxes: np.ndarray, size: Size, resize: Resize) -> np.ndarray:
    """How many different anchors regress to each box [G, 4] of a picture of that size: [G]."""
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


def table(counts: Dict[str, Positives]) -> str:
    """The counts for a reader."""
    header = ["positives of an object", *SIZES, *(f"share {size}" for size in SIZES)]
    (first, *_) = counts.values()
    rows = [(name, *found.each, *found.shares) for name, found in counts.items()]
    numbers = ", ".join(f"{count} {size}" for count, size in zip(first.objects, SIZES))
    return f"{text_table(header, rows)}\nObjects: {numbers}."


def draw(counts: Dict[str, Positives], path: Path) -> None:
    """The counts as a picture, PNG. UserError: it cannot be written."""
    data = positives_plot(SIZES, {name: [*found.each, *found.shares] for name, found in counts.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
