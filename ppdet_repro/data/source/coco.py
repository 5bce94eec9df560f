"""COCO detection datasets: one JSON file for all images and boxes. I images, N annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.source.base import Column, ImageTable, Source, starts_of
from ppdet_repro.data.source.coco_file import CocoFile, read_coco
from ppdet_repro.data.source.files import find_file, require_folder
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, SETTING, Findings
from ppdet_repro.data.source.image_search import fix_of_missing
from ppdet_repro.data.source.values import MAX_NUMBER
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.utils.errors import UserError

MIN_SIDE = 1e-5  # px; a box with a shorter side has no area
SLACK = 0.5  # px; a box that extends no further beyond its image does so because of rounding


@register
class COCODataSet(Source):
    """A COCO JSON file and its image folder.

    Class ids number the sorted category ids from 0. Images are ordered by id, those without boxes last.

    As in PaddleDetection, boxes are (x, y, x + w, y + h), rounded to 3 decimals and not clipped to the image, which
    Resize does later. Boxes are left out if a side is at most 1e-5. Annotations that are marked `ignore` or have no box
    are left out, too, and, unlike in PaddleDetection, boxes outside their image. An `area` that is not positive is
    taken for width x height, where PaddleDetection leaves the box out: some tools write 0 for all.

    Ids and flags may be written as 1.0 or "1". An image without a size has that of its file.

    Args:
        data_fields: May contain gt_bbox, gt_class, is_crowd and gt_poly, a list of the `segmentation` entries of the
            annotations, None where there is none.
        load_crowd: Keep crowd regions.

    The other parameters are those of `Source`.
    """

    def __init__(
        self,
        dataset_dir: Optional[str] = None,
        image_dir: Optional[str] = None,
        anno_path: Optional[str] = None,
        data_fields: Optional[list[str]] = None,
        sample_num: int = -1,
        load_crowd: bool = False,
        allow_empty: bool = False,
        empty_ratio: float = 1.0,
        repeat: int = 1,
    ):
        super().__init__(dataset_dir, image_dir, anno_path, data_fields, sample_num, repeat, allow_empty, empty_ratio)
        self.load_crowd = load_crowd
        self._ids: list[int] = []

    @property
    def category_ids(self) -> list[int]:
        self.load()
        return self._ids

    def scan(self, findings: Findings) -> ImageTable:
        path = self.anno_file
        findings.prefix = f"{path}: "
        file, files, sizes, kept = read_coco_set(path, self.image_folder, findings)
        self._names, self._ids = file.names, file.category_ids
        self._no_annotations = f"{path}: there are no 'annotations'" if file.image_only else ""
        if file.image_only and any(field != "image" for field in self.data_fields or []):
            fix = "it lists images only; set data_fields: ['image']"
            findings.refuse("file without annotations", [path], lambda _: "there are no 'annotations'", fix)

        a = file.annotations
        crowd = np.flatnonzero(kept & a.crowd)
        if not self.load_crowd:
            findings.report(SETTING, "crowd region", crowd, file.name)
            kept = kept & ~a.crowd
        order = np.flatnonzero(kept)
        order = order[np.argsort(a.image_of[order], kind="stable")]  # annotations grouped by image
        columns: dict[str, Column] = {
            "gt_bbox": corners(a.xywh[order]).round(3).astype(np.float32),
            "gt_class": a.class_of[order, None].astype(np.int32),
            "is_crowd": a.crowd[order, None].astype(np.int32),
            "area": a.areas[order],
        }
        if "gt_poly" in (self.data_fields or []):
            columns["gt_poly"] = [a.entries[i].get("segmentation") for i in order]
        starts = starts_of(np.bincount(a.image_of[order], minlength=len(files)))
        return ImageTable(files, file.images.ids, sizes, starts, columns)


@register
class SlicedCOCODataSet(COCODataSet):
    """A COCO dataset of large images, which evaluation cuts into overlapping slices; see `runtime/slicing.py`.

    Only evaluation slices. (PaddleDetection slices here, with the package sahi.)

    Args:
        sliced_size: Height and width of a slice in pixels.
        overlap_ratio: Overlap of neighboring slices, as a fraction of their height and width.

    The other parameters are those of `COCODataSet`.
    """

    def __init__(
        self,
        dataset_dir: Optional[str] = None,
        image_dir: Optional[str] = None,
        anno_path: Optional[str] = None,
        data_fields: Optional[list[str]] = None,
        sample_num: int = -1,
        load_crowd: bool = False,
        allow_empty: bool = False,
        empty_ratio: float = 1.0,
        repeat: int = 1,
        sliced_size: Sequence[int] = (640, 640),
        overlap_ratio: Sequence[float] = (0.25, 0.25),
    ):
        super().__init__(
            dataset_dir, image_dir, anno_path, data_fields, sample_num, load_crowd, allow_empty, empty_ratio, repeat
        )
        if len(sliced_size) != 2 or min(sliced_size) < 1:
            raise UserError(f"SlicedCOCODataSet: sliced_size {list(sliced_size)} must be [height, width] in pixels")
        if len(overlap_ratio) != 2 or not all(0 <= ratio < 1 for ratio in overlap_ratio):
            raise UserError(f"SlicedCOCODataSet: overlap_ratio {list(overlap_ratio)} must be two numbers in [0, 1)")
        self.sliced_size = sliced_size[0], sliced_size[1]
        self.overlap_ratio = overlap_ratio[0], overlap_ratio[1]


class CocoSet(NamedTuple):
    """A COCO JSON file and its images."""

    file: CocoFile
    files: list[str]  # I paths
    sizes: np.ndarray  # [I, 2] height and width
    kept: np.ndarray  # [N] bool; the annotations that can be used


def read_coco_set(path: str, folder: str, findings: Findings) -> CocoSet:
    """Read a COCO JSON file, find its images, and choose the annotations that can be used."""
    file = read_coco(path, findings)
    require_folder(folder or ".", "set dataset_dir and image_dir of the dataset")
    files = image_files(file, folder, path, findings)
    sizes = image_sizes(file, files, findings)
    return CocoSet(file, files, sizes, usable(file, sizes, findings))


def corners(xywh: np.ndarray) -> np.ndarray:
    """Convert boxes (x, y, width, height) [N, 4] to (x1, y1, x2, y2) [N, 4]."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def usable(file: CocoFile, sizes: np.ndarray, findings: Findings) -> np.ndarray:
    """Choose the annotations whose box can be used [N], for images with these heights and widths [I, 2]."""
    a = file.annotations
    boxes = corners(a.xywh)
    with np.errstate(invalid="ignore"):
        sane = (np.abs(boxes) < MAX_NUMBER).all(1) & (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(1)
    limit = sizes[a.image_of][:, ::-1]  # [N, 2] width, height
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limit)).any(1)
    reaching = ((boxes[:, :2] < -SLACK) | (boxes[:, 2:] > limit + SLACK)).any(1)

    def where(row: int) -> str:
        width, height = limit[row]
        box = a.entries[row]["bbox"]
        return f"{file.name(row)}: x, y, w, h {box}, image {width:g} x {height:g}"

    for effect, kind, rows in (
        (LEFT_OUT, "annotation marked ignore", a.ignored),
        (LEFT_OUT, "box without area or inverted", ~sane & ~a.ignored),
        (LEFT_OUT, "box outside its image", outside & sane & ~a.ignored),
        (DOUBTFUL, "box that reaches outside its image", reaching & ~outside & sane & ~a.ignored),
    ):
        findings.report(effect, kind, np.flatnonzero(rows), where)
    return sane & ~outside & ~a.ignored


