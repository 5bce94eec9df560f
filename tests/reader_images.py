"""A dataset, readers and their batches for the tests of readers."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from ppdet_repro.data.reader import readers
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.geometry import RandomFlip, RandomShift
from ppdet_repro.data.transform.mix import Mixup
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import PadBatch

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


class Images:
    """A dataset of `count` images of 24 x 32 pixels with one or two boxes each."""

    def __init__(self, folder, count=10):
        self.files = [str(folder / f"{i}.png") for i in range(count)]
        for i, file in enumerate(self.files):
            cv2.imwrite(file, np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8))

    def __len__(self):
        return len(self.files)

    def record(self, index):
        boxes = np.array([[2, 3, 20, 15], [8, 6, 30, 22]], np.float32)[: 1 + index % 2]
        return {
            "im_file": self.files[index],
            "im_id": np.array([index]),
            "h": 24.0,
            "w": 32.0,
            "gt_bbox": boxes,
            "gt_class": np.zeros((len(boxes), 1), np.int32),
        }


def train_reader(*extra, **options):
    transforms = [Decode(), Mixup(), RandomShift(), NormalizeImage(), RandomFlip(), Permute(), *extra]
    settings = {"batch_size": 3, "collate_batch": False, "mixup_epoch": 0, **options}
    return readers.TrainReader(transforms, [PadBatch(32)], **settings)


def epoch_of(reader, dataset, epoch=1, workers=0, **options):
    """Returns all batches of an epoch as NumPy arrays."""
    run = {"epoch": epoch, "epochs_total": 4, "seed": 7, "workers": workers, **options}
    loader = reader.batches(dataset, **run)
    out = []
    for batch in loader:
        out.append({k: [t.numpy() for t in v] if isinstance(v, list) else v.numpy() for k, v in batch.items()})
    assert len(out) == len(loader)
    return out


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        for key in a:
            for x, y in zip(a[key], b[key]):
                np.testing.assert_array_equal(x, y)


def ids(batches):
    return [i for batch in batches for i in batch["im_id"][:, 0].tolist()]
