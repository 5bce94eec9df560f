"""COCO detection datasets: one JSON file for all images and boxes. I images, N annotations."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.source.base import Column, ImageTable, Source, count, starts_of
from ppdet_repro.data.source.files import (
    files_checked,
    is_text,
    path_inside,
    require_file,
    require_folder,
    require_images,
)
from ppdet_repro.utils.errors import UserError

if TYPE_CHECKING:  # Python 3.9 does not have it
    from typing import TypeGuard

MIN_SIDE = 1e-5  # px; a box with a shorter side has no area


@register
class COCODataSet(Source):
    """A COCO JSON file and its image folder.

    Class ids number the sorted category ids from 0. Images are ordered by id, those without boxes last.

    As in PaddleDetection, boxes are (x, y, x + w, y + h), rounded to 3 decimals and not clipped to the image, which
    Resize does later. Boxes are left out if their `area` (w * h if it is missing) is not positive or a side is at
    most 1e-5. Annotations that are marked `ignore` or have no box are left out, too, and, unlike in PaddleDetection,
    boxes outside their image.

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

    def read(self) -> tuple[ImageTable, str]:
        path = self.anno_file
        document = read_coco(path)
        self._names, self._ids = sorted_categories(document, path)
        image_only = "annotations" not in document
        if image_only and any(field != "image" for field in self.data_fields):
            raise UserError(f"{path} has no 'annotations': it lists images only; set data_fields: ['image']")

        images = sorted_images(document, path)
        files = image_files(images, self.image_folder, path)
        image_ids = np.array([image["id"] for image in images], dtype=np.int64)  # [I]
        sizes = np.array([(image["height"], image["width"]) for image in images], dtype=float).reshape(-1, 2)  # [I, 2]
        annotations = document.get("annotations", [])
        image_of = owners(annotations, "image", image_ids.tolist(), path)  # [N]
        class_of = owners(annotations, "category", self._ids, path)  # [N]
        boxes, areas = corners(annotations, path)  # [N, 4], [N]
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)  # [N]
        ignored = np.array([bool(a.get("ignore", 0)) for a in annotations], dtype=bool)  # [N]

        with np.errstate(invalid="ignore"):  # NaN and infinity have no area either
            empty_area = ~((areas > 0) & (boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(1))  # [N]
        width_height = sizes[image_of][:, ::-1]  # [N, 2]
        outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= width_height)).any(1) & ~empty_area
        unwanted = ignored | (crowd & (not self.load_crowd))
        kept = ~(unwanted | empty_area | outside)
        reaching = (kept & ((boxes[:, :2] < 0) | (boxes[:, 2:] > width_height)).any(1)).sum()

        order = np.flatnonzero(kept)
        order = order[np.argsort(image_of[order], kind="stable")]  # annotations grouped by image
        columns: dict[str, Column] = {
            "gt_bbox": boxes[order].round(3).astype(np.float32),
            "gt_class": class_of[order, None].astype(np.int32),
            "is_crowd": crowd[order, None].astype(np.int32),
        }
        if "gt_poly" in self.data_fields:
            columns["gt_poly"] = [annotations[i].get("segmentation") for i in order]
        starts = starts_of(np.bincount(image_of[order], minlength=len(files)))
        table = ImageTable(files, image_ids, sizes, starts, columns)
        left_out = {
            "crowd regions": (crowd & unwanted).sum(),
            "annotations marked ignore": (ignored & ~crowd).sum(),
            "boxes without area": (empty_area & ~unwanted).sum(),
            "boxes outside their image": (outside & ~unwanted).sum(),
        }
        clipped = f"reaching outside their image, clipped by Resize: boxes ({reaching:,})" if reaching else ""
        classes = count(len(self._names), "class", "classes")
        return self._chosen(table, classes, image_only, left_out, clipped)


def read_coco(path: str) -> dict:
    """Read a COCO JSON file: the lists of dictionaries "images" and "categories", and in most files "annotations".

    UserError if the file contains anything else.
    """
    require_file(path, "give the path of a COCO JSON file")
    try:
        with files_checked(path, "read"), open(path, encoding="utf-8-sig") as file:
            document = json.load(file)
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8; nested too deeply; a very long integer
        raise UserError(f"{path} is not valid JSON ({error}): if it is truncated, create it again") from None
    if isinstance(document, list):
        raise UserError(f"{path} contains a JSON list, not COCO annotations (it may be a file of results)")
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a COCO JSON file: it needs 'images', 'annotations' and 'categories'")
    for key in ("images", "categories", "annotations"):
        if key not in document and key != "annotations":
            raise UserError(f"{path} is not a COCO JSON file: it has no {key!r}, only {reprlib.repr(sorted(document))}")
        entries = document.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f"{path} is not a COCO JSON file: {key!r} must be a list of objects")
    return document


