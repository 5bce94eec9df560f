"""Reads COCO JSON files: what their entries mean, and which cannot be used. I images, N annotations."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppdet_repro.data.source.files import MAX_LINE, is_text, require_file
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, Findings
from ppdet_repro.data.source.text import is_hidden, read_json
from ppdet_repro.data.source.values import MAX_NUMBER, Ids, box_column, flag_column, id_column, number_column
from ppdet_repro.utils.errors import UserError


class CocoImages(NamedTuple):
    """The images of a file, in the order of their ids."""

    ids: np.ndarray  # [I] int64
    names: list[str]  # I file names
    sizes: np.ndarray  # [I, 2] float64, height and width; NaN where the file has none


class CocoAnnotations(NamedTuple):
    """The annotations that have an image, a category and a box, in the order of the file."""

    entries: list[dict]  # N
    rows: np.ndarray  # [N] their positions in the file
    image_of: np.ndarray  # [N] indices of images
    class_of: np.ndarray  # [N] indices of categories
    xywh: np.ndarray  # [N, 4] float64, may be infinite or NaN
    areas: np.ndarray  # [N] float64; width x height if the file has no positive number
    crowd: np.ndarray  # [N] bool
    ignored: np.ndarray  # [N] bool


class CocoFile(NamedTuple):
    """The content of a COCO JSON file, with what was odd in it made plain."""

    names: list[str]  # of the categories, in the order of their ids
    category_ids: list[int]
    images: CocoImages
    annotations: CocoAnnotations
    image_only: bool  # the file has no annotations at all

    def image_name(self, i: int) -> str:
        """Describe an image by its index: "image id 1 (a.jpg)"."""
        return f"image id {self.images.ids[i]} ({self.images.names[i]})"

    def name(self, row: int) -> str:
        """Describe an annotation by its index: "annotation id 3 of image id 1 (a.jpg)"."""
        a, image = self.annotations, self.annotations.image_of[row]
        return annotation_name(a.entries[row], int(a.rows[row]), int(self.images.ids[image]), self.images.names[image])


def read_document(path: str) -> dict[str, Any]:
    """Read the lists of dictionaries "images" and "categories", and in most files "annotations".

    UserError if the file contains anything else.
    """
    require_file(path, "give the path of a COCO JSON file")
    document = read_json(path)
    if isinstance(document, list):
        raise UserError(f"{path} contains a JSON list, not COCO annotations (it may be a file of results)")
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a COCO JSON file: it needs 'images', 'annotations' and 'categories'")
    for key in ("images", "categories", "annotations"):
        if key not in document and key != "annotations":
            if "shapes" in document:
                raise UserError(f"{path} is a labelme file, not COCO annotations: give the folder of all such files")
            raise UserError(f"{path} is not a COCO JSON file: it has no {key!r}, only {reprlib.repr(sorted(document))}")
        entries = document.get(key, [])
        if not isinstance(entries, list) or not set(map(type, entries)) <= {dict}:
            raise UserError(f"{path} is not a COCO JSON file: {key!r} must be a list of objects")
    return document


def read_coco(path: str, findings: Findings) -> CocoFile:
    """Read a COCO JSON file. UserError if nothing of it can be used, else the findings decide."""
    document = read_document(path)
    names, category_ids = read_categories_of(document, path, findings)
    images, passed_over = read_images(document["images"], findings)
    annotations = read_annotations(document.get("annotations", []), images, category_ids, passed_over, findings)
    return CocoFile(names, category_ids, images, annotations, "annotations" not in document)


def read_categories_of(document: dict, path: str, findings: Findings) -> tuple[list[str], list[int]]:
    """Return the names and ids of the categories, ordered by id."""
    entries = document["categories"]
    ids = id_column(entries, "id")
    named = [isinstance(entry.get("name"), str) and is_text(entry["name"]) for entry in entries]
    findings.refuse(
        "category without id or name",
        np.flatnonzero(~ids.valid | ~np.array(named, bool)),
        lambda i: f"category number {i} needs an integer 'id' and a text 'name'",
        "write both",
    )
    found: dict[int, str] = {}
    twice: list[tuple[int, str]] = []
    for key, valid, text, entry in zip(ids.values.tolist(), ids.valid, named, entries):
        if valid and text and key in found:
            twice.append((key, entry["name"]))
        elif valid and text:
            found[key] = entry["name"]
    findings.refuse(
        "category id used twice",
        twice,
        lambda pair: f"category id {pair[0]} occurs twice, for {found[pair[0]][:MAX_LINE]!r} and {pair[1]!r}",
        "give every category its own id",
    )
    if not found:
        raise UserError(f"{path} has no category: 'categories' is empty, or none has an id and a name")
    ordered = sorted(found)
    uses = Counter(found.values())
    again = [key for key in ordered if uses[found[key]] > 1]
    report = findings.report
    report(DOUBTFUL, "category name used twice", again, lambda key: f"category id {key}: {found[key]}")
    report(ODD, "id of a category such as 1.0 or '1'", ids.odd, lambda i: f"category number {i}")
    return [found[key] for key in ordered], ordered


def read_images(entries: Sequence[dict], findings: Findings) -> tuple[CocoImages, set[int]]:
    """Read the images. Returns also the ids of entries that are passed over or refused."""
    ids = id_column(entries, "id")
    names: list[Any] = [entry.get("file_name") for entry in entries]
    named = np.array([isinstance(name, str) and is_text(name) for name in names], bool)
    hidden = np.array([bool(text) and is_hidden(name) for name, text in zip(names, named)], bool)

    def where(i: int) -> str:
        number = f"id {ids.values[i]}" if ids.valid[i] else f"number {i}"
        return f"image {number} ({names[i] if named[i] else reprlib.repr(names[i])})"

    findings.refuse(
        "image without id or file name",
        np.flatnonzero((~ids.valid | ~named) & ~hidden),
        lambda i: f"{where(i)} needs " + ("a 'file_name'" if ids.valid[i] else "an integer 'id'"),
        "write it",
    )
    order = np.flatnonzero(ids.valid & named & ~hidden)
    order = order[np.argsort(ids.values[order], kind="stable")]
    again = np.flatnonzero(np.diff(ids.values[order]) == 0) + 1
    findings.refuse(
        "image id used twice",
        again,
        lambda k: f"image id {ids.values[order[k]]} occurs twice, for {names[order[k - 1]]!r} and {names[order[k]]!r}",
        "give every image its own id",
    )
    findings.report(ODD, "file of the system, passed over", np.flatnonzero(hidden), where)
    findings.report(ODD, "id of an image such as 1.0 or '1'", ids.odd, where)
    order = np.delete(order, again)
    used = [entries[i] for i in order]
    sizes = np.stack([number_column(used, side) for side in ("height", "width")], axis=1)  # [I, 2]
    sizes[~((sizes > 0) & (sizes < MAX_NUMBER)).all(1)] = np.nan
    if findings.collect:
        report_files_listed_twice(ids.values[order], [names[i] for i in order], findings)
    passed_over = set(ids.values[ids.valid & (hidden | ~named)].tolist())
    return CocoImages(ids.values[order], [names[i] for i in order], sizes), passed_over


def report_files_listed_twice(ids: np.ndarray, names: Sequence[str], findings: Findings) -> None:
    """Report images whose file another image has already."""
    first: dict[str, int] = {}
    again = [(i, other) for i, name in enumerate(names) if (other := first.setdefault(os.path.normpath(name), i)) != i]
    findings.report(
        DOUBTFUL,
        "file listed twice",
        again,
        lambda pair: f"image id {ids[pair[0]]} ({names[pair[0]]}), also image id {ids[pair[1]]}",
    )


def read_annotations(
    entries: list[dict], images: CocoImages, category_ids: Sequence[int], passed_over: set[int], findings: Findings
) -> CocoAnnotations:
    """Read the annotations that have an image, a category and a box. Annotations of `passed_over` images have none."""
    image_ids, categories = id_column(entries, "image_id"), id_column(entries, "category_id")
    image_of, has_image = positions(image_ids, images.ids)
    class_of, has_class = positions(categories, np.array(category_ids, np.int64))
    boxes = box_column(entries, "bbox")

    def where(row: int) -> str:
        number, image = entries[row].get("image_id"), int(image_of[row])
        return annotation_name(entries[row], row, number, images.names[image] if has_image[row] else None)

    def refuse(kind: str, wrong: np.ndarray, has: str, key: str, fix: str) -> None:
        findings.refuse(kind, wrong, lambda row: f"{where(row)} has {has} {reprlib.repr(entries[row].get(key))}", fix)

    over = ~has_image & image_ids.valid & np.isin(image_ids.values, list(passed_over))
    unknown = np.flatnonzero(~has_image & ~over)
    fix = "add the {0} or remove the annotation"
    refuse("annotation of an unknown image", unknown, "the unknown image id", "image_id", fix.format("image"))
    unknown = np.flatnonzero(has_image & ~has_class)
    fix = fix.format("category")
    refuse("annotation of an unknown category", unknown, "the unknown category id", "category_id", fix)
    used = has_image & has_class
    fix = "write [x, y, width, height] in pixels"
    refuse("bbox that is not four numbers", boxes.wrong[used[boxes.wrong]], "the bbox", "bbox", fix)
    findings.report(LEFT_OUT, "annotation without a box", boxes.absent[used[boxes.absent]], where)
    findings.report(LEFT_OUT, "annotation of a file that is passed over", np.flatnonzero(over), where)
    findings.report(ODD, "id in an annotation such as 1.0 or '1'", np.union1d(image_ids.odd, categories.odd), where)
    used[boxes.wrong], used[boxes.absent] = False, False
    rows = np.flatnonzero(used)
    if findings.collect:
        report_ids_used_twice(entries, where, findings)
    kept = entries if len(rows) == len(entries) else [entries[row] for row in rows]
    crowd, ignored = (flags_of(kept, key, rows, where, findings) for key in ("iscrowd", "ignore"))
    areas = areas_of(kept, boxes.values[rows], rows, where, findings)
    return CocoAnnotations(kept, rows, image_of[rows], class_of[rows], boxes.values[rows], areas, crowd, ignored)


def positions(ids: Ids, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find ids [N] among the known ones, which are sorted. Returns their indices [N], and which are known [N]."""
    if not len(known):
        return np.zeros(len(ids.values), int), np.zeros(len(ids.values), bool)
    at = np.searchsorted(known, ids.values).clip(max=len(known) - 1)
    return at, ids.valid & (known[at] == ids.values)


