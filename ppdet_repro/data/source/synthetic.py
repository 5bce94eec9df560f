"""Generates a small detection dataset in COCO's format: textured shapes over cluttered backgrounds.

Classes differ in their shapes, and most objects have the hue of their class, so that classes also differ in their
looks, as real ones do. Texture, size, angle, proportions and lighting are independent of the class. Backgrounds contain
unlabeled distractors: blobs with the same textures, lines, arcs and letters. Object sizes cover COCO's small, medium
and large; objects hide parts of each other and are cut off at the border of the image.

Image number i of a split depends only on the options, the seed, the split and i.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Union

import cv2
import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.source.shapes import SHAPES
from ppdet_repro.data.source.synthetic_images import ImageOptions, SyntheticImage, draw
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.workers import ordered_map

MANIFEST = "synthetic.json"
VERSION = 2  # of the images: increase it if the same options give other images

Side = Union[int, tuple[int, int]]


def generate(
    root: Union[str, os.PathLike],
    *,
    train: int = 400,
    val: int = 100,
    size: tuple[Side, Side] = (256, 256),
    classes: Union[int, Sequence[str]] = 6,
    objects: tuple[int, int] = (1, 8),
    scales: tuple[float, float, float] = (0.3, 0.3, 0.4),
    noise: float = 10.0,
    clutter: float = 0.5,
    contrast: float = 0.5,
    likeness: float = 0.8,
    image_format: str = "jpg",
    seed: int = 0,
    worker_num: int = 0,
) -> Path:
    """Generate a dataset in the folder `root`, unless it is there already. Returns `root` as a path.

    UserError if an option is invalid, or `root` contains other files or a dataset with other options.

    The folder then contains train/ and val/ with the images, annotations/instances_{train,val}.json with the boxes and
    RLE masks of the visible parts of objects, and synthetic.json with the options. Equal options give equal files.

    An object is only drawn where at least 40 % of it, and of each object that it hides, remains visible. Eight
    positions are tried per object, then it is left out.

    Args:
        root: The folder to create.
        train, val: Numbers of images.
        size: Height and width in pixels, each a number or a range.
        classes: Names out of `shapes.SHAPES`, or the number of classes.
        objects: Range of the number of objects to try per image.
        scales: Shares of small (area below 32^2 pixels), medium and large (above 96^2 pixels) objects. Inside each
            group, sizes are log-uniform, up to 0.55 times the shorter side of the image.
        noise: Largest standard deviation of the pixel noise.
        clutter: Number of unlabeled distractors, from 0 to 1.
        contrast: Contrast of textures, from 0 to 1.
        likeness: Share of objects in the hue of their class. With 0, colors are random, and a detector must be trained
            for longer.
        image_format: "jpg" or "png".
        seed: Random seed.
        worker_num: Number of processes that draw; 0 draws in this one. The files do not depend on it.
    """
    height, width = ((side, side) if isinstance(side, int) else side for side in size)
    if isinstance(classes, int):
        if not 1 <= classes <= len(SHAPES):
            raise UserError(f"there are 1 to {len(SHAPES)} synthetic classes, not {classes}")
        classes = list(SHAPES)[:classes]
    looks = noise, clutter, contrast, likeness
    options = ImageOptions((height, width), tuple(classes), objects, scales, *looks, image_format, seed).checked()
    if train < 0 or val < 0 or train + val == 0:
        raise UserError(f"cannot make {train} training and {val} validation images: ask for at least one")
    if worker_num < 0:
        raise UserError(f"worker_num {worker_num}: give the number of processes that draw, or 0")
    return _write(Path(root), {"train": train, "val": val}, options, worker_num)


def _write(root: Path, numbers: dict[str, int], options: ImageOptions, workers: int) -> Path:
    """Write all splits, given the number of images of each."""
    manifest = {"version": VERSION, **numbers, **json.loads(json.dumps(options._asdict()))}
    if _is_made(root, manifest):
        get_logger().info(f"synthetic dataset in {root}: it exists with these options and is used")
        return root
    start = time.perf_counter()
    with files_checked(root, "written"):
        root.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        try:
            with tqdm(total=sum(numbers.values()), unit="img", desc="drawing", disable=None) as bar:
                for index, (split, number) in enumerate(numbers.items()):
                    if number:
                        _write_split(unfinished, split, index, number, options, workers, bar)
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            unfinished.chmod(0o755)
            if not _is_made(root, manifest):  # another process may have been faster
                unfinished.rename(root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    made = sum(numbers.values())
    rate = made / (time.perf_counter() - start)
    get_logger().info(f"synthetic dataset in {root}: made {made} images, {rate:.0f} images per second")
    return root


def _is_made(root: Path, manifest: dict) -> bool:
    """Return whether the dataset exists. UserError if the folder contains anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{root} exists and is not a synthetic dataset: choose another folder") from None
    differing = sorted(key for key in {*manifest, *found} if manifest.get(key) != found.get(key))
    if differing:
        changes = ", ".join(f"{key} {found.get(key)} instead of {manifest.get(key)}" for key in differing)
        raise UserError(f"{root} contains a dataset with {changes}: remove it or choose another folder")
    return True


def _write_split(
    root: Path, split: str, index: int, number: int, options: ImageOptions, workers: int, bar: tqdm
) -> None:
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    drawing = partial(_write_image, root / split, index, options)
    for i, (image, objects) in enumerate(ordered_map(drawing, range(number), workers, use_shared_memory=False)):
        images.append({"id": i + 1, **image})
        annotations += [{"id": len(annotations) + k, "image_id": i + 1, **item} for k, item in enumerate(objects, 1)]
        bar.update()
    document = {
        "info": {"description": f"synthetic shapes, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(options.classes, 1)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _write_image(folder: Path, index: int, options: ImageOptions, i: int) -> tuple[dict, list[dict]]:
    """Write image number i of split number `index`. Returns its entry, and those of its objects, without their ids."""
    drawn = draw(np.random.default_rng([options.seed, index, i]), options)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if options.image_format == "jpg" else []
    height, width = drawn.owner.shape
    name = f"{i:06d}.{options.image_format}"
    with files_checked(folder / name, "written"):
        encoded = cv2.imencode(f".{options.image_format}", drawn.image, quality)[1]
        (folder / name).write_bytes(encoded.tobytes())  # cv2.imwrite crashes with names that are not UTF-8
    return {"file_name": name, "width": width, "height": height}, _annotations(drawn)


def _annotations(image: SyntheticImage) -> list[dict]:
    """Make the COCO annotations of an image, with the mask of the visible pixels of each object, without ids."""
    if not image.labels:
        return []
    visible = image.owner[..., None] == np.arange(len(image.labels))  # [H, W, objects]
    codes = rle.encode(np.asfortranarray(visible, dtype=np.uint8))
    return [
        {
            "category_id": label + 1,
            "bbox": rle.toBbox(code).tolist(),
            "area": int(rle.area(code)),
            "iscrowd": 0,
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        }
        for label, code in zip(image.labels, codes)
    ]
