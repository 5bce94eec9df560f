"""A dataset in memory, in no format: what all formats are read into when they are converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from ppdet_repro.data.source.coco import CocoSet, corners
from ppdet_repro.data.source.values import flag_column
from ppdet_repro.data.source.voc import VocSet, own_ids
from ppdet_repro.data.source.voc_files import Object
from ppdet_repro.utils.errors import UserError


class Picture(NamedTuple):
    """A picture and its objects. Boxes are (x1, y1, x2, y2) in pixels."""

    file: str
    width: float  # pixels; NaN if the file cannot be read
    height: float
    objects: list[Object]
    id: Optional[int] = None  # that of its annotations


class Labelled(NamedTuple):
    """Pictures, and the names of all classes."""

    names: list[str]
    pictures: list[Picture]

    @property
    def boxes(self) -> int:
        return sum(len(picture.objects) for picture in self.pictures)


def from_coco(coco: CocoSet) -> Labelled:
    """Take what can be used of a COCO file. Crowd regions are difficult objects, too."""
    file, a = coco.file, coco.file.annotations
    difficult, _ = flag_column(a.entries, "difficult")
    boxes = corners(a.xywh)
    objects: list[list[Object]] = [[] for _ in coco.files]
    for row in np.flatnonzero(coco.kept):
        x1, y1, x2, y2 = boxes[row].tolist()
        flags = bool(a.crowd[row] or difficult[row]), bool(a.crowd[row])
        objects[a.image_of[row]].append(Object(file.names[a.class_of[row]], (x1, y1, x2, y2), *flags))
    sizes, ids = coco.sizes.tolist(), file.images.ids.tolist()
    pictures = [Picture(*one) for one in zip(coco.files, *zip(*((w, h) for h, w in sizes)), objects, ids)]
    return Labelled(file.names, pictures)


def from_voc(voc: VocSet) -> Labelled:
    """Take what can be used of a VOC set. Boxes are not clipped."""
    objects: list[list[Object]] = [[] for _ in voc.entries]
    for row in np.flatnonzero(voc.kept):
        objects[voc.image_of[row]].append(voc.objects[row])
    own = own_ids(voc.annotations)
    ids = [None] * len(voc.entries) if own is None else own.tolist()
    parts = zip(voc.entries, voc.sizes.tolist(), objects, ids)
    return Labelled(voc.names, [Picture(e.image, width, height, items, i) for e, (height, width), items, i in parts])


def with_same_names(sets: Sequence[Labelled], where: Sequence[str], fixed: bool) -> list[Labelled]:
    """Give the splits of a dataset, which come from the files `where`, the same class names.

    If the names are `fixed` by class lists, these must be the same, else UserError. Otherwise they are all that occur.
    """
    first = sets[0].names
    different = [i for i, one in enumerate(sets) if one.names != first]
    if not different:
        return list(sets)
    if not fixed:
        names = sorted({name for one in sets for name in one.names})
        return [one._replace(names=names) for one in sets]
    other = sets[different[0]].names
    changed = [name for name in (*first, *other) if (name in first) != (name in other)]
    what = f"only one of them has {', '.join(changed[:5])}" if changed else "their order differs"
    raise UserError(f"{where[0]} and {where[different[0]]} have other classes: {what}; give all files the same classes")
