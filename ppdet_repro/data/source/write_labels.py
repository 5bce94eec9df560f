"""Writes a dataset as a COCO JSON file or as a VOC devkit."""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from ppdet_repro.data.source.labelled import Labelled, Picture
from ppdet_repro.data.source.spelling import readable
from ppdet_repro.data.source.voc_files import SETS
from ppdet_repro.utils.errors import UserError

NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")  # control characters and ends of lines


def write_coco(one: Labelled, target: str, image_folder: Optional[str] = None) -> str:
    """Write one COCO JSON file. Returns the image folder that its names are relative to.

    Images are not copied. By default the folder is the one that contains all of them. Flags for difficult objects and
    crowd regions are kept.
    """
    folder = image_folder
    if folder is None:
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(picture.file)) for picture in one.pictures])
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    Path(target).write_text(json.dumps(coco_document(one, folder)), encoding="utf-8")
    here = os.path.relpath(folder)
    return folder if here.startswith(os.pardir) else here


def coco_document(one: Labelled, image_folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return a dataset as a COCO document. Category ids count from 1; image ids do unless the set has its own."""
    own = [picture.id for picture in one.pictures]
    ids = own if None not in own and len(set(own)) == len(own) else range(1, len(own) + 1)
    number_of = {name: number for number, name in enumerate(one.names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in zip(ids, one.pictures):
        name = readable(Path(os.path.relpath(picture.file, image_folder or ".")).as_posix())
        size = {"width": plain(picture.width), "height": plain(picture.height)}
        images.append({"id": image_id, "file_name": name, **size})
        for item in picture.objects:
            x1, y1, x2, y2 = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": number_of[item.name],
                    "bbox": [plain(value) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": plain((x2 - x1) * (y2 - y1)),
                    "iscrowd": int(item.crowd),
                    "difficult": int(item.difficult),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(one.names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_voc(one: Labelled, image_folder: str, path: str, target: str, split: str, force: bool) -> Path:
    """Write a VOC devkit, or one more split of it. Returns the path of its set file, ImageSets/Main/<split>.txt.

    The images are copied. Crowd regions become difficult objects with <iscrowd>. Masks and category ids are lost.
    `path` is the annotation file, for errors.
    """
    names = {name: name.strip() for name in one.names}
    stems = [image_stem(picture, image_folder) for picture in one.pictures]
    refuse_stems(stems, path, "VOC id")
    root = Path(target)
    list_file = root / SETS / f"{split}.txt"
    xml_files = [root / "Annotations" / f"{stem}.xml" for stem in stems]
    suffixes = [os.path.splitext(picture.file)[1] for picture in one.pictures]
    targets = [root / "JPEGImages" / (stem + suffix) for stem, suffix in zip(stems, suffixes)]
    copies = [(p.file, copy) for p, copy in zip(one.pictures, targets) if not (copy.exists() and copy.samefile(p.file))]
    label_list, labels = root / "label_list.txt", "".join(f"{name}\n" for name in names.values())
    same_labels = label_list.is_file() and label_list.read_bytes() == labels.encode()
    new = [list_file, *([] if same_labels else [label_list]), *xml_files, *(copy for _, copy in copies)]
    refuse_existing(new, force)

    make_folders(new)
    for source, copy in copies:
        shutil.copyfile(source, copy)
    for picture, copy, xml_file in zip(one.pictures, targets, xml_files):
        xml_file.write_bytes(_xml(picture, copy.name, names))
    list_file.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    label_list.write_text(labels, encoding="utf-8")
    return list_file


def image_stem(picture: Picture, image_folder: str) -> str:
    """Return the path of a picture relative to the image folder, without its suffix. A picture elsewhere has its name
    alone."""
    relative = os.path.relpath(picture.file, image_folder or ".")
    if relative.split(os.sep)[0] == os.pardir:
        relative = os.path.basename(picture.file)
    return readable(os.path.splitext(relative)[0])


def make_folders(files: Iterable[Path]) -> None:
    for folder in {file.parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)


def refuse_names(names: Sequence[str], path: str, to: str) -> None:
    """Raise UserError if a set with these classes could not be read back from the format `to`."""
    plain_names = [name.strip() for name in names]
    name, times = Counter(plain_names).most_common(1)[0] if plain_names else ("", 0)
    if times > 1:
        raise UserError(
            f"{path}: {times} categories are called {name!r}, which a {to.upper()} set cannot tell apart: rename them"
        )
    for name in plain_names:
        if not name or (to == "voc" and NOT_IN_XML.search(name)):
            raise UserError(f"{path}: the category {name[:40]!r} cannot be the name of a {to.upper()} class: rename it")


def refuse_stems(stems: Sequence[str], path: str, what: str) -> None:
    """Raise UserError if a set of images with these names could not be read back."""
    stem, times = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if times > 1:
        raise UserError(f"{path}: two images would have the {what} {stem!r}: rename one of them")
    for stem in stems:
        if stem != stem.strip() or NOT_IN_XML.search(stem):
            raise UserError(f"{path}: the image {stem[:80]!r} cannot be named in the list of a set: rename it")


def refuse_existing(files: Iterable[Union[str, os.PathLike]], force: bool) -> None:
    existing = [file for file in files if os.path.exists(file)]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise UserError(f"{existing[0]} exists{more}: choose another path, or overwrite it with --force")


def _xml(picture: Picture, file_name: str, names: Mapping[str, str]) -> bytes:
    """Return the content of a VOC annotation file."""
    root = ElementTree.Element("annotation")
    _add(root, {"filename": file_name, **({} if picture.id is None else {"id": picture.id})})
    size = {"width": plain(picture.width), "height": plain(picture.height), "depth": 3}
    _add(ElementTree.SubElement(root, "size"), size)
    for item in picture.objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, {"name": names[item.name], "difficult": int(item.difficult)})
        _add(element, {"iscrowd": 1} if item.crowd else {})
        sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(plain, item.box)))
        _add(ElementTree.SubElement(element, "bndbox"), sides)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8")


def _add(element: ElementTree.Element, texts: Mapping[str, object]) -> None:
    for tag, value in texts.items():
        ElementTree.SubElement(element, tag).text = str(value)


def plain(value: float) -> float:
    """Round to 3 decimals; whole numbers become integers."""
    rounded = round(float(value), 3)
    return int(rounded) if rounded.is_integer() else rounded
