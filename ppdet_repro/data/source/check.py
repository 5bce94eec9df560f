"""Statistics of a dataset and all of its mistakes, not only the first one."""

from __future__ import annotations

import math
import os
import reprlib
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.coco import is_int, is_number, read_coco
from ppdet_repro.data.source.convert import coco_from_voc
from ppdet_repro.data.source.dataset_files import DatasetFiles
from ppdet_repro.data.source.files import MAX_LINE, is_text, path_inside, read_label_list
from ppdet_repro.data.source.voc import read_set, read_xml
from ppdet_repro.data.transform.decode import ImageError, image_size, read_image
from ppdet_repro.utils.errors import UserError

SIDES = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)  # lower limits of the histogram's bins in pixels
SCALES = ((32.0, "small"), (96.0, "medium"), (math.inf, "large"))  # COCO's upper limits in pixels
SLACK = 0.5  # pixels that a box may extend beyond its image without being a problem, because of rounding
BAR = 40  # characters in the longest bar of the histogram


class Problem(NamedTuple):
    """A mistake in a dataset."""

    kind: str  # a description that is the same for all mistakes of this kind, and a key in JSON reports
    where: str  # which entry or file is wrong


@dataclass(frozen=True)
class Report:
    """The result of a check. Boxes are counted if they have an area, a known class and a known image."""

    file: str
    images: int
    empty_images: int
    boxes: int
    crowd: int  # boxes that are crowd regions
    classes: dict[str, tuple[int, int]]  # name -> number of boxes, number of images that contain the class
    scales: dict[str, int]  # "small", "medium", "large" -> number of boxes
    histogram: dict[int, int]  # lower limit of a bin (see `SIDES`) -> number of boxes, by the square root of their area
    problems: list[Problem]

    def as_dict(self) -> dict:
        """Return the report in the form of a JSON file."""
        return {
            **vars(self),
            "classes": {name: {"boxes": b, "images": i} for name, (b, i) in self.classes.items()},
            "histogram": [{"side_from": side, "boxes": boxes} for side, boxes in self.histogram.items()],
            "problem_counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem._asdict() for problem in self.problems],
        }

    def text(self, examples: int = 5) -> str:
        """Format the report for a terminal, with at most `examples` of each kind of problem."""
        parts = self._header(), self._class_table(), self._histogram_lines(), self._problem_lines(examples)
        return "\n\n".join("\n".join(part) for part in parts)

    def _header(self) -> Iterator[str]:
        yield (
            f"{self.file}: {count(self.images, 'image')} ({self.empty_images:,} without boxes), "
            f"{count(self.boxes, 'box', 'boxes')} ({self.crowd:,} crowd) of "
            f"{count(len(self.classes), 'class', 'classes')}"
        )

    def _class_table(self) -> Iterator[str]:
        used = {name: numbers for name, numbers in self.classes.items() if numbers[0]}
        width = max(map(len, [*used, "class"]))
        yield f"{'class':{width}}  {'boxes':>8} {'images':>8}"
        for name, (boxes, images) in sorted(used.items(), key=lambda entry: -entry[1][0]):
            yield f"{name:{width}}  {boxes:8,} {images:8,}"
        unused = [name for name in self.classes if name not in used]
        if unused:
            yield textwrap.fill(f"no boxes: {', '.join(unused)}", 100)

    def _histogram_lines(self) -> Iterator[str]:
        sizes = ", ".join(f"{number:,} {name}" for name, number in self.scales.items())
        yield f"square root of the area in pixels ({sizes})"
        most = max(1, *self.histogram.values())
        for side, above in zip(SIDES, (*SIDES[1:], None)):
            boxes = self.histogram[side]
            label = f"{side}-{above}" if above else f"{side}+"
            bar = "#" * math.ceil(BAR * boxes / most)
            yield f"{label:>8} {boxes:8,} {bar}".rstrip()

    def _problem_lines(self, examples: int) -> Iterator[str]:
        if not self.problems:
            yield "no problems"
            return
        yield f"{count(len(self.problems), 'problem')}:"
        for kind, number in Counter(problem.kind for problem in self.problems).most_common():
            yield f"  {kind} ({number:,})"
            locations = [problem.where for problem in self.problems if problem.kind == kind]
            yield from (f"    {where}" for where in locations[:examples])
            if number > examples:
                yield f"    and {number - examples:,} more"


def _key(value: Any) -> Any:
    """An id that can be looked up; a list or an object is not found, but is written in the report."""
    return reprlib.repr(value) if isinstance(value, (list, dict)) else value


def check(dataset: DatasetFiles, decode: bool = False) -> Report:
    """Check a dataset. UserError if the annotation file itself cannot be read.

    With `decode`, every image is decoded, in order to find damaged ones, instead of reading only its header.
    """
    checker = _Checker(dataset, decode)
    document = read_coco(dataset.anno_file) if dataset.is_coco else checker.voc_document()
    names = checker.categories(document["categories"])
    images = checker.images(document["images"])
    boxes = list(checker.boxes(document.get("annotations", []), images, names))

    scales = dict.fromkeys((name for _, name in SCALES), 0)
    histogram = dict.fromkeys(SIDES, 0)
    for side in (math.sqrt(box.area) for box in boxes if not box.crowd):
        scales[next(name for limit, name in SCALES if side < limit)] += 1
        histogram[SIDES[bisect_right(SIDES, side) - 1]] += 1
    boxes_of = Counter(box.category for box in boxes)
    images_of = Counter(category for _, category in {(box.image, box.category) for box in boxes})
    return Report(
        file=dataset.anno_file,
        images=len(document["images"]),
        empty_images=len(set(images) - {box.image for box in boxes}),
        boxes=len(boxes),
        crowd=sum(box.crowd for box in boxes),
        classes={name: (boxes_of[key], images_of[key]) for key, name in names.items()},
        scales=scales,
        histogram=histogram,
        problems=checker.problems,
    )


