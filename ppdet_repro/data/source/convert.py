"""Converts VOC annotations to COCO's format and back.

VOC's (xmin, ymin, xmax, ymax) and COCO's (x, y, x + w, y + h) are treated as the same corners, as in `VOCDataSet` and
`COCODataSet`. Boxes are neither shifted by one pixel nor clipped. Objects that these leave out are not written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.coco import corners, read_coco_set
from ppdet_repro.data.source.coco_file import CocoFile
from ppdet_repro.data.source.dataset_files import DatasetFiles
from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.source.findings import LEFT_OUT, Findings, listed
from ppdet_repro.data.source.spelling import readable
from ppdet_repro.data.source.text import is_json
from ppdet_repro.data.source.values import flag_column
from ppdet_repro.data.source.voc import VOCDataSet, VocSet, own_ids
from ppdet_repro.data.source.voc_files import SETS, Annotation, Object
from ppdet_repro.utils.errors import UserError

NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")  # control characters and ends of lines


def convert(dataset: DatasetFiles, target: str, force: bool = False) -> str:
    """Convert a dataset to the other format; see `voc_to_coco` and `coco_to_voc`. Returns a line that sums it up.

    `target` is the JSON file or the folder to write. Existing files are a UserError, unless `force` is set.
    """
    if not dataset.is_coco and not is_json(target):
        raise UserError(f"{target}: a VOC set is converted to a COCO JSON file; give a name that ends in .json")
    with files_checked(target, "written"):
        return (coco_to_voc if dataset.is_coco else voc_to_coco)(dataset, target, force)


def voc_to_coco(dataset: DatasetFiles, target: str, force: bool) -> str:
    """Write a VOC set as one COCO JSON file.

    Images are not copied; file names are relative to the folder that contains all of them. Flags for difficult objects
    and crowd regions are kept. Without a label list, the classes are the names in all XML files of the folder, so that
    all splits get the same categories.
    """
    _refuse_existing([target], force)
    labels = dataset.label_file or os.path.join(dataset.image_folder, "label_list.txt")
    findings = Findings()
    source = VOCDataSet(None, dataset.image_folder, dataset.anno_file, ["gt_bbox"], label_list=labels)
    voc = source.read_voc(findings)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(entry.image)) for entry in voc.entries])
    document = _coco_document(voc, folder)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    Path(target).write_text(json.dumps(document), encoding="utf-8")
    here = os.path.relpath(folder)
    images = folder if here.startswith(os.pardir) else here
    sizes = _sizes(len(voc.entries), len(document["annotations"]), len(voc.names))
    return f"{target}: {sizes}; its image_dir is {images}{_left_out(findings)}"


def _coco_document(voc: VocSet, image_folder: str) -> dict:
    """Convert a VOC set to a COCO document. Category ids count from 1, and image ids, too, unless the set has its
    own."""
    own = own_ids(voc.annotations)
    ids = range(1, len(voc.entries) + 1) if own is None else own.tolist()
    images = [
        {
            "id": image_id,
            "file_name": readable(Path(os.path.relpath(entry.image, image_folder or ".")).as_posix()),
            "width": _plain(width),
            "height": _plain(height),
        }
        for image_id, entry, (height, width) in zip(ids, voc.entries, voc.sizes.tolist())
    ]
    annotations: list[dict[str, Any]] = []
    for row in np.flatnonzero(voc.kept):
        item = voc.objects[row]
        x1, y1, x2, y2 = item.box
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": images[voc.image_of[row]]["id"],
                "category_id": int(voc.class_of[row]) + 1,
                "bbox": [_plain(value) for value in (x1, y1, x2 - x1, y2 - y1)],
                "area": _plain((x2 - x1) * (y2 - y1)),
                "iscrowd": int(item.crowd),
                "difficult": int(item.difficult),
            }
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(voc.names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_to_voc(dataset: DatasetFiles, target: str, force: bool) -> str:
    """Write a COCO dataset as a VOC devkit.

    The devkit consists of JPEGImages (copies of the images), Annotations, ImageSets/Main/<name of the JSON file>.txt
    and label_list.txt. Crowd regions become difficult objects with <iscrowd>. Masks and category ids are lost.
    """
    path, findings = dataset.anno_file, Findings(f"{dataset.anno_file}: ")
    file, files, sizes, kept = read_coco_set(path, dataset.image_folder, findings)
    names = [name.strip() for name in file.names]
    _refuse_names(names, path)
    stems = [readable(os.path.splitext(os.path.relpath(file, dataset.image_folder or "."))[0]) for file in files]
    _refuse_stems(stems, path)

    root = Path(target)
    list_file = root / SETS / (Path(path).stem + ".txt")
    xml_files = [root / "Annotations" / f"{stem}.xml" for stem in stems]
    targets = [root / "JPEGImages" / (s + os.path.splitext(file)[1]) for s, file in zip(stems, files)]
    copies = [(file, p) for file, p in zip(files, targets) if not (p.exists() and p.samefile(file))]
    label_list, labels = root / "label_list.txt", "".join(f"{name}\n" for name in names)
    same_labels = label_list.is_file() and label_list.read_bytes() == labels.encode()
    new = [list_file, *([] if same_labels else [label_list]), *xml_files, *(p for _, p in copies)]
    _refuse_existing(new, force)

    for path_to_write in new:
        path_to_write.parent.mkdir(parents=True, exist_ok=True)
    for source, copy in copies:
        shutil.copyfile(source, copy)
    objects = _objects(file, kept, names)
    for size, image_id, copy, xml_file, items in zip(sizes, file.images.ids, targets, xml_files, objects):
        annotation = Annotation(_plain(size[1]), _plain(size[0]), int(image_id), items)
        xml_file.write_bytes(_xml(annotation, copy.name))
    list_file.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    label_list.write_text(labels, encoding="utf-8")
    boxes = sum(map(len, objects))
    return f"{list_file}: {_sizes(len(files), boxes, len(names))} (label_list.txt){_left_out(findings)}"


def _objects(file: CocoFile, kept: np.ndarray, names: Sequence[str]) -> list[list[Object]]:
    """Return the objects of each image."""
    a = file.annotations
    difficult, _ = flag_column(a.entries, "difficult")
    boxes = corners(a.xywh)
    objects: list[list[Object]] = [[] for _ in file.images.names]
    for row in np.flatnonzero(kept):
        x1, y1, x2, y2 = boxes[row].tolist()
        flags = bool(a.crowd[row] or difficult[row]), bool(a.crowd[row])
        objects[a.image_of[row]].append(Object(names[a.class_of[row]], (x1, y1, x2, y2), *flags))
    return objects


def _refuse_names(names: Sequence[str], path: str) -> None:
    """Raise UserError if a VOC set with these classes could not be read back."""
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{path}: {times} categories are called {name!r}, which a VOC set cannot tell apart: rename them"
        )
    for name in names:
        if not name or NOT_IN_XML.search(name):
            raise UserError(f"{path}: the category {name[:40]!r} cannot be the name of a VOC class: rename it")


def _refuse_stems(stems: Sequence[str], path: str) -> None:
    """Raise UserError if a VOC set of images with these names could not be read back."""
    stem, times = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if times > 1:
        raise UserError(f"{path}: two images would have the VOC id {stem!r}: rename one of them")
    for stem in stems:
        if stem != stem.strip() or NOT_IN_XML.search(stem):
            raise UserError(f"{path}: the image {stem[:80]!r} cannot be named in the list of a VOC set: rename it")


def _left_out(findings: Findings) -> str:
    kinds = listed(findings.of(LEFT_OUT))
    return f"; left out: {kinds}" if kinds else ""


def _sizes(images: int, boxes: int, classes: int) -> str:
    return f"{count(images, 'image')}, {count(boxes, 'box', 'boxes')}, {count(classes, 'class', 'classes')}"


def _refuse_existing(files: Iterable[Union[str, os.PathLike]], force: bool) -> None:
    existing = [file for file in files if os.path.exists(file)]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]} exists{more}: choose another path, or overwrite it with --force")


def _xml(annotation: Annotation, file_name: str) -> bytes:
    """Return the content of a VOC annotation file."""
    root = ElementTree.Element("annotation")
    _add(root, {"filename": file_name, "id": annotation.id})
    size = {"width": annotation.width, "height": annotation.height, "depth": 3}
    _add(ElementTree.SubElement(root, "size"), size)
    for item in annotation.objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, {"name": item.name, "difficult": int(item.difficult)})
        _add(element, {"iscrowd": 1} if item.crowd else {})
        sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(_plain, item.box)))
        _add(ElementTree.SubElement(element, "bndbox"), sides)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8")


def _add(element: ElementTree.Element, texts: Mapping[str, object]) -> None:
    for tag, value in texts.items():
        ElementTree.SubElement(element, tag).text = str(value)


def _plain(value: float) -> float:
    """Round to 3 decimals; whole numbers become integers."""
    rounded = round(float(value), 3)
    return int(rounded) if rounded.is_integer() else rounded
