"""What a data set holds and what is wrong with it: everything, not only the first mistake."""

from __future__ import annotations

import math
import os
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ppdet_repro.data.source.base import count, path_inside, read_label_list
from ppdet_repro.data.source.coco import read_coco
from ppdet_repro.data.source.convert import coco_from_voc
from ppdet_repro.data.source.dataset_files import DatasetFiles
from ppdet_repro.data.source.voc import image_size, read_set, read_xml
from ppdet_repro.data.transform.decode import ImageError, read_image
from ppdet_repro.utils.errors import UserError

SIDES = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)  # px: where the histogram's bins start
SCALES = ((32.0, "small"), (96.0, "medium"), (math.inf, "large"))  # COCO's; up to this many px
SLACK = 0.5  # px that a box may reach over its image's border (rounding) without being a problem
BAR = 40  # letters of the histogram's longest bar

NO_BOX, NO_AREA = "annotation without a box", "box without area or inverted"
OUTSIDE, REACHING = "box outside its image", "box that reaches outside its image"


class Problem(NamedTuple):
    """One mistake: its kind, the same for all of a kind, and where it is."""

    kind: str
    where: str


@dataclass(frozen=True)
class Report:
    """What a check found. Boxes are counted where they have an area and a known class and image."""

    file: str
    images: int
    empty_images: int
    boxes: int
    crowd: int  # of the boxes
    classes: dict[str, tuple[int, int]]  # name -> boxes, images with one
    scales: dict[str, int]  # "small", "medium", "large" -> boxes
    histogram: dict[int, int]  # a side of `SIDES` -> boxes of at least that side (square root of area)
    problems: list[Problem]

    def as_dict(self) -> dict:
        """The report for a json file."""
        kinds = Counter(problem.kind for problem in self.problems)
        return {
            "file": self.file,
            "images": self.images,
            "empty_images": self.empty_images,
            "boxes": self.boxes,
            "crowd": self.crowd,
            "classes": {name: {"boxes": b, "images": i} for name, (b, i) in self.classes.items()},
            "scales": self.scales,
            "histogram": [{"side_from": side, "boxes": boxes} for side, boxes in self.histogram.items()],
            "problem_counts": dict(kinds),
            "problems": [problem._asdict() for problem in self.problems],
        }

    def text(self, examples: int = 5) -> str:
        """The report for a terminal, with so many examples of each kind of problem."""
        parts = self._header(), self._table(), self._bars(), self._problem_lines(examples)
        return "\n\n".join("\n".join(part) for part in parts)

    def _header(self) -> Iterator[str]:
        yield (
            f"{self.file}: {count(self.images, 'image')} ({self.empty_images:,} without boxes), "
            f"{count(self.boxes, 'box', 'boxes')} ({self.crowd:,} crowd) of "
            f"{count(len(self.classes), 'class', 'classes')}"
        )

    def _table(self) -> Iterator[str]:
        used = {name: numbers for name, numbers in self.classes.items() if numbers[0]}
        width = max(map(len, [*used, "class"]))
        yield f"{'class':{width}}  {'boxes':>8} {'images':>8}"
        for name, (boxes, images) in sorted(used.items(), key=lambda entry: -entry[1][0]):
            yield f"{name:{width}}  {boxes:8,} {images:8,}"
        unused = [name for name in self.classes if name not in used]
        if unused:
            yield textwrap.fill(f"no boxes: {', '.join(unused)}", 100)

    def _bars(self) -> Iterator[str]:
        sizes = ", ".join(f"{number:,} {name}" for name, number in self.scales.items())
        yield f"square root of the area, px ({sizes})"
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
            places = [problem.where for problem in self.problems if problem.kind == kind]
            yield from (f"    {where}" for where in places[:examples])
            if number > examples:
                yield f"    and {number - examples:,} more"


def check(dataset: DatasetFiles, decode: bool = False) -> Report:
    """Check a whole set. Raises `UserError` only if the annotation file itself cannot be read.

    decode: decode every image, which finds damaged ones, instead of reading their headers.
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
    """An image's file name, and its size by the annotations; 0 where they have none."""

    name: str
    width: float
    height: float


