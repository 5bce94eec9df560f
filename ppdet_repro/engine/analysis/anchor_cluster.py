"""Computes anchors that fit the boxes of a dataset: k-means clustering, then random changes that improve the fit.

G boxes, A anchors; sizes are (width, height) in pixels of the network's input.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.utils.boxes import shape_iou
from ppdet_repro.utils.errors import UserError

MAX_STRETCH = 4.0  # an anchor fits a box if no side is this many times longer or shorter, as in YOLOv5
SAMPLE = 50_000  # the most boxes to cluster
STARTS = 5  # clusterings with other random starts
ITERATIONS = 300  # the most iterations of one clustering


class Fit(NamedTuple):
    """How well anchors fit boxes."""

    recall: float  # the share of boxes that some anchor fits (best possible recall)
    iou: float  # the mean IoU of the boxes with their best anchors, if both had the same center


def box_sizes(cfg: Config, height: int, width: int, extra: float = 0.0) -> np.ndarray:
    """The sizes [G, 2] of the boxes of the config's TrainDataset, if its images are resized to height x width. `extra`
    is added to each side before, in pixels of the image."""
    source = build(cfg, "TrainDataset")
    source.require_boxes("TrainDataset", "the clustering of anchors")
    parts = [np.zeros((0, 2))]
    for i in range(len(source)):
        record = source.record(i)
        boxes = record["gt_bbox"]
        scale = np.array([width / float(record["w"]), height / float(record["h"])])
        parts.append((boxes[:, 2:] - boxes[:, :2] + extra) * scale)
    sizes = np.concatenate(parts)
    if not len(sizes):
        raise UserError(f"{cfg.path}: TrainDataset has no boxes")
    return sizes


def input_size(cfg: Config) -> Tuple[int, int]:
    """The height and width in the `image_shape` of TestReader, else a `UserError`."""
    shape = build(cfg, "TestReader").image_shape
    if shape is None or min(shape[-2:]) < 1:
        raise UserError(f"{cfg.path}: TestReader.inputs_def has no image_shape; give the size with --size")
    return shape[-2], shape[-1]


def config_anchors(cfg: Config) -> Optional[np.ndarray]:
    """The anchors [A, 2] of the training targets; None if no transform makes targets for anchors."""
    for transform in build(cfg, "TrainReader").batch_transforms:
        if isinstance(transform, Gt2YoloTarget):
            return np.array(transform.anchors)
    return None


def fit(sizes: np.ndarray, anchors: np.ndarray) -> Fit:
    """How well anchors [A, 2] fit boxes with the sizes [G, 2]."""
    stretch = sizes[:, None] / anchors[None]  # [G, A, 2]
    worst_side = np.maximum(stretch, 1 / stretch).max(axis=2)  # [G, A]
    recall = (worst_side.min(axis=1) < MAX_STRETCH).mean()
    return Fit(float(recall), float(shape_iou(sizes, anchors).max(axis=1).mean()))


def kmeans(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cluster boxes with the sizes [G, 2] by IoU; the `count` anchors are the medians of the clusters.

    The first anchors are boxes chosen at random one after another. A box is more likely to be chosen the less it
    overlaps those before (k-means++).
    Source: Redmon and Farhadi, "YOLO9000", CVPR 2017 ("Dimension Clusters").
    """
    anchors = sizes[rng.choice(len(sizes), 1)]  # [1, 2]
    while len(anchors) < count:
        distance = np.maximum(1 - shape_iou(sizes, anchors).max(axis=1), 1e-9) ** 2  # [G]
        anchors = np.append(anchors, sizes[rng.choice(len(sizes), 1, p=distance / distance.sum())], axis=0)
    owner = np.full(len(sizes), -1)
    for _ in range(ITERATIONS):
        last, owner = owner, shape_iou(sizes, anchors).argmax(axis=1)  # [G]
        if (owner == last).all():
            break
        anchors = np.array(
            [np.median(sizes[owner == a], axis=0) if (owner == a).any() else anchors[a] for a in range(count)]
        )
    return anchors


