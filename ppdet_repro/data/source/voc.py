"""Pascal VOC datasets: one XML file per image, and a text file that lists the images. I images, N objects."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple, Optional

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.source.base import IMAGE_SUFFIXES, Column, ImageTable, Source, count, starts_of
from ppdet_repro.data.source.categories import VOC_NAMES
from ppdet_repro.data.source.files import (
    files_checked,
    is_text,
    path_inside,
    read_label_list,
    read_lines,
    require_file,
    require_images,
)
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.utils.errors import UserError

SUFFIXES = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
PAIR = re.compile(rf"^(?P<image>.+\.(?:{SUFFIXES}))\s+(?P<xml>.+\.xml)$", re.IGNORECASE)
MAX_NUMBER = 1e9  # no box or image is larger; numbers that are not finite are not smaller either
SETS = os.path.join("ImageSets", "Main")


class Entry(NamedTuple):
    """The paths of one image of a set and of its annotations."""

    image: str
    xml: str


class Object(NamedTuple):
    """One object of an XML file. The box is (x1, y1, x2, y2) in pixels, as in the file."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    crowd: bool


class Annotation(NamedTuple):
    """The content of an XML file. Width, height and id are None if they are missing."""

    width: Optional[float]
    height: Optional[float]
    id: Optional[int]
    objects: list[Object]


NO_ANNOTATION = Annotation(None, None, None, [])


