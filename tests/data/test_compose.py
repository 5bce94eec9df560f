"""Sequences of transforms, and their failures."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, noise_image, sample

from ppdet_repro.data.transform.base import Compose, TransformError, apply_to_batch
from ppdet_repro.data.transform.color import RandomDistort
from ppdet_repro.data.transform.erase import Cutout
from ppdet_repro.data.transform.geometry import RandomCrop, RandomExpand, RandomFlip
from ppdet_repro.data.transform.pad import PadBatch


class Brighten:
    def __call__(self, sample, ctx):
        sample["image"] = sample["image"] + 1
        return sample


class Partner:
    def __call__(self, sample, ctx):
        sample["partner"] = ctx.draw()["image"]
        return sample


class Broken:
    def __call__(self, sample, ctx):
        raise KeyError("depth")


def test_a_drawn_sample_has_gone_through_the_transforms_before():
    ctx = context(draw=lambda: {"image": 10})
    out = Compose([Brighten(), Partner(), Brighten()])({"image": 0}, ctx)
    assert out == {"image": 2, "partner": 11}


def test_an_unforeseen_failure_names_transform_and_image():
    with pytest.raises(TransformError, match=r"Broken failed on image a.jpg \(im_id 3\): KeyError: 'depth'"):
        Compose([Broken()])({"im_file": "a.jpg", "im_id": np.array([3])}, context())


def test_sample_transforms_may_stand_among_batch_transforms():
    samples = [{"image": np.zeros((3, 2, 2))}, {"image": np.zeros((3, 4, 2))}]
    out = apply_to_batch([Brighten(), PadBatch(4)], samples, context())
    assert [each["image"].sum() for each in out] == [12, 24]


def test_the_same_seed_gives_the_same_sample():
    transforms = [RandomDistort(), RandomExpand(), RandomCrop(), RandomFlip(), Cutout()]
    outs = [Compose(transforms)(sample(noise_image(30, 40)), context(5)) for _ in range(2)]
    for key in outs[0]:
        np.testing.assert_array_equal(outs[0][key], outs[1][key])