def image_files(file: CocoFile, folder: str, path: str, findings: Findings) -> list[str]:
    """Find the images of the file `path`. Returns their paths."""
    ids, names = file.images.ids, file.images.names
    files, missing, odd = [], [], []
    for i, name in enumerate(names):
        with findings.refusals("file outside the image folder"):
            path, is_odd = find_file(folder, name, f"{findings.prefix}image id {ids[i]}")
            files.append(path)
            if is_odd is None:
                missing.append(i)
            elif is_odd:
                odd.append(i)
        if len(files) == i:
            files.append(os.path.join(folder, os.path.basename(name)))
    findings.refuse(
        "file missing",
        missing,
        lambda i: f"{file.image_name(i)}: {files[i]} does not exist",
        fix_of_missing(path, [names[i] for i in missing]) if missing else "",
    )
    findings.report(ODD, "file name with back slashes, quotes, %20 or other letters", odd, file.image_name)
    return files


def image_sizes(file: CocoFile, files: Sequence[str], findings: Findings) -> np.ndarray:
    """Return height and width of each image [I, 2], from its file where the JSON file has none."""
    sizes = file.images.sizes
    missing = np.flatnonzero(np.isnan(sizes[:, 0]))
    for i in missing:
        if os.path.isfile(files[i]):
            with findings.refusals("file that is no readable image"):
                sizes[i] = image_size(files[i])
    findings.report(ODD, "image without a size, which its file has", missing, file.image_name)
    return sizes