class _Checker:
    """Goes through a set's parts, collecting problems."""

    def __init__(self, dataset: DatasetFiles, decode: bool):
        self.dataset = dataset
        self.decode = decode
        self.problems: list[Problem] = []

    def note(self, kind: str, where: str) -> None:
        self.problems.append(Problem(kind, where))

    def voc_document(self) -> dict:
        """A VOC set as a COCO document, without the annotation files that cannot be read."""
        pairs = []
        for entry in read_set(self.dataset.anno_file, self.dataset.image_folder):
            try:
                annotation = read_xml(entry.xml)
            except UserError as error:
                self.note("annotation file that cannot be used", str(error))
            else:
                pairs.append((entry, annotation))
        names = read_label_list(self.dataset.label_file) if self.dataset.label_file else None
        return coco_from_voc(pairs, names, self.dataset.image_folder)

    def categories(self, categories: list[dict]) -> dict[int, str]:
        """Names by id."""
        names: dict[int, str] = {}
        for position, category in enumerate(categories):
            key, name = category.get("id"), category.get("name")
            where = f"category id {key}: {name}"
            if not isinstance(key, int) or not isinstance(name, str):
                self.note("category without id or name", f"category number {position}")
            elif key in names:
                self.note("category id used twice", f"{where}, {names[key]}")
            else:
                if name in names.values():
                    self.note("category name used twice", where)
                names[key] = name
        return names

    def images(self, entries: list[dict]) -> dict[int, _Image]:
        """The images by id."""
        images: dict[int, _Image] = {}
        first_use: dict[str, int] = {}
        for position, entry in enumerate(entries):
            key, name = entry.get("id"), entry.get("file_name")
            if not isinstance(key, int) or not isinstance(name, str) or not name:
                self.note("image without id or file name", f"image number {position}")
                continue
            where = f"image id {key} ({name})"
            if key in images:
                self.note("image id used twice", where)
                continue
            other = first_use.setdefault(os.path.normpath(name), key)
            if other != key:
                self.note("file listed twice", f"{where}, also image id {other}")
            size = entry.get("width"), entry.get("height")
            valid = all(isinstance(side, (int, float)) and side > 0 for side in size)
            if not valid:
                self.note("image without a size", f"{where}: {size[0]} x {size[1]}")
            images[key] = _Image(name, *(size if valid else (0, 0)))
            self.file(images[key], where)
        return images

    def file(self, image: _Image, where: str) -> None:
        """Compare an image entry with its file."""
        try:
            file = path_inside(self.dataset.image_folder, image.name, where)
        except UserError:
            self.note("file outside the image folder", where)
            return
        if not os.path.isfile(file):
            self.note("file missing", f"{where}: {file}")
            return
        try:
            height, width = read_image(file).shape[:2] if self.decode else image_size(file)
        except (UserError, ImageError) as error:
            self.note("file that is no readable image", f"{where}: {error}")
            return
        if image.width and (image.width, image.height) != (width, height):
            sizes = f"{image.width:g} x {image.height:g}, the file has {width} x {height}"
            self.note("size differs from the file's", f"{where}: {sizes}")

    def boxes(self, annotations: list[dict], images: dict[int, _Image], names: dict[int, str]) -> Iterator[_Box]:
        """The boxes that are usable."""
        ids: set = set()
        seen: set = set()
        for position, annotation in enumerate(annotations):
            key, image, category = (annotation.get(name) for name in ("id", "image_id", "category_id"))
            where = f"annotation number {position}" if key is None else f"annotation id {key}"
            where += f" of image id {image}" + (f" ({images[image].name})" if image in images else "")
            if key is not None and key in ids:
                self.note("annotation id used twice", where)
            ids.add(key)
            if image not in images:
                self.note("annotation of an unknown image", where)
            elif category not in names:
                self.note("annotation of an unknown category", f"{where}: {category!r}")
            elif self.box(annotation.get("bbox"), images[image], where):
                box = annotation["bbox"]
                if (image, category, *box) in seen:
                    self.note("annotation repeated", f"{where}: {names[category]} {box}")
                seen.add((image, category, *box))
                area = annotation.get("area")
                area = area if isinstance(area, (int, float)) and area > 0 else box[2] * box[3]
                yield _Box(image, category, area, bool(annotation.get("iscrowd", 0)))

    def box(self, box: object, image: _Image, where: str) -> bool:
        """Whether a box [x, y, w, h] is usable."""
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            self.note(NO_BOX, f"{where}: {box!r}")
            return False
        where = f"{where}: x, y, w, h {box}, image {image.width:g} x {image.height:g}"
        x, y, w, h = box
        if not (w > 0 and h > 0 and math.isfinite(x + y + w + h)):
            self.note(NO_AREA, where)
            return False
        width, height = image.width or math.inf, image.height or math.inf
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            self.note(OUTSIDE, where)
            return False
        if min(x, y) < -SLACK or x + w > width + SLACK or y + h > height + SLACK:
            self.note(REACHING, where)
        return True