@register
class VOCDataSet(Source):
    """Pascal VOC annotations in the layout of the devkit, or as a list of image and annotation files.

    As in PaddleDetection, boxes are clipped to [0, w - 1] x [0, h - 1] without subtracting one, and left out if
    nothing remains. Image ids are the <id> of the XML files if all have different ones, otherwise 0, 1, 2, ...

    Args:
        anno_path: A text file, which is also looked for in ImageSets/Main. Its lines are either
            "image.jpg annotation.xml", relative to dataset_dir/image_dir, as in PaddleDetection, or image ids, as in
            the devkit: the files are then JPEGImages/<id>.* and Annotations/<id>.xml. Names may contain spaces.
        label_list: A text file with class names. If it does not exist, the classes are the names that occur in any
            XML file of the folders of this set, sorted, so that they are the same for all splits. If it is not given,
            they are the 20 classes of VOC, provided that no other names occur.
        data_fields: May contain gt_bbox, gt_class, difficult, is_crowd (zeros) and gt_score (ones). With "image" alone,
            XML files need not exist, as in VOC 2012's test set.

    The other parameters are those of `Source`.
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
        super().__init__(dataset_dir, image_dir, anno_path, data_fields, sample_num, repeat, allow_empty, empty_ratio)
        self.label_list = label_list

    def read(self) -> tuple[ImageTable, str]:
        path = self.anno_file
        entries = read_set(path, self.image_folder)
        if not entries:
            raise UserError(f"{path} lists no image: write one per line")
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
                file = entries[image_of[row]].xml
                raise UserError(f"{file}: class {item.name!r} is not in {source_of_names}: add it there or rename it")
        boxes = np.array([o.box for o in objects], dtype=np.float64).reshape(-1, 4)
        limit = sizes[image_of][:, ::-1]  # [N, 2] w, h
        inside = np.concatenate([boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], limit - 1)], axis=1)  # [N, 4]
        kept = (inside[:, 2:] > inside[:, :2]).all(1)
        flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
        reaching = (kept & ((boxes[:, :2] < 0) | (boxes[:, 2:] > limit)).any(1)).sum()

        columns: dict[str, Column] = {
            "gt_bbox": inside[kept].astype(np.float32),
            "gt_class": np.array([class_of[o.name] for o in objects], dtype=np.int32)[kept, None],
            "difficult": np.array([o.difficult for o in objects], dtype=np.int32)[kept, None],
            "is_crowd": np.zeros((kept.sum(), 1), dtype=np.int32),
            "gt_score": np.ones((kept.sum(), 1), dtype=np.float32),
        }
        starts = starts_of(np.bincount(image_of[kept], minlength=len(entries)))
        table = ImageTable([e.image for e in entries], _image_ids(annotations), sizes, starts, columns)
        left_out = {"boxes without area": flat.sum(), "boxes outside their image": (~kept & ~flat).sum()}
        clipped = f"clipped to their image: boxes ({reaching:,})" if reaching else ""
        classes = f"{count(len(self._names), 'class', 'classes')} ({source_of_names})"
        return self._chosen(table, classes, image_only, left_out, clipped)

    @property
    def anno_file(self) -> str:
        in_sets = self._path(SETS, self.anno_path or "")
        if self.anno_path and not os.path.isfile(self._path(self.anno_path)) and os.path.isfile(in_sets):
            return in_sets
        return super().anno_file

    @property
    def label_file(self) -> Optional[str]:
        """The path of the label list, None if it does not exist."""
        path = self._path(self.label_list or "")
        return path if os.path.isfile(path) else None

    def _classes(self, entries: list[Entry], annotations: list[Annotation]) -> tuple[list[str], str]:
        """Return the class names and a description of their source."""
        if self.label_file:
            return read_label_list(self.label_file), self.label_file
        found = {item.name for annotation in annotations for item in annotation.objects}
        if not self.label_list and found <= set(VOC_NAMES):
            return list(VOC_NAMES), "VOC's own"
        names = sorted(found | class_names_in({os.path.dirname(entry.xml) for entry in entries}))
        missing = self._path(self.label_list) if self.label_list else "label_list"
        return names, f"no {missing}: the names found, sorted"


def class_names_in(folders: set[str]) -> set[str]:
    """Return the class names in all XML files of the given folders."""
    files = (entry.path for folder in folders for entry in os.scandir(folder) if entry.name.endswith(".xml"))
    return {item.name for file in files for item in read_xml(file).objects}


def read_set(path: str, folder: str) -> list[Entry]:
    """Read a set file. Returns paths in `folder`; the files need not exist."""
    entries = []
    for number, line in read_lines(path):
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
    """Return the existing image with this path except for its suffix, or else the path with .jpg."""
    suffixes = [suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper())]
    return next((stem + suffix for suffix in suffixes if os.path.isfile(stem + suffix)), stem + ".jpg")


def read_xml(path: str) -> Annotation:
    """Read one VOC annotation file. Objects without <bndbox> are ignored."""
    require_file(path, "every listed image needs an XML file; write one, or remove the image from the list")
    try:
        with files_checked(path, "read"):
            root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        raise UserError(f"{path} is not valid XML ({error}): if it is truncated, create it again") from None
    objects = []
    for item in root.findall("object"):
        if item.find("bndbox") is not None:
            x1, y1, x2, y2 = (_number(item, f"bndbox/{side}", path) for side in ("xmin", "ymin", "xmax", "ymax"))
            name = (item.findtext("name") or "").strip()
            if not is_text(name) or x1 is None or y1 is None or x2 is None or y2 is None:
                raise UserError(f"{path}: object {name[:40]!r} needs <name>, <xmin>, <ymin>, <xmax> and <ymax>")
            difficult, crowd = (bool(_number(item, flag, path)) for flag in ("difficult", "iscrowd"))
            objects.append(Object(name, (x1, y1, x2, y2), difficult, crowd))
    number = (root.findtext("id") or "").strip()
    width, height = _number(root, "size/width", path), _number(root, "size/height", path)
    return Annotation(width, height, int(number) if re.fullmatch("[0-9]{1,18}", number) else None, objects)


def _number(element: ElementTree.Element, tag: str, path: str) -> Optional[float]:
    """Return the number in a descendant element, None if there is no such element."""
    text = element.findtext(tag)
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
        if abs(number) < MAX_NUMBER:
            return number
    except ValueError:
        pass
    raise UserError(f"{path}: <{tag.split('/')[-1]}> is {text.strip()[:40]!r}: write a number")


def _size(annotation: Annotation, entry: Entry) -> tuple[float, float]:
    """Return height and width from the XML file, or, if it has none, from the image."""
    if annotation.width and annotation.height and min(annotation.width, annotation.height) > 0:
        return annotation.height, annotation.width
    return image_size(entry.image)


def _image_ids(annotations: list[Annotation]) -> np.ndarray:
    ids = [annotation.id for annotation in annotations if annotation.id is not None]
    return np.array(ids, np.int64) if len(set(ids)) == len(annotations) else np.arange(len(annotations))
