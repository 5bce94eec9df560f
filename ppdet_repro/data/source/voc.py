"""Pascal VOC sets: one xml an image, and a text file that lists the images.

I images, G boxes of an image.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, UnidentifiedImageError

from ppdet_repro.core.registry import register
from ppdet_repro.data.source.base import (
    IMAGE_SUFFIXES,
    Source,
    Table,
    count,
    files_checked,
    path_inside,
    read_label_list,
    require_file,
    require_images,
    starts_of,
    summary_line,
)
from ppdet_repro.data.source.categories import VOC_NAMES
from ppdet_repro.utils.errors import UserError

SUFFIXES = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
PAIR = re.compile(rf"^(?P<image>.+\.(?:{SUFFIXES}))\s+(?P<xml>.+\.xml)$", re.IGNORECASE)
SETS = os.path.join("ImageSets", "Main")


class Entry(NamedTuple):
    """One image of a set, as paths."""

    image: str
    xml: str


class Object(NamedTuple):
    """One object of an xml: the box as written, [x1, y1, x2, y2] in pixels."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool


class Annotation(NamedTuple):
    """One xml; width, height and id are None where the file does not say."""

    width: Optional[float]
    height: Optional[float]
    id: Optional[int]
    objects: list[Object]


NO_ANNOTATION = Annotation(None, None, None, [])


@register
class VOCDataSet(Source):
    """Pascal VOC annotations, in the devkit's layout or as lists of pairs.

    anno_path: a text file, either of lines 'image.jpg annotation.xml' (PaddleDetection's), relative to
        dataset_dir/image_dir, or of bare image ids (the devkit's `ImageSets/Main/train.txt`): the image is
        then JPEGImages/<id>.* and the annotation Annotations/<id>.xml. Names may contain spaces.
        A file that is not there is looked for in ImageSets/Main.
    label_list: a text file with the classes' names. If it does not exist, the classes are the sorted names
        found in the folders of the set's xml files (in all xml there, so that every split numbers alike).
        If none is given, they are VOC's 20 where these cover the names found, as in PaddleDetection.
    data_fields may ask for gt_bbox, gt_class, difficult, is_crowd (zeros) and gt_score (ones). A set that is asked for
        images alone needs no xml (VOC 2012's test set has none).
    allow_empty, empty_ratio: see `COCODataSet`; the others: see `Source`.

    Boxes are clipped to [0, w - 1] x [0, h - 1] with no shift by one, as in PaddleDetection, and dropped
    if nothing is left. Image ids are the xml files' <id> where each has its own, else 0, 1, 2...
    """

    def __init__(
        self,
        dataset_dir: Optional[str] = None,
        image_dir: Optional[str] = None,
        anno_path: Optional[str] = None,
        data_fields: Optional[list[str]] = None,
        sample_num: int = -1,
        label_list: Optional[str] = None,
        allow_empty: bool = False,
        empty_ratio: float = 1.0,
        repeat: int = 1,
    ):
        super().__init__(dataset_dir, image_dir, anno_path, data_fields, sample_num, repeat)
        self.label_list = label_list
        self.allow_empty = allow_empty
        self.empty_ratio = empty_ratio
        self._names: list[str] = []

    @property
    def class_names(self) -> list[str]:
        self.load()
        return self._names

    def read(self) -> tuple[Table, str]:
        path = self.anno_file
        entries = read_set(path, self.image_folder)
        if not entries:
            raise UserError(f"{path} lists no image: write one a line")
        require_images([e.image for e in entries], (f"line {i}" for i in range(1, len(entries) + 1)), path)
        image_only = self.data_fields == ["image"] and not any(os.path.isfile(entry.xml) for entry in entries)
        annotations = [NO_ANNOTATION if image_only else read_xml(entry.xml) for entry in entries]
        self._names, source_of_names = self._classes(entries, annotations)
        class_of = {name: index for index, name in enumerate(self._names)}

        sizes = np.array([_size(a, e) for a, e in zip(annotations, entries)])  # [I, 2] h, w
        objects = [o for annotation in annotations for o in annotation.objects]
        image_of = np.repeat(np.arange(len(entries)), [len(a.objects) for a in annotations])
        for row, item in enumerate(objects):
            if item.name not in class_of:
                raise UserError(
                    f"{entries[image_of[row]].xml}: class {item.name!r} is not in {source_of_names}: "
                    "add it there or rename it"
                )
        boxes = np.array([o.box for o in objects], dtype=np.float64).reshape(-1, 4)
        limit = sizes[image_of][:, ::-1]  # [N, 2] w, h
        clipped = np.concatenate([boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], limit - 1)], axis=1)  # [N, 4]
        kept = (clipped[:, 2:] > clipped[:, :2]).all(1)
        flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
        reaching = (kept & ((boxes[:, :2] < 0) | (boxes[:, 2:] > limit)).any(1)).sum()

        columns: dict[str, Sequence] = {
            "gt_bbox": clipped[kept].astype(np.float32),
            "gt_class": np.array([class_of[o.name] for o in objects], dtype=np.int32)[kept, None],
            "difficult": np.array([o.difficult for o in objects], dtype=np.int32)[kept, None],
            "is_crowd": np.zeros((kept.sum(), 1), dtype=np.int32),
            "gt_score": np.ones((kept.sum(), 1), dtype=np.float32),
        }
        columns = {name: column for name, column in columns.items() if name in self.data_fields}
        starts = starts_of(np.bincount(image_of[kept], minlength=len(entries)))
        table = Table([e.image for e in entries], _image_ids(annotations), sizes, starts, columns)
        table, empty_images = self._without_empty(table, self.allow_empty or image_only, self.empty_ratio)

        left_out = {
            "images without boxes": empty_images,
            "boxes without area": flat.sum(),
            "boxes outside their image": (~kept & ~flat).sum(),
        }
        clipped = f"clipped to their image: boxes ({reaching:,})" if reaching else ""
        classes = f"{count(len(self._names), 'class', 'classes')} ({source_of_names})"
        return table, summary_line(path, table, classes, left_out, clipped)

    @property
    def anno_file(self) -> str:
        in_sets = self._path(SETS, self.anno_path or "")
        if self.anno_path and not os.path.isfile(self._path(self.anno_path)) and os.path.isfile(in_sets):
            return in_sets
        return super().anno_file

    @property
    def label_file(self) -> Optional[str]:
        """The label list's path, None if it does not exist."""
        path = self._path(self.label_list or "")
        return path if os.path.isfile(path) else None

    def _classes(self, entries: list[Entry], annotations: list[Annotation]) -> tuple[list[str], str]:
        """The classes' names, and what to call their source."""
        if self.label_file:
            return read_label_list(self.label_file), self.label_file
        found = {item.name for annotation in annotations for item in annotation.objects}
        if not self.label_list and found <= set(VOC_NAMES):
            return list(VOC_NAMES), "VOC's own"
        names = sorted(found | names_in_folders({os.path.dirname(entry.xml) for entry in entries}))
        missing = self._path(self.label_list) if self.label_list else "label_list"
        return names, f"no {missing}: the names found, sorted"


