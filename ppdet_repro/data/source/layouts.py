"""Finds the dataset in a folder: its format, its splits, and the pictures and class names of each split.

The layouts are those of COCO, of VOC's devkit, of Ultralytics, Roboflow, CVAT and label-studio in the formats COCO, VOC
and YOLO, and of labelme; and folders of pictures and label files whose names are the same but for the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple, Optional

from ppdet_repro.data.source.base import count, natural_key
from ppdet_repro.data.source.coco_file import read_document
from ppdet_repro.data.source.dataset_files import DatasetFiles, find_dataset
from ppdet_repro.data.source.files import require_file, require_folder
from ppdet_repro.data.source.folder_files import (
    FolderFiles,
    PictureIndex,
    image_folder_of,
    lists_voc_pairs,
    look_into,
    split_of,
    split_of_folders,
    split_of_name,
)
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.source.text import read_lines
from ppdet_repro.data.source.voc_files import SETS
from ppdet_repro.data.source.yolo_files import DataYaml, read_data_yaml
from ppdet_repro.utils.errors import UserError

FORMATS = {"coco": "COCO JSON", "voc": "VOC XML", "yolo": "YOLO text", "labelme": "labelme JSON"}


class Layout(NamedTuple):
    """What lies in a folder."""

    form: str  # "coco", "voc", "yolo" or "labelme"
    splits: dict[str, list[DatasetFiles]]  # by "train", "val", "test", "trainval", or "" for pictures of no split
    images: int  # pictures in the folder
    without_labels: int  # pictures of which no label file knows
    without_pictures: int  # label files without a picture
    example: str  # one of these label files


def find_layout(
    folder: str,
    form: Optional[str] = None,
    label_list: Optional[str] = None,
    passed_over: Collection[str] = (),
    image_folder: Optional[str] = None,
) -> Layout:
    """Find the dataset in a folder.

    UserError if there are no pictures or no labels, if no label has a picture, or if there are labels of two formats
    and `form` names none of them.

    Args:
        folder: The folder; its subfolders are searched, too.
        form: The format of the labels: a key of `FORMATS`.
        label_list: A list of class names for VOC, YOLO and labelme. By default it is looked for.
        passed_over: Folders that are not searched.
        image_folder: The folder of the pictures, if they are not in `folder`.
    """
    if label_list is not None:
        require_file(label_list, "give a text file with one class name per line, or a data.yaml")
    require_folder(folder, "give the folder that contains the pictures and the labels (unpack archives first)")
    files = look_into(folder, passed_over)
    if image_folder is not None:
        require_folder(image_folder, "give the folder of the pictures with --image_dir")
        files.images = find_images(image_folder)
    form = _form_of(files, form)
    splits, pairs = _READERS[form](files, label_list)
    if {"train", "val"} <= set(splits):
        splits.pop("trainval", None)  # VOC's sets: it is both
    known = {image for image, _ in pairs}
    with_labels = {label for _, label in pairs}
    lost = [label for label in files.labels.get(form, []) if pairs and label not in with_labels]
    if not splits:
        raise UserError(
            f"{folder} has {count(len(files.images), 'picture')} and {_listed({form: files.labels[form]})}, but no "
            "label file has the name of a picture: give a folder that contains both"
        )
    without = sum(image not in known for image in files.images) if known else 0
    splits = dict(sorted(splits.items(), key=lambda item: _ORDER.index(item[0])))
    return Layout(form, splits, len(files.images), without, len(lost), lost[0] if lost else "")


def find_datasets(
    path: str, image_folder: Optional[str] = None, label_file: Optional[str] = None, form: Optional[str] = None
) -> dict[str, DatasetFiles]:
    """Find a dataset from its annotation file, its data.yaml or its folder. Returns its splits by name.

    The only split of an annotation file has its name without the suffix. UserError as in `find_dataset` and
    `find_layout`, and if several files are one split.
    """
    is_yaml = path.lower().endswith((".yaml", ".yml")) and os.path.isfile(path)
    if not os.path.isdir(path) and not is_yaml:
        return {_stem(path): find_dataset(path, image_folder, label_file)}
    if is_yaml:
        label_file = label_file or path
        path, form = os.path.dirname(path) or ".", "yolo"
    layout = find_layout(path, form, label_file, image_folder=image_folder)
    for split, files in layout.splits.items():
        if len(files) > 1:
            both = f"{files[0].anno_file} and {files[1].anno_file} are both for {split or 'no split'}"
            raise UserError(f"{both}: give one of them instead of the folder")
    return {split: files[0] for split, files in layout.splits.items()}


def _form_of(files: FolderFiles, form: Optional[str]) -> str:
    """Return the format of the labels. UserError if there are none, no pictures, or two formats."""
    found, folder = files.labels, files.folder
    if not files.images and not found:
        raise UserError(f"{folder} has neither pictures nor labels: give the folder that contains both")
    if not found:
        why = f"{files.cvat[0]} is in CVAT's own format: export it as COCO" if files.cvat else ""
        why = why or "label them with labelme, CVAT or label-studio, or give a folder that contains the labels, too"
        raise UserError(f"{folder} has {count(len(files.images), 'picture')} and no labels: {why}")
    if form and form not in found:
        raise UserError(
            f"{folder} has no {FORMATS[form]} labels, but {_listed(found)}: give --format {next(iter(found))}"
        )
    if not form and len(found) > 1:
        fix = f"choose one with --format {' or --format '.join(found)}"
        raise UserError(f"{folder} has labels in {len(found)} formats, {_listed(found)}: {fix}")
    if not files.images:
        fix = "copy or link the pictures into the folder, or give a folder that contains both"
        raise UserError(f"{folder} has labels ({_listed(found)}) and no pictures: {fix}")
    return form or next(iter(found))


def _listed(found: dict[str, list[str]]) -> str:
    return ", ".join(
        f"{count(len(paths), FORMATS[form] + ' file')} (such as {paths[0]})" for form, paths in found.items()
    )


Splits = dict[str, list[DatasetFiles]]
Found = tuple[Splits, list[tuple[str, str]]]


def _coco(files: FolderFiles, label_list: Optional[str]) -> Found:
    """One split per JSON file; of files for the same split, those of instances are taken."""
    by_split: dict[str, list[str]] = {}
    for path in files.coco:
        by_split.setdefault(split_of(path, files.folder), []).append(path)
    splits: Splits = {}
    for split, paths in by_split.items():
        instances = [path for path in paths if os.path.basename(path).startswith("instances_")]
        for path in instances or paths:
            entries = read_document(path)["images"]
            names = [name for entry in entries if isinstance(name := entry.get("file_name"), str)]
            folder = image_folder_of(names, path, files)
            splits.setdefault(split, []).append(DatasetFiles(path, os.path.dirname(path) if folder is None else folder))
    return splits, []


def _voc(files: FolderFiles, label_list: Optional[str]) -> Found:
    """The set files of a devkit, or lists of pictures and XML files, or else pairs of equal names."""
    sets = [path for path in files.lists if os.path.dirname(path).endswith(SETS)]
    names = {path: split_of_name(os.path.splitext(os.path.basename(path))[0]) for path in sets}
    sets = [path for path in sets if _stem(path) in (names[path], "default")]  # no lists per class: cat_train.txt
    pairs = [path for path in files.lists if lists_voc_pairs(path)]
    splits: Splits = {}
    for path in sets or pairs:
        folder = os.path.dirname(os.path.dirname(os.path.dirname(path))) if sets else os.path.dirname(path)
        labels = label_list or _existing(os.path.join(folder, "label_list.txt"))
        splits.setdefault(split_of_name(_stem(path)), []).append(DatasetFiles(path, folder, labels))
    if splits:
        return splits, []
    return _paired("voc", files.voc, files, label_list)


def _labelme(files: FolderFiles, label_list: Optional[str]) -> Found:
    return _paired("labelme", list(files.labelme), files, label_list)


def _paired(form: str, labels: list[str], files: FolderFiles, label_list: Optional[str]) -> Found:
    """Pair label files with pictures; the folders of either tell the split."""
    index = PictureIndex(files.images, files.folder)
    by_split: dict[str, list[tuple[str, str]]] = {}
    for label in labels:
        name = files.labelme.get(label)
        image = index.named(label, name) if name else index.of_label(label)
        if image:
            split = split_of_folders(image, files.folder) or split_of_folders(label, files.folder)
            by_split.setdefault(split, []).append((image, label))
    if label_list is None and form == "voc":
        label_list = _existing(os.path.join(files.folder, "label_list.txt"))
    return _splits(form, by_split, files, label_list)


def _yolo(files: FolderFiles, label_list: Optional[str]) -> Found:
    """Pair all pictures with label files; one without is a picture without objects."""
    document, class_list = _yolo_classes(files, label_list)
    index = PictureIndex(files.images, files.folder)
    label_of = {image: label for label in (*files.empty, *files.yolo) if (image := index.of_label(label))}
    chosen = _yolo_splits(files, document)
    folders = {os.path.dirname(image) for image in label_of}
    by_split: dict[str, list[tuple[str, str]]] = {}
    for image in files.images:
        split = chosen.get(image, "") or split_of_folders(image, files.folder)
        label = label_of.get(image, "")
        split = split or (split_of_folders(label, files.folder) if label else "")
        if label or os.path.dirname(image) in folders:
            by_split.setdefault(split, []).append((image, label))
    return _splits("yolo", by_split if label_of else {}, files, class_list)


def _yolo_classes(files: FolderFiles, label_list: Optional[str]) -> tuple[Optional[DataYaml], str]:
    """Return the data.yaml, if there is one, and the file with the class names."""
    found = [(path, document) for path in files.yaml if (document := read_data_yaml(path))]
    if len(found) > 1 and label_list is None:
        raise UserError(f"{found[0][0]} and {found[1][0]} both have class names: give one of them with --label_list")
    if label_list is not None:
        return next((document for path, document in found if path == label_list), None), label_list
    if found:
        return found[0][1], found[0][0]
    if not files.class_lists:
        fix = "write classes.txt into it, with one name per line in the order of the class numbers"
        raise UserError(
            f"{files.folder} has YOLO labels without class names (data.yaml, classes.txt, obj.names): {fix}"
        )
    return None, min(files.class_lists, key=lambda path: path.count(os.sep))


def _yolo_splits(files: FolderFiles, document: Optional[DataYaml]) -> dict[str, str]:
    """The splits of pictures by data.yaml, or by text files that list pictures, such as CVAT's train.txt."""
    places = [(path, split) for path in files.lists if (split := split_of_name(_stem(path)))]
    known, split_of_image = set(files.images), {}
    for split, paths in (document.splits if document else {}).items():
        for path in paths:
            found = _resolved(path, document.folder if document else "", files.folder)
            outside = found and os.path.relpath(found, files.folder).split(os.sep)[0] == os.pardir
            if outside:
                continue  # a list elsewhere names no pictures of this folder
            if found and os.path.isfile(found):
                places.append((found, split))
            elif found:
                inside = os.path.normpath(found) + os.sep
                split_of_image.update({image: split for image in files.images if image.startswith(inside)})
    for path, split in places:
        here, by_end = os.path.dirname(path), _by_end(files.images)
        for _, line in read_lines(path):
            name = os.path.normpath(line.replace("\\", "/"))
            exact = os.path.normpath(os.path.join(here, name))
            image = exact if exact in known else by_end.get(tuple(name.split(os.sep)[-2:]))
            if image:
                split_of_image[image] = split
    return split_of_image