def flags_of(entries: list[dict], key: str, rows: np.ndarray, where: Any, findings: Findings) -> np.ndarray:
    """Return a flag of each annotation, and report those that have something else."""
    flags, wrong = flag_column(entries, key)
    findings.report(
        DOUBTFUL,
        f"{key} that is neither 0 nor 1",
        wrong,
        lambda i: f"{where(rows[i])}: {key} is {reprlib.repr(entries[i][key])}, read as 0",
    )
    return flags


def areas_of(entries: list[dict], xywh: np.ndarray, rows: np.ndarray, where: Any, findings: Findings) -> np.ndarray:
    """Return the `area` of each annotation. Where that is no positive number, although the box has an area, it is width
    x height."""
    areas = number_column(entries, "area")
    with np.errstate(invalid="ignore", over="ignore"):
        sides = xywh[:, 2] * xywh[:, 3]
        unusable = ~(areas > 0) & (xywh[:, 2:] > 0).all(1)
    wrong = [i for i in np.flatnonzero(unusable).tolist() if entries[i].get("area") is not None]
    findings.report(
        DOUBTFUL,
        "area that is not positive",
        wrong,
        lambda i: f"{where(rows[i])}: area is {reprlib.repr(entries[i]['area'])}, width x height is used",
    )
    return np.where(unusable | np.isnan(areas), sides, areas)


def report_ids_used_twice(entries: list[dict], where: Any, findings: Findings) -> None:
    """Report annotation ids that occur again. They are harmless here: evaluation numbers annotations anew."""
    ids = id_column(entries, "id")
    _, first = np.unique(ids.values, return_index=True)
    again = np.ones(len(entries), bool)
    again[first] = False
    findings.report(DOUBTFUL, "annotation id used twice", np.flatnonzero(again & ids.valid), where)
    findings.report(ODD, "annotation without an integer id", np.flatnonzero(~ids.valid), where)


def annotation_name(entry: dict, row: int, image_id: object, image_name: object) -> str:
    number = f"id {reprlib.repr(entry['id'])}" if entry.get("id") is not None else f"number {row}"
    image = (
        f" of image id {reprlib.repr(image_id)}" if not isinstance(image_id, np.integer) else f" of image id {image_id}"
    )
    return f"annotation {number}{image}" + (f" ({image_name})" if image_name else "")