def names_in_folders(folders: set[str]) -> set[str]:
    """The class names in all xml files of the given folders."""
    files = (entry.path for folder in folders for entry in os.scandir(folder) if entry.name.endswith(".xml"))
    return {item.name for file in files for item in read_xml(file).objects}


def read_set(path: str, folder: str) -> list[Entry]:
    """The images that a set file lists, as paths below `folder`; the images are not looked at."""
    with files_checked(path, "read"), open(path, encoding="utf-8-sig") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    entries = []
    for number, line in lines:
        where = f"{path}:{number}"
        pair = PAIR.match(line)
        if pair:
            image, xml = pair["image"], pair["xml"]
        else:
            image, xml = os.path.join("JPEGImages", line), os.path.join("Annotations", line + ".xml")
        image, xml = path_inside(folder, image, where), path_inside(folder, xml, where)
        entries.append(Entry(image if pair else _with_suffix(image), xml))
    return entries


def _with_suffix(stem: str) -> str:
    """The existing image of that stem, else the name it should have."""
    suffixes = [suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())]
    return next((stem + suffix for suffix in suffixes if os.path.isfile(stem + suffix)), stem + ".jpg")


def read_xml(path: str) -> Annotation:
    """Read one VOC annotation; objects without <bndbox> are passed over."""
    require_file(path, "every listed image needs its xml; write one or take the image off the list")
    try:
        with files_checked(path, "read"):
            root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not valid xml ({error}): the file may be cut off; make it anew") from None
    objects = []
    for item in root.findall("object"):
        if item.find("bndbox") is not None:
            box = tuple(_number(item, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
            name = (item.findtext("name") or "").strip()
            if not name or None in box:
                raise UserError(f"{path}: object {name!r} needs <name>, <xmin>, <ymin>, <xmax> and <ymax>")
            flags = (bool(_number(item, flag, path)) for flag in ("difficult", "iscrowd"))
            objects.append(Object(name, box, *flags))
    number = (root.findtext("id") or "").strip()
    return Annotation(
        _number(root, "size/width", path),
        _number(root, "size/height", path),
        int(number) if number.isdigit() else None,
        objects,
    )


def _number(element: ElementTree.Element, tag: str, path: str) -> Optional[float]:
    """The number in a descendant's text, None where there is no such element."""
    text = element.findtext(tag)
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}: <{tag.split('/')[-1]}> is {text.strip()!r}: write a number") from None


def _size(annotation: Annotation, entry: Entry) -> tuple[float, float]:
    """Height and width: the xml's, or, where it has none, the image's."""
    if annotation.width and annotation.height and min(annotation.width, annotation.height) > 0:
        return annotation.height, annotation.width
    return image_size(entry.image)


def image_size(path: str) -> tuple[int, int]:
    """Height and width of an image as decoders turn it (by its EXIF orientation), from its header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112, 1) >= 5
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): replace or remove it") from None
    return (width, height) if sideways else (height, width)


def _image_ids(annotations: list[Annotation]) -> np.ndarray:
    ids = [annotation.id for annotation in annotations]
    if None in ids or len(set(ids)) < len(ids):
        ids = range(len(annotations))
    return np.array(ids, dtype=np.int64)