class _Box(NamedTuple):
    image: int
    category: int
    area: float
    crowd: bool


class _Image(NamedTuple):
    name: str
    width: float  # 0 if the annotations contain no size
    height: float


class _Checker:
    """Checks the parts of a dataset and collects the problems."""

    def __init__(self, dataset: DatasetFiles, decode: bool):
        self.dataset = dataset
        self.decode = decode
        self.problems: list[Problem] = []

    def add_problem(self, kind: str, where: str) -> None:
        self.problems.append(Problem(kind, where[:MAX_LINE]))

    def voc_document(self) -> dict:
        """Read a VOC set as a COCO document. Annotation files that cannot be read are left out."""
        pairs = []
        for entry in read_set(self.dataset.anno_file, self.dataset.image_folder):
            try:
                annotation = read_xml(entry.xml)
            except UserError as error:
                self.add_problem("annotation file that cannot be used", str(error))
            else:
                pairs.append((entry, annotation))
        names = read_label_list(self.dataset.label_file) if self.dataset.label_file else None
        return coco_from_voc(pairs, names, self.dataset.image_folder)

    def categories(self, categories: list[dict]) -> dict[int, str]:
        """Check the categories. Returns their names by id."""
        names: dict[int, str] = {}
        for position, category in enumerate(categories):
            key, name = category.get("id"), category.get("name")
            where = f"category id {key}: {name}"
            if not is_int(key) or not isinstance(name, str):
                self.add_problem("category without id or name", f"category number {position}")
            elif key in names:
                self.add_problem("category id used twice", f"{where}, {names[key]}")
            else:
                if name in names.values():
                    self.add_problem("category name used twice", where)
                names[key] = name
        return names

    def images(self, entries: list[dict]) -> dict[int, _Image]:
        """Check the images. Returns them by id."""
        images: dict[int, _Image] = {}
        first_use: dict[str, int] = {}
        for position, entry in enumerate(entries):
            key, name = entry.get("id"), entry.get("file_name")
            if not is_int(key) or not isinstance(name, str) or not is_text(name):
                self.add_problem("image without id or file name", f"image number {position}")
                continue
            where = f"image id {key} ({name})"
            if key in images:
                self.add_problem("image id used twice", where)
                continue
            other = first_use.setdefault(os.path.normpath(name), key)
            if other != key:
                self.add_problem("file listed twice", f"{where}, also image id {other}")
            size = entry.get("width"), entry.get("height")
            valid = all(is_number(side) and 0 < side < math.inf for side in size)
            if not valid:
                self.add_problem("image without a size", f"{where}: {reprlib.repr(size[0])} x {reprlib.repr(size[1])}")
            images[key] = _Image(name, *(size if valid else (0, 0)))
            self.check_file(images[key], where)
        return images

    def check_file(self, image: _Image, where: str) -> None:
        """Check that an image file is readable and has the size that its entry gives."""
        try:
            file = path_inside(self.dataset.image_folder, image.name, where)
        except UserError:
            self.add_problem("file outside the image folder", where)
            return
        if not os.path.isfile(file):
            self.add_problem("file missing", f"{where}: {file}")
            return
        try:
            height, width = read_image(file).shape[:2] if self.decode else image_size(file)
        except (UserError, ImageError) as error:
            self.add_problem("file that is no readable image", f"{where}: {error}")
            return
        if image.width and (image.width, image.height) != (width, height):
            sizes = f"{image.width:g} x {image.height:g}, the file has {width} x {height}"
            self.add_problem("size differs from the file's", f"{where}: {sizes}")

    def boxes(self, annotations: list[dict], images: dict[int, _Image], names: dict[int, str]) -> Iterator[_Box]:
        """Check the annotations. Yields the usable boxes."""
        ids: set = set()
        seen: set = set()
        for position, annotation in enumerate(annotations):
            key, image, category = (_key(annotation.get(name)) for name in ("id", "image_id", "category_id"))
            where = f"annotation number {position}" if key is None else f"annotation id {key}"
            where += f" of image id {image}" + (f" ({images[image].name})" if image in images else "")
            if key is not None and key in ids:
                self.add_problem("annotation id used twice", where)
            ids.add(key)
            if image not in images:
                self.add_problem("annotation of an unknown image", where)
            elif category not in names:
                self.add_problem("annotation of an unknown category", f"{where}: {reprlib.repr(category)}")
            elif self.is_usable(annotation.get("bbox"), images[image], where):
                box = annotation["bbox"]
                if (image, category, *box) in seen:
                    self.add_problem("annotation repeated", f"{where}: {names[category]} {box}")
                seen.add((image, category, *box))
                area = annotation.get("area")
                area = area if is_number(area) and 0 < area < math.inf else box[2] * box[3]
                yield _Box(image, category, area, bool(annotation.get("iscrowd", 0)))

    def is_usable(self, box: object, image: _Image, where: str) -> bool:
        """Check a box [x, y, w, h]. Returns whether it is usable."""
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            self.add_problem("annotation without a box", f"{where}: {reprlib.repr(box)}")
            return False
        where = f"{where}: x, y, w, h {box}, image {image.width:g} x {image.height:g}"
        x, y, w, h = box
        if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
            self.add_problem("box without area or inverted", where)
            return False
        width, height = image.width or math.inf, image.height or math.inf
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.add_problem("box outside its image", where)
            return False
        if min(x, y) < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
            self.add_problem("box that reaches outside its image", where)
        return True
