"""Pascal VOC datasets: one XML file per image, and a text file that lists the images. I images, N objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.source.base import Column, ImageTable, Source, starts_of
from ppdet_repro.data.source.categories import VOC_NAMES
from ppdet_repro.data.source.coco import SLACK
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, Findings
from ppdet_repro.data.source.image_search import fix_of_missing
from ppdet_repro.data.source.text import read_label_list
from ppdet_repro.data.source.voc_files import (
    NO_ANNOTATION,
    SETS,
    Annotation,
    Entry,
    Object,
    class_names_in,
    read_set,
    read_xml,
)
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.utils.errors import UserError


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
            they are the 20 classes of VOC, provided that no other names occur. A leading "background" is no class,
            unless an XML file of these folders has objects with this name.
        data_fields: May contain gt_bbox, gt_class, difficult, is_crowd (zeros) and gt_score (ones). With "image" alone
            or no data_fields, XML files need not exist, as in VOC 2012's test set.

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

    def scan(self, findings: Findings) -> ImageTable:
        voc = self.read_voc(findings)
        self._names, self._source_of_names = voc.names, f" ({voc.source_of_names})"
        kept, inside = voc.kept, voc.inside
        columns: dict[str, Column] = {
            "gt_bbox": inside[kept].astype(np.float32),
            "gt_class": voc.class_of[kept, None].astype(np.int32),
            "difficult": np.array([o.difficult for o in voc.objects], dtype=np.int32)[kept, None],
            "is_crowd": np.zeros((kept.sum(), 1), dtype=np.int32),
            "gt_score": np.ones((kept.sum(), 1), dtype=np.float32),
            "area": (inside[kept, 2:] - inside[kept, :2]).prod(1),
        }
        starts = starts_of(np.bincount(voc.image_of[kept], minlength=len(voc.entries)))
        ids = own_ids(voc.annotations)
        ids = np.arange(len(voc.entries)) if ids is None else ids
        return ImageTable([e.image for e in voc.entries], ids, voc.sizes, starts, columns)

    def read_voc(self, findings: Findings) -> VocSet:
        """Read the files of the set, and choose the objects that can be used."""
        path = self.anno_file
        entries = read_set(path, self.image_folder, findings)
        if not entries:
            raise UserError(f"{path} lists no image: write one per line")
        missing = [entry for entry in entries if not os.path.isfile(entry.image)]
        names = [os.path.relpath(entry.image, self.image_folder or ".") for entry in missing]
        findings.refuse(
            "file missing",
            missing,
            lambda entry: f"{path}: line {entry.line}: {entry.image} does not exist",
            fix_of_missing(path, names, "line") if missing else "",
        )
        if findings.collect:
            report_lines_twice(path, entries, findings)
        self._no_annotations = ""
        if self.data_fields in (None, ["image"]) and not any(os.path.isfile(entry.xml) for entry in entries):
            self._no_annotations = f"{path}: {entries[0].xml} and the other XML files do not exist"
        annotations = [NO_ANNOTATION] * len(entries)
        for i, entry in enumerate([] if self._no_annotations else entries):
            with findings.refusals("annotation file that cannot be used"):
                annotations[i] = read_xml(entry.xml, findings)
        names, source_of_names = self._classes(entries, annotations, findings)
        sizes = image_sizes(entries, annotations, findings)
        return choose(entries, annotations, sizes, names, source_of_names, findings)

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

    def _classes(
        self, entries: list[Entry], annotations: list[Annotation], findings: Findings
    ) -> tuple[list[str], str]:
        """Return the class names and a description of their source."""
        found = {item.name for annotation in annotations for item in annotation.objects}
        folders, read = {os.path.dirname(entry.xml) for entry in entries}, {entry.xml for entry in entries}
        if self.label_file:
            names = read_label_list(self.label_file, background=True)
            if names[0] == "background" and "background" not in found | class_names_in(folders, read, findings):
                names = read_label_list(self.label_file)
            return names, self.label_file
        if not self.label_list and found <= set(VOC_NAMES):
            return list(VOC_NAMES), "VOC's own"
        names = sorted(found | class_names_in(folders, read, findings))
        missing = self._path(self.label_list) if self.label_list else "label_list"
        return names, f"no {missing}: the names found, sorted"


class VocSet(NamedTuple):
    """The files of a set, and what they contain."""

    entries: list[Entry]  # I
    annotations: list[Annotation]  # I
    sizes: np.ndarray  # [I, 2] float64, height and width
    names: list[str]  # of the classes
    source_of_names: str
    objects: list[Object]  # N
    image_of: np.ndarray  # [N] indices of images
    class_of: np.ndarray  # [N]
    inside: np.ndarray  # [N, 4] float64; the boxes, clipped to their image
    kept: np.ndarray  # [N] bool; the objects that can be used


def choose(
    entries: list[Entry],
    annotations: list[Annotation],
    sizes: np.ndarray,
    names: list[str],
    source_of_names: str,
    findings: Findings,
) -> VocSet:
    """Choose the objects that can be used: those that have a known class, and an area inside their image."""
    objects = [o for annotation in annotations for o in annotation.objects]
    image_of = np.repeat(np.arange(len(entries)), [len(a.objects) for a in annotations])
    number_of = {name: index for index, name in enumerate(names)}
    class_of = np.array([number_of.get(o.name, -1) for o in objects], dtype=np.int64)
    boxes = np.array([o.box for o in objects], dtype=np.float64).reshape(-1, 4)
    limit = np.where(np.isnan(sizes), np.inf, sizes)[image_of][:, ::-1]  # [N, 2] w, h
    inside = np.concatenate([boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], limit - 1)], axis=1)  # [N, 4]
    kept = (inside[:, 2:] > inside[:, :2]).all(1)
    flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    reaching = kept & ((boxes[:, :2] < -SLACK) | (boxes[:, 2:] > limit + SLACK)).any(1)
    known = class_of >= 0

    def where(row: int) -> str:
        width, height = limit[row]
        name, box = objects[row].name, [float(f"{side:g}") for side in objects[row].box]
        return f"{entries[image_of[row]].xml}: {name}, x1, y1, x2, y2 {box}, image {width:g} x {height:g}"

    findings.refuse(
        "annotation of an unknown category",
        np.flatnonzero(~known),
        lambda row: f"{entries[image_of[row]].xml}: class {objects[row].name!r} is not in {source_of_names}",
        "add it there or rename it",
    )
    for effect, kind, rows in (
        (LEFT_OUT, "box without area or inverted", flat),
        (LEFT_OUT, "box outside its image", ~kept & ~flat),
        (DOUBTFUL, "box that reaches outside its image", reaching),
    ):
        findings.report(effect, kind, np.flatnonzero(rows & known), where)
    kept &= known
    return VocSet(entries, annotations, sizes, names, source_of_names, objects, image_of, class_of, inside, kept)


def image_sizes(entries: Sequence[Entry], annotations: Sequence[Annotation], findings: Findings) -> np.ndarray:
    """Return height and width of each image [I, 2], from the XML file, or, if it has none, from the image."""
    sizes = np.array([(a.height or np.nan, a.width or np.nan) for a in annotations], dtype=np.float64)
    missing = np.flatnonzero(np.isnan(sizes[:, 0]))
    for i in missing:
        if os.path.isfile(entries[i].image):
            with findings.refusals("file that is no readable image"):
                sizes[i] = image_size(entries[i].image)
    read = [i for i in missing if annotations[i] is not NO_ANNOTATION]
    findings.report(ODD, "image without a size, which its file has", read, lambda i: entries[i].xml)
    return sizes


def report_lines_twice(path: str, entries: Sequence[Entry], findings: Findings) -> None:
    """Report lines whose image another line has already."""
    first: dict[str, int] = {}
    again = [(e.line, line) for e in entries if (line := first.setdefault(os.path.normpath(e.image), e.line)) != e.line]
    findings.report(DOUBTFUL, "file listed twice", again, lambda pair: f"{path}:{pair[0]}: also in line {pair[1]}")


def own_ids(annotations: Sequence[Annotation]) -> Optional[np.ndarray]:
    """The <id> of the XML files [I] int64, if all have different ones."""
    ids = [annotation.id for annotation in annotations if annotation.id is not None]
    return np.array(ids, np.int64) if len(set(ids)) == len(annotations) else None
