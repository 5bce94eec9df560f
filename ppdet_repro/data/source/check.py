"""Statistics of a dataset and all that its reading finds, not only the first mistake. I images, N boxes."""

from __future__ import annotations

import copy
import math
import os
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Union

import numpy as np
from tqdm import tqdm

from ppdet_repro.data.source.base import ImageTable, Source, count
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.dataset_files import DatasetFiles, open_dataset
from ppdet_repro.data.source.files import MAX_LINE
from ppdet_repro.data.source.findings import DOUBTFUL, ODD, REFUSED, SETTING, Findings
from ppdet_repro.data.source.paired import PairedDataSet
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.data.transform.decode import NO_END, ImageError, image_size, read_decoded
from ppdet_repro.utils.errors import UserError

SIDES = (0, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)  # lower limits of the histogram's bins in pixels
SCALES = ((32.0, "small"), (96.0, "medium"), (math.inf, "large"))  # COCO's upper limits in pixels
FIELDS = ["image", "gt_bbox", "gt_class", "is_crowd", "difficult"]
BAR = 40  # characters in the longest bar of the histogram


class Problem(NamedTuple):
    """A mistake in a dataset."""

    kind: str  # a description that is the same for all mistakes of this kind, and a key in JSON reports
    where: str  # which entry or file is wrong
    effect: str = DOUBTFUL  # what training and evaluation do: see `findings`
    fix: str = ""  # how to mend it, for what they refuse


