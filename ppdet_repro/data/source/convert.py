"""Converts VOC annotations to COCO's format and back.

VOC's (xmin, ymin, xmax, ymax) and COCO's (x, y, x + w, y + h) are treated as the same corners, as in `VOCDataSet` and
`COCODataSet`. Boxes are neither shifted by one pixel nor clipped.
"""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count as numbers
from pathlib import Path
from typing import Any, Optional, Union

from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.coco import corners, image_files, owners, read_coco, sorted_categories, sorted_images
from ppdet_repro.data.source.dataset_files import DatasetFiles
from ppdet_repro.data.source.files import files_checked, read_label_list, require_images
from ppdet_repro.data.source.voc import SETS, Annotation, Entry, Object, class_names_in, image_size, read_set, read_xml
from ppdet_repro.utils.errors import UserError


def coco_from_voc(
    entries: Sequence[tuple[Entry, Annotation]], names: Optional[Sequence[str]], image_folder: str
) -> dict:
    """Convert VOC annotations to a COCO document. Flags for difficult objects and crowd regions are kept.

    Args:
        entries: The files and annotations of each image.
        names: The class names in the order of the category ids, which count from 1. By default, they are the sorted
            names that occur. A class that is not among `names` gets its name as category id.
        image_folder: The folder that file names become relative to.
    """
    found = sorted({item.name for _, annotation in entries for item in annotation.objects})
    categories = {name: number for number, name in enumerate(names or found, 1)}
    ids = [annotation.id for _, annotation in entries]
    own_ids = None not in ids and len(set(ids)) == len(ids)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (entry, annotation) in enumerate(entries, 1):
        image_id = annotation.id if own_ids else number
        name = Path(os.path.relpath(entry.image, image_folder or ".")).as_posix()
        width, height = _plain(annotation.width or 0), _plain(annotation.height or 0)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for item in annotation.objects:
            x1, y1, x2, y2 = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories.get(item.name, item.name),
                    "bbox": [_plain(value) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": _plain((x2 - x1) * (y2 - y1)),
                    "iscrowd": int(item.crowd),
                    "difficult": int(item.difficult),
                }
            )
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": listed}


def convert(dataset: DatasetFiles, target: str, force: bool = False) -> str:
    """Convert a dataset to the other format; see `voc_to_coco` and `coco_to_voc`. Returns a line that sums it up.

    `target` is the JSON file or the folder to write. Existing files are a UserError, unless `force` is set.
    """
    if not dataset.is_coco and not target.endswith(".json"):
        raise UserError(f"{target}: a VOC set is converted to a COCO JSON file; give a name that ends in .json")
    with files_checked(target, "written"):
        return (coco_to_voc if dataset.is_coco else voc_to_coco)(dataset, target, force)


def voc_to_coco(dataset: DatasetFiles, target: str, force: bool) -> str:
    """Write a VOC set as one COCO JSON file.

    Images are not copied; file names are relative to the folder that contains all of them.
    """
    _refuse_existing([target], force)
    entries = read_set(dataset.anno_file, dataset.image_folder)
    if not entries:
        raise UserError(f"{dataset.anno_file} lists no image: write one per line")
    require_images([e.image for e in entries], (f"image {n}" for n in numbers(1)), dataset.anno_file)
    if dataset.label_file:
        names = read_label_list(dataset.label_file)
    else:  # from all files of the folder, so that all splits get the same categories
        names = sorted(class_names_in({os.path.dirname(entry.xml) for entry in entries}))
    pairs = []
    for entry in entries:
        annotation = read_xml(entry.xml)
        unknown = [item.name for item in annotation.objects if item.name not in names]
        if unknown:
            raise UserError(f"{entry.xml}: class {unknown[0]!r} is not in {dataset.label_file}: add it there")
        if not annotation.width or not annotation.height:
            height, width = image_size(entry.image)
            annotation = annotation._replace(width=width, height=height)
        pairs.append((entry, annotation))
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(entry.image)) for entry in entries])
    document = coco_from_voc(pairs, names, folder)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    Path(target).write_text(json.dumps(document), encoding="utf-8")
    here = os.path.relpath(folder)
    images = folder if here.startswith(os.pardir) else here
    return f"{target}: {_sizes(len(entries), len(document['annotations']), len(names))}; its image_dir is {images}"


def coco_to_voc(dataset: DatasetFiles, target: str, force: bool) -> str:
    """Write a COCO dataset as a VOC devkit.

    The devkit consists of JPEGImages (copies of the images), Annotations, ImageSets/Main/<name of the JSON file>.txt
    and label_list.txt. Crowd regions become difficult objects with <iscrowd>. Masks and category ids are lost.
    """
    path = dataset.anno_file
    document = read_coco(path)
    names, ids = sorted_categories(document, path)
    images = sorted_images(document, path)
    files = image_files(images, dataset.image_folder, path)
    annotations = document.get("annotations", [])
    image_of = owners(annotations, "image", [image["id"] for image in images], path)
    class_of = owners(annotations, "category", ids, path)
    boxes, _ = corners(annotations, path)
    objects: list[list[Object]] = [[] for _ in images]
    for annotation, image, label, box in zip(annotations, image_of, class_of, boxes.tolist()):
        crowd = bool(annotation.get("iscrowd", 0))
        difficult = crowd or bool(annotation.get("difficult", 0))
        objects[image].append(Object(names[label], tuple(box), difficult, crowd))

    root = Path(target)
    list_file = root / SETS / (Path(path).stem + ".txt")
    stems = [os.path.splitext(os.path.relpath(file, dataset.image_folder or "."))[0] for file in files]
    stem, times = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if times > 1:
        raise UserError(f"{path}: two images would have the VOC id {stem!r}: rename one of them")
    xml_files = [root / "Annotations" / f"{stem}.xml" for stem in stems]
    targets = [root / "JPEGImages" / (s + os.path.splitext(file)[1]) for s, file in zip(stems, files)]
    copies = [(file, p) for file, p in zip(files, targets) if not (p.exists() and p.samefile(file))]
    label_list, labels = root / "label_list.txt", "".join(f"{name}\n" for name in names)
    same_labels = label_list.is_file() and label_list.read_text(encoding="utf-8") == labels
    new = [list_file, *([] if same_labels else [label_list]), *xml_files, *(p for _, p in copies)]
    _refuse_existing(new, force)

    for path_to_write in new:
        path_to_write.parent.mkdir(parents=True, exist_ok=True)
    for file, copy in copies:
        shutil.copyfile(file, copy)
    for image, copy, xml_file, items in zip(images, targets, xml_files, objects):
        annotation = Annotation(image["width"], image["height"], image["id"], items)
        xml_file.write_bytes(_xml(annotation, copy.name))
    list_file.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    label_list.write_text(labels, encoding="utf-8")
    return f"{list_file}: {_sizes(len(files), len(boxes), len(names))} (label_list.txt)"


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
