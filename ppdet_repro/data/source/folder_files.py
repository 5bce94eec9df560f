"""The pictures and label files in a folder, by what they contain, and which label belongs to which picture."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from ppdet_repro.data.source.base import IMAGE_SUFFIXES, natural_key
from ppdet_repro.data.source.files import files_checked
from ppdet_repro.data.source.labelme_files import image_name, is_labelme
from ppdet_repro.data.source.text import is_hidden, is_json, read_json, read_text
from ppdet_repro.data.source.voc_files import PAIR
from ppdet_repro.data.source.yolo_files import CLASS_LISTS, is_label_text
from ppdet_repro.utils.errors import UserError

OWN = "ppdet_repro"  # the folder that `init` writes by default
MADE_BY_INIT = "COCO annotations made by ppdet-repro init"  # in info.description: no labels of the user
SKIPPED = (OWN, "output", "__MACOSX", "@eaDir", "runs")
XML_START = re.compile(rb"<annotation[\s>/]", re.IGNORECASE)
CVAT_START = re.compile(rb"<annotations[\s>/]", re.IGNORECASE)
HEAD = 8192  # bytes of a file that tell what it contains
SPLIT = re.compile(
    r"(?:^|[_\-. ])(?:(train|training)|(val|valid|validation|dev)|(test|testing)|(trainval))(?:\d{4})?(?=$|[_\-. ])",
    re.IGNORECASE,
)


@dataclass
class FolderFiles:
    """Paths of files, in natural order ("a2" before "a10")."""

    folder: str
    images: list[str] = field(default_factory=list)
    coco: list[str] = field(default_factory=list)  # JSON files of COCO's detection annotations
    labelme: dict[str, str] = field(default_factory=dict)  # JSON file -> picture, as it names it
    voc: list[str] = field(default_factory=list)  # XML files
    yolo: list[str] = field(default_factory=list)  # text files with boxes
    class_lists: list[str] = field(default_factory=list)  # classes.txt, obj.names, ...
    yaml: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)  # other text files, such as lists of pictures
    empty: list[str] = field(default_factory=list)  # text files without content: YOLO's for pictures without objects
    cvat: list[str] = field(default_factory=list)  # XML files in CVAT's own format

    @property
    def labels(self) -> dict[str, list[str]]:
        """The label files by format, of the formats that there are."""
        found = {"coco": self.coco, "voc": self.voc, "yolo": self.yolo, "labelme": list(self.labelme)}
        return {form: files for form, files in found.items() if files}


def look_into(folder: str, passed_over: Collection[str] = ()) -> FolderFiles:
    """Sort the files in a folder and its subfolders by their content.

    Hidden folders, and those of `SKIPPED` and `passed_over`, are not searched; each real folder is searched once.
    UserError if a file cannot be read.
    """
    found = FolderFiles(folder)
    seen: set[str] = {os.path.realpath(path) for path in passed_over}
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((n for n in folders if n[0] != "." and n not in SKIPPED), key=natural_key)
        for name in sorted(names, key=natural_key):
            if not is_hidden(name) and name[0] != ".":
                _sort_in(os.path.join(path, name), found)
    return found


def _sort_in(path: str, found: FolderFiles) -> None:
    name = os.path.basename(path).lower()
    if name.endswith(IMAGE_SUFFIXES):
        found.images.append(path)
    elif is_json(name):
        _sort_json(path, found)
    elif name.endswith(".xml"):
        head = _head(path).replace(b"\0", b"")  # UTF-16
        if XML_START.search(head):
            found.voc.append(path)
        elif CVAT_START.search(head):
            found.cvat.append(path)
    elif name in CLASS_LISTS:
        found.class_lists.append(path)
    elif name.endswith((".yaml", ".yml")):
        found.yaml.append(path)
    elif name.endswith(".txt"):
        _sort_text(path, found)


def _sort_json(path: str, found: FolderFiles) -> None:
    try:
        document = read_json(path)
    except UserError:
        head = _head(path)
        if any(key in head for key in (b'"images"', b'"annotations"', b'"shapes"')):
            raise
        return
    if is_labelme(document):
        found.labelme[path] = image_name(document) or ""
    elif is_coco(document) and document.get("info") != {"description": MADE_BY_INIT}:
        found.coco.append(path)


def is_coco(document: Any) -> bool:
    """Whether the content of a JSON file is a COCO document with categories and boxes, as for detection."""
    keys = ("images", "categories", "annotations")
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in keys)


def _sort_text(path: str, found: FolderFiles) -> None:
    head = _head(path)
    if not head.strip():
        found.empty.append(path)
        return
    try:
        text = read_text(path) if len(head) < HEAD else head.rpartition(b"\n")[0].decode()
    except (UserError, UnicodeDecodeError):
        return
    (found.yolo if is_label_text(text) else found.lists).append(path)


def _head(path: str) -> bytes:
    with files_checked(path, "read"), open(path, "rb") as file:
        return file.read(HEAD)


def lists_voc_pairs(path: str) -> bool:
    """Whether a text file consists of lines "image.jpg annotation.xml"."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return bool(lines) and all(PAIR.fullmatch(line) for line in lines[:20])