def sorted_categories(document: dict, path: str) -> tuple[list[str], list[int]]:
    """Return the names and ids of the categories, ordered by id."""
    categories = document["categories"]
    for position, category in enumerate(categories):
        name = category.get("name")
        if not is_int(category.get("id")) or not isinstance(name, str) or not is_text(name):
            raise UserError(f"{path}: category number {position} needs an integer 'id' and a text 'name'")
    categories = sorted(categories, key=lambda category: category["id"])
    ids = [category["id"] for category in categories]
    twice = sorted({one for one, other in zip(ids, ids[1:]) if one == other})
    if twice:
        raise UserError(f"{path}: category id {twice[0]} occurs twice: give every category its own id")
    if not ids:
        raise UserError(f"{path} has no category: 'categories' is empty")
    return [category["name"] for category in categories], ids


def sorted_images(document: dict, path: str) -> list[dict]:
    """Check the image entries and order them by id."""
    for position, image in enumerate(document["images"]):
        if not is_int(image.get("id")):
            name = str(image.get("file_name"))[:100]
            raise UserError(f"{path}: image number {position} ({name}) needs an integer 'id'")
        where = f"{path}: image id {image['id']}"
        if not isinstance(image.get("file_name"), str) or not is_text(image["file_name"]):
            raise UserError(f"{where} needs a 'file_name'")
        width, height = image.get("width"), image.get("height")
        if not all(is_number(side) and 0 < side < math.inf for side in (width, height)):
            got = f"width {reprlib.repr(width)} and height {reprlib.repr(height)}"
            raise UserError(f"{where} has {got}: write its size in pixels")
    images = sorted(document["images"], key=lambda image: image["id"])
    for one, other in zip(images, images[1:]):
        if one["id"] == other["id"]:
            raise UserError(
                f"{path}: image id {one['id']} occurs twice, for {one['file_name']!r} and "
                f"{other['file_name']!r}: give every image its own id"
            )
    return images


def image_files(images: Sequence[dict], folder: str, path: str) -> list[str]:
    """Return the paths of the images. UserError if one does not exist."""
    require_folder(folder or ".", "set dataset_dir and image_dir of the dataset")
    files = [path_inside(folder, image["file_name"], f"{path}: image id {image['id']}") for image in images]
    require_images(files, (f"image id {image['id']}" for image in images), path)
    return files


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is an integer of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def owners(annotations: Sequence[dict], kind: str, ids: Sequence[int], path: str) -> np.ndarray:
    """Return the index into `ids` of each annotation's image or category (the `kind`): [N]."""
    index_of = {key: index for index, key in enumerate(ids)}
    owner = np.zeros(len(annotations), dtype=np.int64)
    for row, annotation in enumerate(annotations):
        key = annotation.get(f"{kind}_id")
        if not is_int(key) or key not in index_of:
            raise UserError(
                f"{path}: {_name(annotation, row)} has the unknown {kind} id {reprlib.repr(key)}: add the {kind} "
                "or remove the annotation ('ppdet-repro data check' lists them all)"
            )
        owner[row] = index_of[key]
    return owner


def corners(annotations: Sequence[dict], path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return xyxy boxes [N, 4] and areas [N] in float64. Annotations without a box get a box of zeros."""
    rows = []
    for row, annotation in enumerate(annotations):
        box = annotation.get("bbox") or [0, 0, 0, 0]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise UserError(
                f"{path}: {_name(annotation, row)} (image id {annotation['image_id']}) has the bbox "
                f"{reprlib.repr(box)}: write [x, y, width, height] in pixels"
            )
        area = annotation.get("area")
        rows.append((*box, area if is_number(area) else box[2] * box[3]))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    table[:, 2:4] += table[:, :2]
    return table[:, :4], table[:, 4]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number; NaN and infinity are."""
    return isinstance(value, float) or is_int(value)


def _name(annotation: dict, row: int) -> str:
    return f"annotation id {reprlib.repr(annotation['id'])}" if "id" in annotation else f"annotation number {row}"