@dataclass(frozen=True)
class Report:
    """The result of a check. Boxes are counted if training can use them, and crowd regions."""

    file: str
    images: int
    empty_images: int
    boxes: int
    crowd: int  # boxes that are crowd regions
    classes: dict[str, tuple[int, int]]  # name -> number of boxes, number of images that contain the class
    scales: dict[str, int]  # "small", "medium", "large" -> number of boxes
    histogram: dict[int, int]  # lower limit of a bin (see `SIDES`) -> number of boxes, by the square root of their area
    problems: list[Problem]
    notes: list[Problem]  # what is odd, but read as it is meant

    @property
    def refused(self) -> bool:
        """Whether training and evaluation refuse the dataset."""
        return any(problem.effect == REFUSED for problem in self.problems)

    def as_dict(self) -> dict:
        """Return the report in the form of a JSON file."""
        return {
            **vars(self),
            "classes": {name: {"boxes": b, "images": i} for name, (b, i) in self.classes.items()},
            "histogram": [{"side_from": side, "boxes": boxes} for side, boxes in self.histogram.items()],
            "problem_counts": dict(Counter(problem.kind for problem in self.problems)),
            "problems": [problem._asdict() for problem in self.problems],
            "notes": [note._asdict() for note in self.notes],
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
        number = len(self.problems)
        yield f"{count(number, 'problem')}:" if number else "no problems"
        yield from _listing(self.problems, examples)
        if self.notes:
            yield "odd, but clear:"
            yield from _listing(self.notes, examples)


def _listing(problems: list[Problem], examples: int) -> Iterator[str]:
    """The kinds of problems with their number, the most frequent first, and so many examples of each."""
    for (kind, effect), number in Counter((problem.kind, problem.effect) for problem in problems).most_common():
        yield f"  {kind} ({number:,}{'' if effect in (DOUBTFUL, ODD) else ', ' + effect})"
        locations = [problem.where for problem in problems if problem.kind == kind]
        yield from (f"    {where}" for where in locations[:examples])
        if number > examples:
            yield f"    and {number - examples:,} more"
        fix = next((problem.fix for problem in problems if problem.kind == kind and problem.fix), "")
        if fix:
            yield f"    fix: {fix}"


def check(dataset: Union[DatasetFiles, Source], decode: bool = False) -> Report:
    """Check a dataset: read it as training does, and list everything that this reading finds.

    With `decode`, every image is decoded, in order to find damaged ones, instead of reading only its header. UserError
    if the annotation file itself cannot be read.
    """
    source = open_dataset(dataset, FIELDS) if isinstance(dataset, DatasetFiles) else copy.copy(dataset)
    if not isinstance(source, (COCODataSet, VOCDataSet, PairedDataSet)):
        raise UserError(f"{type(source).__name__} has no annotations that can be checked")
    if isinstance(source, COCODataSet):
        source.load_crowd = True
    findings = Findings(collect=True)
    table = source.scan(findings)
    findings.prefix = ""
    images_of = np.repeat(np.arange(len(table.files)), np.diff(table.starts))  # [N]
    if not len(images_of) and not any(finding.effect == REFUSED for finding in findings.found):
        fix = "training and evaluation need some"
        findings.refuse("no box", [source.anno_file], lambda path: f"{path}: there is no box that can be used", fix)
    _check_files(table, source.image_folder, decode, findings)
    _find_repeated(table, images_of, source, findings)
    return _report(source, table, images_of, findings)


def _check_files(table: ImageTable, folder: str, decode: bool, findings: Findings) -> None:
    """Check that the image files are readable and have the sizes that the annotations give."""
    for i, file in enumerate(
        tqdm(table.files, "decoding", unit="image", disable=None if decode else True, leave=False)
    ):
        if not os.path.isfile(file) or table.sizes is None or np.isnan(table.sizes[i]).any():
            continue  # the reading has found that
        where = f"image id {table.ids[i]} ({os.path.relpath(file, folder or '.')})"
        try:
            decoded = read_decoded(file) if decode else None
            height, width = image_size(file) if decoded is None else decoded.image.shape[:2]
        except (UserError, ImageError) as error:
            findings.report(REFUSED, "file that is no readable image", [f"{where}: {error}"], str)
            continue
        for remark in decoded.remarks if decoded else ():
            findings.report(ODD if remark == NO_END else DOUBTFUL, f"file with {remark}", [where], str)
        given = table.sizes[i]
        if tuple(given) != (height, width):
            sizes = f"{given[1]:g} x {given[0]:g}, the file has {width} x {height}"
            findings.report(DOUBTFUL, "size differs from the file's", [f"{where}: {sizes}"], str)


def _find_repeated(table: ImageTable, images_of: np.ndarray, source: Source, findings: Findings) -> None:
    """Find boxes that are the same as another one of their image and class."""
    boxes, classes = np.asarray(table.columns["gt_bbox"]), np.asarray(table.columns["gt_class"])
    rows = np.concatenate([images_of[:, None], classes, boxes], axis=1)
    _, first = np.unique(rows, axis=0, return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False

    def where(row: int) -> str:
        image, name = images_of[row], source.class_names[int(classes[row, 0])]
        file = os.path.relpath(table.files[image], source.image_folder or ".")
        return f"image id {table.ids[image]} ({file}): {name}, x1, y1, x2, y2 {boxes[row].tolist()}"

    findings.report(DOUBTFUL, "annotation repeated", np.flatnonzero(again), where)


def _report(source: Source, table: ImageTable, images_of: np.ndarray, findings: Findings) -> Report:
    columns = {name: np.asarray(table.columns[name]).reshape(-1) for name in ("gt_class", "is_crowd", "area")}
    classes, crowd = columns["gt_class"], columns["is_crowd"].astype(bool)
    scales = dict.fromkeys((name for _, name in SCALES), 0)
    histogram = dict.fromkeys(SIDES, 0)
    for side in np.sqrt(columns["area"][~crowd]).tolist():
        scales[next(name for limit, name in SCALES if side < limit or limit == math.inf)] += 1
        histogram[SIDES[bisect_right(SIDES, side) - 1]] += 1
    boxes_of, images = Counter(classes.tolist()), set(zip(images_of.tolist(), classes.tolist()))
    images_with = Counter(label for _, label in images)
    uses = Counter(source.class_names)
    names = [name if uses[name] == 1 else f"{name} ({i})" for i, name in enumerate(source.class_names)]
    found = [Problem(f.kind, f.where[:MAX_LINE], f.effect, f.fix) for f in findings.found if f.effect != SETTING]
    return Report(
        file=source.anno_file,
        images=len(table.files),
        empty_images=int((np.diff(table.starts) == 0).sum()),
        boxes=len(classes),
        crowd=int(crowd.sum()),
        classes={name: (boxes_of[label], images_with[label]) for label, name in enumerate(names)},
        scales=scales,
        histogram=histogram,
        problems=[problem for problem in found if problem.effect != ODD],
        notes=[problem for problem in found if problem.effect == ODD],
    )
