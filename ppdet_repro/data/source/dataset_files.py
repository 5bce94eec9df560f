"""The files of a dataset in COCO's or VOC's layout, found from its annotation file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ppdet_repro.data.source.base import Source
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.files import require_file, require_folder
from ppdet_repro.data.source.text import is_json
from ppdet_repro.data.source.union import UnionDataSet
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.data.source.voc_files import SETS


class DatasetFiles(NamedTuple):
    """Paths of a dataset."""

    anno_file: str  # COCO JSON file or VOC set file
    image_folder: str  # the folder that the paths in the annotation file are relative to
    label_file: Optional[str] = None  # label list of a VOC set

    @property
    def is_coco(self) -> bool:
        return is_json(self.anno_file)


def find_dataset(anno_file: str, image_folder: Optional[str] = None, label_file: Optional[str] = None) -> DatasetFiles:
    """Find the files of a dataset. UserError if a given path does not exist.

    Args:
        anno_file: COCO JSON file or VOC set file.
        image_folder: The image folder. By default, it is ../<split> for a file called instances_<split>.json if that
            folder exists, the devkit's folder for a set file in a devkit, and otherwise the annotation file's folder.
        label_file: The label list of a VOC set. By default, it is label_list.txt in the image folder, if it exists.
    """
    require_file(anno_file, "give a COCO JSON file or a VOC set file (such as ImageSets/Main/train.txt)")
    if image_folder is None:
        image_folder = _guessed_folder(anno_file)
    require_folder(image_folder or ".", "give the image folder with --image_dir")
    if label_file is not None:
        require_file(label_file, "give a text file with one class name per line")
    elif os.path.isfile(os.path.join(image_folder, "label_list.txt")):
        label_file = os.path.join(image_folder, "label_list.txt")
    return DatasetFiles(anno_file, image_folder, label_file)


def _guessed_folder(anno_file: str) -> str:
    folder, name = os.path.split(anno_file)
    split = os.path.splitext(name)[0].rpartition("_")[2]
    beside = os.path.join(os.path.dirname(folder), split)
    if is_json(name) and os.path.isdir(beside):
        return beside
    if os.path.join(os.sep, folder).endswith(os.sep + SETS):
        return os.path.dirname(os.path.dirname(folder))
    return folder


def parts_of(source: Source) -> list[Source]:
    """Return the datasets of a UnionDataSet, or else the dataset itself."""
    return [part for one in source.datasets for part in parts_of(one)] if isinstance(source, UnionDataSet) else [source]


def open_dataset(files: DatasetFiles, data_fields: Sequence[str]) -> Source:
    """Make the data source of a dataset, with crowd regions and with images that have no boxes."""
    paths = None, files.image_folder, files.anno_file, list(data_fields)
    if files.is_coco:
        return COCODataSet(*paths, load_crowd=True, allow_empty=True)
    return VOCDataSet(*paths, label_list=files.label_file, allow_empty=True)
