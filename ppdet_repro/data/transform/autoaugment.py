"""AutoAugment for detection: one of several learned sequences of operations, drawn for each image.

Source: Zoph et al., "Learning Data Augmentation Strategies for Object Detection", 2019.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.autoaugment_ops import OPERATIONS
from ppdet_repro.data.transform.base import Context, Sample


class Step(NamedTuple):
    """One operation of a sequence."""

    name: str
    prob: float  # has an effect for operations inside of boxes only
    level: float  # 0 to 10


def policy(text: str) -> list[list[Step]]:
    """Read a policy: a sequence per line, whose steps are "name probability level", separated by commas."""
    lines = [[step.split() for step in line.split(",")] for line in text.strip().splitlines()]
    return [[Step(name, float(prob), float(level)) for name, prob, level in line] for line in lines]


V1 = policy("""
    TranslateX_BBox 0.6 4, Equalize 0.8 10
    TranslateY_Only_BBoxes 0.2 2, Cutout 0.8 8
    Sharpness 0 8, ShearX_BBox 0.4 0
    ShearY_BBox 1 2, TranslateY_Only_BBoxes 0.6 6
    Rotate_BBox 0.6 10, Color 1 6
    Color 0 0, ShearX_Only_BBoxes 0.8 4
    ShearY_Only_BBoxes 0.8 2, Flip_Only_BBoxes 0 10
    Equalize 0.6 10, TranslateX_BBox 0.2 2
    Color 1 10, TranslateY_Only_BBoxes 0.4 6
    Rotate_BBox 0.8 10, Contrast 0 10
    Cutout 0.2 2, Brightness 0.8 10
    Color 1 6, Equalize 1 2
    Cutout_Only_BBoxes 0.4 6, TranslateY_Only_BBoxes 0.8 2
    Color 0.2 8, Rotate_BBox 0.8 10
    Sharpness 0.4 4, TranslateY_Only_BBoxes 0 4
    Sharpness 1 4, SolarizeAdd 0.4 4
    Rotate_BBox 1 8, Sharpness 0.2 8
    ShearY_BBox 0.6 10, Equalize_Only_BBoxes 0.6 8
    ShearX_BBox 0.2 6, TranslateY_Only_BBoxes 0.2 10
    SolarizeAdd 0.6 8, Brightness 0.8 10
""")
V2 = policy("""
    Color 0 6, Cutout 0.6 8, Sharpness 0.4 8
    Rotate_BBox 0.4 8, Sharpness 0.4 2, Rotate_BBox 0.8 10
    TranslateY_BBox 1 8, AutoContrast 0.8 2
    AutoContrast 0.4 6, ShearX_BBox 0.8 8, Brightness 0 10
    SolarizeAdd 0.2 6, Contrast 0 10, AutoContrast 0.6 0
    Cutout 0.2 0, Solarize 0.8 8, Color 1 4
    TranslateY_BBox 0 4, Equalize 0.6 8, Solarize 0 10
    TranslateY_BBox 0.2 2, ShearY_BBox 0.8 8, Rotate_BBox 0.8 8
    Cutout 0.8 8, Brightness 0.8 8, Cutout 0.2 2
    Color 0.8 4, TranslateY_BBox 1 6, Rotate_BBox 0.6 6
    Rotate_BBox 0.6 10, BBox_Cutout 1 4, Cutout 0.2 8
    Rotate_BBox 0 0, Equalize 0.6 6, ShearY_BBox 0.6 8
    Brightness 0.8 8, AutoContrast 0.4 2, Brightness 0.2 2
    TranslateY_BBox 0.4 8, Solarize 0.4 6, SolarizeAdd 0.2 10
    Contrast 1 10, SolarizeAdd 0.2 8, Equalize 0.2 4
""")
V3 = policy("""
    Posterize 0.8 2, TranslateX_BBox 1 8
    BBox_Cutout 0.2 10, Sharpness 1 8
    Rotate_BBox 0.6 8, Rotate_BBox 0.8 10
    Equalize 0.8 10, AutoContrast 0.2 10
    SolarizeAdd 0.2 2, TranslateY_BBox 0.2 8
    Sharpness 0 2, Color 0.4 8
    Equalize 1 8, TranslateY_BBox 1 8
    Posterize 0.6 2, Rotate_BBox 0 10
    AutoContrast 0.6 0, Rotate_BBox 1 6
    Equalize 0 4, Cutout 0.8 10
    Brightness 1 2, TranslateY_BBox 1 6
    Contrast 0 2, ShearY_BBox 0.8 0
    AutoContrast 0.8 10, Contrast 0.2 10
    Rotate_BBox 1 10, Cutout 1 10
    SolarizeAdd 0.8 6, Equalize 0.8 8
""")
POLICIES = {"v0": V1[:5], "v1": V1, "v2": V2, "v3": V3, "test": policy("TranslateX_BBox 1 4, Equalize 1 10")}


@register
class AutoAugment:
    """Applies a sequence of the policy, drawn for each image. The image is truncated to 8 bits first.

    As in PaddleDetection, each step is made with a probability of 0.5, whatever the policy says; only operations inside
    of boxes use its probabilities. Images without boxes do not change. Put this before transforms that resize: some
    operations move by up to 250 pixels.

    Args:
        autoaug_type: v0 is the paper's policy, v1, v2 and v3 are others of its authors, test is a single sequence.
    """

    def __init__(self, autoaug_type: Literal["v0", "v1", "v2", "v3", "test"] = "v1"):
        self.sequences = POLICIES[autoaug_type]

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if not len(sample["gt_bbox"]):
            return sample
        image = sample["image"].astype(np.uint8)
        height, width = image.shape[:2]
        size = np.array([width, height, width, height], np.float32)
        boxes = sample["gt_bbox"] / size
        for name, prob, level in self.sequences[ctx.rng.integers(len(self.sequences))]:
            if ctx.rng.random() >= 0.5:
                image, boxes = OPERATIONS[name](image, boxes, level, prob, ctx.rng)
        sample["image"], sample["gt_bbox"] = image, boxes * size
        return sample
