"""Where a data set is, in COCO's or VOC's layout, found from its annotation file alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from ppdet_repro.data.source.base import Source, require_file, require_folder
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.union import UnionDataSet
from ppdet_repro.data.source.voc import SETS, VOCDataSet


class Place(NamedTuple):
    """A COCO json and its image folder, or a VOC set file, what its paths are relative to, its label list."""

    anno_file: str
    image_folder: str
    label_file: Optional[str] = None

    @property
    def is_coco(self) -> bool:
        return self.anno_file.endswith(".json")


def place_of(anno_file: str, image_folder: Optional[str] = None, label_file: Optional[str] = None) -> Place:
    """The place of an annotation file; folder and label list are guessed where none is given.

    The folder: of instances_<split>.json the folder ../<split> if there is one, of a devkit's set file the
    devkit, otherwise the file's own. The label list: label_list.txt in that folder, if it is there.
    """
    require_file(anno_file, "give a COCO json or a VOC set file (such as ImageSets/Main/train.txt)")
    if image_folder is None:
        image_folder = _guessed_folder(anno_file)
    require_folder(image_folder or ".", "give the image folder with --image_dir")
    if label_file is not None:
        require_file(label_file, "give a text file with one class name a line")
    elif os.path.isfile(os.path.join(image_folder, "label_list.txt")):
        label_file = os.path.join(image_folder, "label_list.txt")
    return Place(anno_file, image_folder, label_file)


def _guessed_folder(anno_file: str) -> str:
    folder, name = os.path.split(anno_file)
    split = os.path.splitext(name)[0].rpartition("_")[2]
    beside = os.path.join(os.path.dirname(folder), split)
    if name.endswith(".json") and os.path.isdir(beside):
        return beside
    if os.path.join(os.sep, folder).endswith(os.sep + SETS):
        return os.path.dirname(os.path.dirname(folder))
    return folder


def places_of_source(source: Union[COCODataSet, VOCDataSet, UnionDataSet]) -> list[Place]:
    """The places that a config's data set names."""
    if isinstance(source, UnionDataSet):
        return [place for dataset in source.datasets for place in places_of_source(dataset)]
    label_file = source.label_file if isinstance(source, VOCDataSet) else None
    return [Place(source.anno_file, source.image_folder, label_file)]


def open_place(place: Place, data_fields: Sequence[str]) -> Source:
    """The source of a place, with crowd regions and images without boxes."""
    place_args = None, place.image_folder, place.anno_file, list(data_fields)
    if place.is_coco:
        return COCODataSet(*place_args, load_crowd=True, allow_empty=True)
    return VOCDataSet(*place_args, label_list=place.label_file, allow_empty=True)
