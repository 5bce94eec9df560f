"""The files of a dataset, found from its COCO JSON file or VOC set file. Folders are searched by `layouts.py`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ppdet_repro.data.source.base import Source
from ppdet_repro.data.source.coco import COCODataSet, read_coco_set
from ppdet_repro.data.source.files import require_file, require_folder
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.labelled import Labelled, from_coco, from_voc
from ppdet_repro.data.source.paired import PairedDataSet
from ppdet_repro.data.source.text import is_json
from ppdet_repro.data.source.union import UnionDataSet
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.data.source.voc_files import SETS


class DatasetFiles(NamedTuple):
    """Paths of a dataset."""

    anno_file: str  # COCO JSON file, VOC set file, or a name for `pairs`
    image_folder: str  # the folder that the paths in the annotation file are relative to
    label_file: Optional[str] = None  # list of class names of a VOC, YOLO or labelme set
    paired: str = ""  # the format of `pairs`: "voc", "yolo" or "labelme"
    pairs: tuple[tuple[str, str], ...] = ()  # pictures and their label files, if there is no annotation file

    @property
    def is_coco(self) -> bool:
        return is_json(self.anno_file)

    @property
    def has_fixed_names(self) -> bool:
        """Whether a file lists the class names; otherwise they are those that occur."""
        return self.is_coco or self.label_file is not None


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


def read_labelled(files: DatasetFiles, findings: Findings) -> Labelled:
    """Read a dataset completely. Without a list of class names, they are those that occur, sorted."""
    if files.paired:
        source = PairedDataSet(
            files.paired, files.pairs, files.anno_file, files.image_folder, files.label_file, ["gt_bbox"]
        )
        return source.read_labelled(findings)
    if files.is_coco:
        findings.prefix = f"{files.anno_file}: "
        return from_coco(read_coco_set(files.anno_file, files.image_folder, findings))
    labels = files.label_file or os.path.join(files.image_folder, "label_list.txt")
    voc = VOCDataSet(None, files.image_folder, files.anno_file, ["gt_bbox"], label_list=labels)
    return from_voc(voc.read_voc(findings))


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
    if files.paired:
        place, fields = (files.anno_file, files.image_folder), list(data_fields)
        return PairedDataSet(files.paired, files.pairs, *place, files.label_file, fields)
    paths = None, files.image_folder, files.anno_file, list(data_fields)
    if files.is_coco:
        return COCODataSet(*paths, load_crowd=True, allow_empty=True)
    return VOCDataSet(*paths, label_list=files.label_file, allow_empty=True)