def _by_end(images: list[str]) -> dict[tuple[str, ...], str]:
    return {tuple(image.split(os.sep)[-2:]): image for image in images}


def _resolved(path: str, folder: str, root: str) -> Optional[str]:
    """Find a path of data.yaml: relative to its folder, or, as Roboflow writes `../train/images`, without `../`; or,
    if the dataset was moved, by its last parts below `root`."""
    plain = os.path.normpath(path.replace("\\", "/"))
    parts = [part for part in plain.split(os.sep) if part not in (os.pardir, "")]
    tries = [os.path.join(folder, plain), *(os.path.join(root, *parts[i:]) for i in range(len(parts)))]
    return next((os.path.normpath(one) for one in tries if os.path.exists(one)), None)


def _splits(form: str, by_split: dict[str, list], files: FolderFiles, label_list: Optional[str]) -> Found:
    splits = {}
    for split, pairs in by_split.items():
        pairs = sorted(pairs, key=lambda pair: natural_key(pair[0]))
        place = f"{files.folder}, {split}" if split else files.folder
        splits[split] = [DatasetFiles(place, files.folder, label_list, form, tuple(pairs))]
    return splits, [pair for pairs in by_split.values() for pair in pairs]


def _existing(path: str) -> Optional[str]:
    return path if os.path.isfile(path) else None


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


_ORDER = ("train", "trainval", "val", "test", "")
_READERS = {"coco": _coco, "voc": _voc, "yolo": _yolo, "labelme": _labelme}
