"""Training batches of a YOLO head with COCO's anchors, as its reader makes them, from images and boxes of a formula."""

from __future__ import annotations

import numpy as np
import paddle
from parity_weights import ground_truth, image

from ppdet_repro import load_config
from ppdet_repro.core.config import build


def training_batch(size=(96, 128), seed=3, scores=(1.0, 0.37)):
    """Two images with boxes of alternating scores, and targets for the COCO anchors."""
    height, width = size
    samples = []
    for i in range(2):
        boxes, classes = ground_truth(seed, i, height, width)
        samples.append(padded(boxes, classes, scores, size))
    return batch_of(samples, image(seed, height, width))


def padded(boxes, classes, scores, size, padded_to=50):
    """A sample as it reaches Gt2YoloTarget. Boxes are xyxy in pixels; `scores` are repeated over the boxes.

    The reference's `gt_bbox` is this package's `gt_cxcywh_relative`.
    """
    count, (height, width) = len(boxes), size
    relative = boxes / np.array([width, height, width, height], np.float32)
    center, sides = (relative[:, :2] + relative[:, 2:]) / 2, relative[:, 2:] - relative[:, :2]
    sample = {
        "image": np.zeros((3, *size), np.float32),
        "gt_bbox": np.zeros((padded_to, 4), np.float32),
        "gt_cxcywh_relative": np.zeros((padded_to, 4), np.float32),
        "gt_class": np.zeros((padded_to, 1), np.int32),
        "gt_score": np.zeros((padded_to, 1), np.float32),
    }
    sample["gt_bbox"][:count] = boxes
    sample["gt_cxcywh_relative"][:count] = np.concatenate([center, sides], 1)
    sample["gt_class"][:count, 0] = classes
    sample["gt_score"][:count, 0] = np.resize(scores, count)
    return sample


def batch_of(samples, images):
    cfg = load_config("ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml")
    samples = build(cfg, "Gt2YoloTarget", downsample_ratios=[32, 16, 8])(samples, None)
    batch = {
        name: np.stack([s[name] for s in samples]) for name in ("gt_cxcywh_relative", "target0", "target1", "target2")
    }
    return {name: paddle.to_tensor(array) for name, array in {"image": images, **batch}.items()}
