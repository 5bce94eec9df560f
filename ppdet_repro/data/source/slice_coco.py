"""Cuts the images of a COCO dataset into overlapping slices, which become a dataset of their own.

The names of files and folders, and the rules for boxes, are those of the package sahi, which PaddleDetection uses.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ppdet_repro.data.source.coco import CocoSet, corners, read_coco_set
from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.slices import starts

LEAST_PART = 0.1  # of a box's area that must be in a slice
JPEG = (".jpg", ".jpeg")


def slice_dataset(json_file: str, image_dir: str, output_dir: str, size: int, overlap: float) -> str:
    """Write slices of `size` x `size` pixels, and a COCO JSON file about them. Returns a line that sums it up.

    The slices are in `output_dir`/NAME_images_SIZE_OVERLAP, where NAME is that of `json_file`, and the JSON file is
    `output_dir`/NAME_SIZE_OVERLAP.json. Slices of JPEG files are JPEG files, others PNG files; their names end with
    the corners x1, y1, x2, y2 in the image. Slices without boxes are written, too. A slice gets the boxes, clipped to
    it, of which at least a tenth is inside. Masks are not written.

    UserError if the dataset cannot be read, an image is damaged, or a file cannot be written.
    """
    dataset = read_coco_set(json_file, image_dir, Findings())
    name, suffix = Path(json_file).stem, f"{size}_{str(overlap).replace('.', '')}"
    folder, target = Path(output_dir, f"{name}_images_{suffix}"), Path(output_dir, f"{name}_{suffix}.json")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with files_checked(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(len(dataset.files)), unit="img", desc="slicing", disable=None):
        image = _read(dataset, i)
        height, width = image.shape[:2]
        stem, ending = os.path.splitext(dataset.file.images.names[i].replace("\\", "/").lstrip("./").replace("/", "_"))
        ending = ending if ending.lower() in JPEG else ".png"
        rows = np.flatnonzero(dataset.kept & (dataset.file.annotations.image_of == i))
        for y in starts(height, size, overlap):
            for x in starts(width, size, overlap):
                part = image[y : y + size, x : x + size]
                corner = x, y, x + part.shape[1], y + part.shape[0]
                file_name = f"{stem}_{'_'.join(map(str, corner))}{ending}"
                _write(folder / file_name, part)
                number = len(images) + 1
                images.append({"id": number, "file_name": file_name, "height": part.shape[0], "width": part.shape[1]})
                annotations += _annotations(dataset, rows, corner, number, len(annotations) + 1)
    categories = [{"id": i, "name": n} for i, n in zip(dataset.file.category_ids, dataset.file.names)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_output(target, json.dumps(document).encode())
    return (
        f"{target}: {len(images)} slices of {len(dataset.files)} images, {len(annotations)} boxes; images in {folder}"
    )


def _annotations(
    dataset: CocoSet, rows: np.ndarray, corner: tuple[int, int, int, int], image_id: int, first_id: int
) -> list[dict[str, Any]]:
    """The annotations of a slice with these corners, from those of its image."""
    a = dataset.file.annotations
    boxes = corners(a.xywh[rows])  # [n, 4]
    start, end = np.array(corner[:2]), np.array(corner[2:])
    low, high = boxes[:, :2].clip(start, end) - start, boxes[:, 2:].clip(start, end) - start
    areas, whole = (high - low).prod(axis=1), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = np.flatnonzero((areas > 0) & (areas >= LEAST_PART * whole))
    return [
        {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": dataset.file.category_ids[a.class_of[rows[k]]],
            "bbox": np.concatenate([low[k], high[k] - low[k]]).round(3).tolist(),
            "area": round(float(areas[k]), 3),
            "iscrowd": int(a.crowd[rows[k]]),
        }
        for number, k in enumerate(kept)
    ]


def _read(dataset: CocoSet, i: int) -> np.ndarray:
    try:
        return read_image(dataset.files[i], int(dataset.file.images.ids[i]))
    except ImageError as error:
        raise UserError(f"{error}; repair or remove it") from error


def _write(path: Path, image: np.ndarray) -> None:
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    with files_checked(path, "written"):
        path.write_bytes(encoded.tobytes())
