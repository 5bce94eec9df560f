"""Converts datasets between the formats of COCO, VOC, YOLO and labelme.

VOC's (xmin, ymin, xmax, ymax) and COCO's (x, y, x + w, y + h) are treated as the same corners, as in `VOCDataSet` and
`COCODataSet`. Boxes are neither shifted by one pixel nor clipped. Objects that the reading leaves out are not written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.dataset_files import DatasetFiles, read_labelled
from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.source.findings import LEFT_OUT, Findings, listed
from ppdet_repro.data.source.folder_files import split_of_name
from ppdet_repro.data.source.labelled import Labelled, with_same_names
from ppdet_repro.data.source.text import is_json
from ppdet_repro.data.source.write_labels import refuse_existing, refuse_names, write_coco, write_voc
from ppdet_repro.data.source.write_pairs import write_labelme, write_yolo
from ppdet_repro.utils.errors import UserError

TARGETS = ("coco", "voc", "yolo", "labelme")


def convert(dataset: DatasetFiles, target: str, force: bool = False, to: str = "") -> str:
    """Convert a dataset; see `convert_splits`. Returns a line that sums it up."""
    return convert_splits({Path(dataset.anno_file).stem: dataset}, target, force, to)


def convert_splits(splits: Mapping[str, DatasetFiles], target: str, force: bool = False, to: str = "") -> str:
    """Convert the splits of a dataset. Returns a line about each.

    Args:
        splits: The splits by name. In the target it becomes the name of a JSON file, of a VOC set file, or a folder of
            YOLO's or labelme's.
        target: The JSON file to write, or the folder: that of the JSON files of several splits, that of the VOC devkit
            (JPEGImages with copies of the images, Annotations, ImageSets/Main, label_list.txt), that of YOLO's (images
            with copies, labels, data.yaml), or that of labelme's (copies with a JSON file beside each).
        force: Overwrite existing files, which are a UserError otherwise.
        to: The format to write: one of `TARGETS`. By default, COCO if the target is a JSON file, and VOC for COCO
            files.
    """
    to = to or _target_format(splits, target)
    if to == "coco" and is_json(target) and len(splits) > 1:
        names = ", ".join(map(str, splits))
        raise UserError(f"{target}: the dataset has the splits {names}: give a folder, and --to coco")
    with files_checked(target, "written"):
        notes = {split: Findings() for split in splits}
        sets = [read_labelled(files, notes[split]) for split, files in splits.items()]
        fixed = any(files.has_fixed_names for files in splits.values())
        sets = with_same_names(sets, [files.anno_file for files in splits.values()], fixed)
        for files, one in zip(splits.values(), sets):
            refuse_names(one.names, files.label_file if files.paired and files.label_file else files.anno_file, to)
        lines = _write(dict(zip(splits, sets)), dict(splits), target, to, force)
    return "\n".join(f"{line}{_left_out(notes[split])}" for split, line in zip(splits, lines))


def _target_format(splits: Mapping[str, DatasetFiles], target: str) -> str:
    if is_json(target):
        return "coco"
    if all(files.is_coco for files in splits.values()):
        return "voc"
    fix = "give a name that ends in .json, or say what to write into a folder: --to coco, voc, yolo or labelme"
    raise UserError(f"{target}: a VOC, YOLO or labelme set is converted to a COCO JSON file by default; {fix}")


def _write(sets: dict[str, Labelled], splits: dict[str, DatasetFiles], target: str, to: str, force: bool) -> list[str]:
    """Write the splits in the format `to`. Returns a line about each."""
    if to in ("yolo", "labelme"):
        named = {split_of_name(split) or split or "train": one for split, one in sets.items()}
        roots = [_root(files, [one]) for files, one in zip(splits.values(), sets.values())]
        write = write_yolo if to == "yolo" else write_labelme
        write(named, dict(zip(named, roots)), target, force)
        place = os.path.join(target, "data.yaml, " if to == "yolo" else "")
        return [f"{place}{name}: {_sizes(one)}" for name, one in named.items()]
    if to == "voc":
        lines = []
        for split, files in splits.items():
            root = _root(files, sets.values())
            list_file = write_voc(sets[split], root, files.anno_file, target, split or "all", force)
            lines.append(f"{list_file}: {_sizes(sets[split])} (label_list.txt)")
        return lines
    paths = [target] if is_json(target) else [os.path.join(target, f"{split or 'all'}.json") for split in splits]
    refuse_existing(paths, force)
    return [
        f"{path}: {_sizes(one)}; its image_dir is {write_coco(one, path)}" for path, one in zip(paths, sets.values())
    ]


def _root(files: DatasetFiles, sets: Iterable[Labelled]) -> str:
    """Return the folder that the names of pictures are relative to: COCO's image folder, or that of all pictures."""
    if files.is_coco:
        return files.image_folder
    return os.path.commonpath([os.path.dirname(picture.file) or "." for one in sets for picture in one.pictures])


def _left_out(findings: Findings) -> str:
    kinds = listed(findings.of(LEFT_OUT))
    return f"; left out: {kinds}" if kinds else ""


def _sizes(one: Labelled) -> str:
    boxes, classes = count(one.boxes, "box", "boxes"), count(len(one.names), "class", "classes")
    return f"{count(len(one.pictures), 'image')}, {boxes}, {classes}"