def evolve(anchors: np.ndarray, sizes: np.ndarray, rng: np.random.Generator, generations: int) -> np.ndarray:
    """Change the sides of anchors at random, `generations` times, and keep the changes that raise the mean IoU."""
    best = fit(sizes, anchors).iou
    for _ in range(generations):
        change = np.where(rng.random(anchors.shape) < 0.9, np.exp(0.1 * rng.standard_normal(anchors.shape)), 1.0)
        child = np.maximum(anchors * change, 1.0)
        score = fit(sizes, child).iou
        if score > best:
            anchors, best = child, score
    return anchors


def cluster(sizes: np.ndarray, count: int, generations: int, seed: int) -> np.ndarray:
    """Compute anchors: the best of `STARTS` clusterings of at most `SAMPLE` boxes, improved by `evolve`.
    Takes the sizes of boxes [G, 2], and returns anchors [A, 2] in whole pixels, the smallest area first. Raises
    UserError if there are fewer boxes than anchors."""
    if len(sizes) < count:
        raise UserError(f"{len(sizes)} boxes are too few for {count} anchors")
    rng = np.random.default_rng(seed)
    sizes = sizes[rng.permutation(len(sizes))[:SAMPLE]]
    anchors = max((kmeans(sizes, count, rng) for _ in range(STARTS)), key=lambda found: fit(sizes, found).iou)
    anchors = np.maximum(np.round(evolve(anchors, sizes, rng, generations)), 1.0)
    return anchors[np.argsort(anchors.prod(axis=1))]


def cluster_v2(sizes: np.ndarray, count: int, iterations: int, seed: int) -> np.ndarray:
    """Compute anchors as PaddleDetection does: k-means by IoU, from boxes chosen at random, with the means of clusters.
    Takes the sizes of boxes [G, 2], and returns anchors [A, 2] in whole pixels, the smallest area first. Raises
    UserError if there are fewer boxes than anchors."""
    if len(sizes) < count:
        raise UserError(f"{len(sizes)} boxes are too few for {count} anchors")
    anchors = sizes[np.random.default_rng(seed).choice(len(sizes), count, replace=False)]
    owner = np.full(len(sizes), -1)
    for _ in range(iterations):
        last, owner = owner, shape_iou(sizes, anchors).argmax(axis=1)  # [G]
        if (owner == last).all():
            break
        members = [sizes[owner == a] for a in range(count)]
        anchors = np.array([own.mean(axis=0) if len(own) else anchor for own, anchor in zip(members, anchors)])
    anchors = anchors[np.argsort(anchors.prod(axis=1))]
    return np.maximum(np.round(anchors), 1.0)


def anchor_report(
    cfg: Config,
    size: Optional[Sequence[int]],
    count: Optional[int],
    generations: int,
    seed: int,
    iterations: Optional[int] = None,
) -> str:
    """The config's anchors and new ones, and how well they fit the boxes, as text.

    Raises UserError if the dataset has too few boxes, or the config does not say the input size.

    Args:
        size: Height and width of the network's input; None for the `image_shape` of TestReader.
        count: The number of new anchors; None for as many as the config has, or 9.
        generations: How often to change the new anchors at random.
        seed: Random seed.
        iterations: The most iterations of `cluster_v2`, which then replaces `cluster`.
    """
    height, width = size or input_size(cfg)
    sizes, own = box_sizes(cfg, height, width, 0.0 if iterations is None else 1.0), config_anchors(cfg)
    if count is None:
        count = 9 if own is None else len(own)
    lines: List[str] = [f"{len(sizes)} boxes at {height} x {width} px"]
    new = cluster(sizes, count, generations, seed) if iterations is None else cluster_v2(sizes, count, iterations, seed)
    for name, anchors in (("config", own), ("new", new)):
        if anchors is not None:
            recall, iou = fit(sizes, anchors)
            lines.append(f"{name:>6}: best possible recall {recall:.4f}, mean IoU with the best anchor {iou:.4f}")
            lines.append(f"anchors: {[[int(side) for side in anchor] for anchor in anchors]}")
    return "\n".join(lines)
