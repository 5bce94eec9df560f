"""Draws samples of a dataset with their boxes, one file per sample and one contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppdet_repro.data.source.base import Source, random_record
from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.transform.base import BatchTransform, Compose, Context, ImageError, Sample, apply_to_batch
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import contact_sheet, draw_boxes, enlarged, write_image

FIELDS = ("image", "gt_bbox", "gt_class", "is_crowd", "difficult")
MASKS = "gt_poly"  # the additional field that CopyPaste needs
NOT_DRAWN = {"NormalizeImage", "NormalizeBox", "Permute"}  # these begin the preparation for the network


def show(source: Source, folder: str, number: int = 16, seed: int = 0, transforms: Sequence[Any] = ()) -> Path:
    """Draw random samples of a dataset. Returns the path of the contact sheet.

    Args:
        source: The dataset. Its data_fields must contain those of `FIELDS`, and, for CopyPaste, also `MASKS`.
        folder: The folder to write to.
        number: The number of samples.
        seed: Random seed of the choice and of the transforms.
        transforms: Sample and batch transforms of a reader, which are applied up to the normalization.
    """
    images = []
    target = Path(folder)
    with files_checked(target, "written"):
        target.mkdir(parents=True, exist_ok=True)
    for sample in _samples(source, number, seed, transforms):
        images.append(_drawn(sample, source.class_names))
        name = f"{len(images) - 1:03d}_{Path(sample['im_file']).stem}.jpg"
        write_image(target / name, images[-1])
    write_image(target / "sheet.jpg", contact_sheet(images))
    return target / "sheet.jpg"


def before_normalization(transforms: Sequence[Any]) -> list[Any]:
    """Return the transforms before the first one of `NOT_DRAWN`."""
    names = [type(transform).__name__ for transform in transforms]
    stop = next((i for i, name in enumerate(names) if name in NOT_DRAWN), len(names))
    return list(transforms[:stop])


def _samples(source: Source, number: int, seed: int, transforms: Sequence[Any]) -> Iterator[Sample]:
    order = np.random.default_rng(seed).permutation(len(source))[:number]
    chosen = before_normalization(transforms) or [Decode()]
    split = next((i for i, t in enumerate(chosen) if isinstance(t, BatchTransform)), len(chosen))
    for position, index in enumerate(order):
        rng = np.random.default_rng([seed, 0, position])
        draw = partial(random_record, source, rng)
        record = source.record(int(index))
        name = record["im_file"]
        try:
            sample = Compose(chosen[:split])(record, Context(rng, 0.0, draw))
        except ImageError as error:
            raise UserError(f"{error}: replace or remove it ('ppdet-repro data check' finds all such files)") from None
        sample = apply_to_batch(chosen[split:], [sample], Context(rng))[0]
        yield {**sample, "im_file": name}


def _drawn(sample: Sample, names: Sequence[str]) -> np.ndarray:
    image, factor = enlarged(np.clip(sample["image"], 0, 255).astype(np.uint8))
    flags = {"crowd": sample.get("is_crowd"), "difficult": sample.get("difficult")}
    notes = [
        " ".join(word for word, values in flags.items() if values is not None and values[i])
        for i in range(len(sample["gt_bbox"]))
    ]
    scores = sample["gt_score"].ravel() if "gt_score" in sample else None  # weights that Mixup gives
    return draw_boxes(image, sample["gt_bbox"] * factor, sample["gt_class"].ravel(), scores, names, notes)