def split_of(path: str, folder: str) -> str:
    """Return the split that a path names in its file name or else in its folders below `folder`: train, val, test,
    trainval, or "".

    Example:
        >>> [split_of(path, "d") for path in ("d/annotations/instances_train2017.json", "d/valid/a.jpg", "d/a")]
        ['train', 'val', '']
    """
    parts = os.path.relpath(path, folder or ".").split(os.sep)
    return split_of_name(os.path.splitext(parts[-1])[0]) or split_of_folders(path, folder)


def split_of_folders(path: str, folder: str) -> str:
    """Return the split that the folders of a path below `folder` name, or ""."""
    parts = os.path.relpath(path, folder or ".").split(os.sep)[:-1]
    return next(filter(None, (split_of_name(part) for part in reversed(parts))), "")


def split_of_name(name: str) -> str:
    """Return the split that a name contains, or ""."""
    found = SPLIT.search(name)
    return ("train", "val", "test", "trainval")[found.lastindex - 1] if found and found.lastindex else ""


class PictureIndex:
    """Finds the picture that a label file belongs to."""

    def __init__(self, images: Iterable[str], folder: str):
        self.images, self.folder = set(images), folder
        self.by_stem: dict[str, list[str]] = {}
        for image in images:
            self.by_stem.setdefault(_stem(image), []).append(image)

    def of_label(self, label: str) -> Optional[str]:
        """Return the picture with the stem of a label file that is nearest to it, None if there is none."""
        return self._nearest(self.by_stem.get(_stem(label), []), label)

    def named(self, label: str, name: str) -> Optional[str]:
        """Return the picture that a label file names relative to itself, or else the nearest one of that name."""
        path = os.path.normpath(os.path.join(os.path.dirname(label), name))
        if path in self.images:
            return path
        same = [image for image in self.by_stem.get(_stem(name), []) if _base(image) == _base(name)]
        return self._nearest(same, label) or self.of_label(label)

    def _nearest(self, images: list[str], label: str) -> Optional[str]:
        split = split_of_folders(label, self.folder)
        if split:  # no picture of another split
            images = [image for image in images if split_of_folders(image, self.folder) in ("", split)]
        if len(images) < 2:
            return images[0] if images else None
        folders = os.path.dirname(label).split(os.sep)

        def nearness(image: str) -> tuple[int, int]:
            own = os.path.dirname(image).split(os.sep)
            return sum(part in own for part in folders), -len(own)

        return max(images, key=nearness)


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _stem(path: str) -> str:
    return os.path.splitext(_base(path))[0]


def image_folder_of(names: Iterable[str], anno_file: str, files: FolderFiles) -> Optional[str]:
    """Find the folder that image names of a COCO file are relative to. None if no picture has one of these names.

    It is the folder in which most of the names exist; among equals the one of the annotation file, or of its split.
    """
    votes: dict[str, int] = {}
    by_base: dict[str, list[str]] = {}
    for image in files.images:
        by_base.setdefault(_base(image), []).append(image)
    for name in names:
        plain = os.path.normpath(name.replace("\\", "/"))
        for image in by_base.get(_base(plain), []):
            if image == plain or image.endswith(os.sep + plain):
                root = image[: -len(plain)].rstrip(os.sep)
                votes[root] = votes.get(root, 0) + 1
    if not votes:
        return None
    here, split = os.path.dirname(anno_file), split_of(anno_file, files.folder)

    def rank(root: str) -> tuple[int, bool, bool, str]:
        same_split = bool(split) and split_of(os.path.join(root, "x"), files.folder) == split
        return votes[root], same_split, root == here, root

    return max(votes, key=rank)
