"""Datasets in which every picture has a label file of its own: VOC's XML, YOLO's text, labelme's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np

from ppdet_repro.data.source.base import ImageTable, Source, starts_of
from ppdet_repro.data.source.coco import MIN_SIDE, SLACK
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, Findings
from ppdet_repro.data.source.labelled import Labelled, Picture, from_voc
from ppdet_repro.data.source.labelme_files import read_labelme
from ppdet_repro.data.source.text import read_label_list
from ppdet_repro.data.source.values import MAX_NUMBER
from ppdet_repro.data.source.voc import choose, image_sizes
from ppdet_repro.data.source.voc_files import NO_ANNOTATION, Entry, Object, read_xml
from ppdet_repro.data.source.yolo_files import read_class_names, read_objects
from ppdet_repro.data.transform.decode import image_size

UNREADABLE = "file that is no readable image"
Pairs = Sequence[tuple[str, str]]


class PairedDataSet(Source):
    """Pictures with a label file each. Configs do not name it: `data convert` and `init` write COCO files from it.

    Args:
        form: "voc", "yolo" or "labelme".
        pairs: The paths of pictures and of their label files; "" if a picture has none, and so no objects.
        place: What errors and reports call the dataset.
        image_folder: The folder that names in reports are relative to.
        label_list: The class names: a text file, or YOLO's data.yaml. By default, the names found, sorted.
        data_fields: Entries of the records.
    """

    def __init__(
        self,
        form: str,
        pairs: Pairs,
        place: str,
        image_folder: str,
        label_list: Optional[str],
        data_fields: Optional[Sequence[str]],
    ):
        super().__init__(None, image_folder, place, data_fields, -1, 1)
        self.form, self.pairs, self.label_list = form, pairs, label_list

    @property
    def anno_file(self) -> str:
        return self.anno_path or ""

    def scan(self, findings: Findings) -> ImageTable:
        found = self.read_labelled(findings)
        self._names = found.names
        self._source_of_names = f" ({self.label_list or 'the names found, sorted'})"
        number_of = {name: index for index, name in enumerate(found.names)}
        objects = [item for picture in found.pictures for item in picture.objects]
        boxes = np.array([item.box for item in objects], np.float64).reshape(-1, 4)
        columns = {
            "gt_bbox": boxes.round(3).astype(np.float32),
            "gt_class": np.array([number_of[item.name] for item in objects], np.int32)[:, None],
            "difficult": np.array([item.difficult for item in objects], np.int32)[:, None],
            "is_crowd": np.array([item.crowd for item in objects], np.int32)[:, None],
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        }
        sizes = np.array([(p.height, p.width) for p in found.pictures], np.float64).reshape(-1, 2)
        starts = starts_of(np.array([len(picture.objects) for picture in found.pictures], np.int64))
        files = [picture.file for picture in found.pictures]
        return ImageTable(files, np.arange(len(files)), sizes, starts, dict(columns))

    def read_labelled(self, findings: Findings) -> Labelled:
        """Read the label files, and choose the objects that can be used."""
        return {"voc": self._read_voc, "yolo": self._read_yolo, "labelme": self._read_labelme}[self.form](findings)

    def _read_voc(self, findings: Findings) -> Labelled:
        entries = [Entry(image, label) for image, label in self.pairs]
        annotations = [NO_ANNOTATION] * len(entries)
        for i, entry in enumerate(entries):
            with findings.refusals("annotation file that cannot be used"):
                annotations[i] = read_xml(entry.xml, findings) if entry.xml else NO_ANNOTATION
        names = sorted({item.name for annotation in annotations for item in annotation.objects})
        if self.label_list:
            names = read_label_list(self.label_list, background="background" in names)
        sizes = image_sizes(entries, annotations, findings)
        return from_voc(choose(entries, annotations, sizes, names, self.label_list or "the names found", findings))

    def _read_yolo(self, findings: Findings) -> Labelled:
        class_list = self.label_list or ""
        names = read_class_names(class_list)
        pictures = []
        for image, label in self.pairs:
            width, height = self._size(image, findings)
            objects = read_objects(label, width, height, names, class_list, findings) if label else []
            pictures.append(Picture(image, width, height, usable(objects, width, height, label, findings)))
        return Labelled(names, pictures)

    def _read_labelme(self, findings: Findings) -> Labelled:
        names = read_label_list(self.label_list) if self.label_list else []
        pictures = []
        for image, label in self.pairs:
            with findings.refusals("annotation file that cannot be used"):
                file = read_labelme(label, findings)
                width, height = file.width, file.height
                if width is None or height is None:
                    width, height = self._size(image, findings)
                objects = usable(file.objects, width, height, label, findings)
                pictures.append(Picture(image, width, height, self._known(objects, names, label, findings)))
        return Labelled(names or sorted({item.name for one in pictures for item in one.objects}), pictures)

    def _known(self, objects: list[Object], names: list[str], label: str, findings: Findings) -> list[Object]:
        """Refuse objects whose class is not in the list of names, if there is one."""
        unknown = [item for item in objects if names and item.name not in names]
        findings.refuse(
            "annotation of an unknown category",
            unknown,
            lambda item: f"{label}: class {item.name!r} is not in {self.label_list}",
            "add it there or rename it",
        )
        return [item for item in objects if item not in unknown] if unknown else objects

    def _size(self, image: str, findings: Findings) -> tuple[float, float]:
        """Return width and height of a picture, NaN if it cannot be read."""
        height = width = float("nan")
        with findings.refusals(UNREADABLE):
            height, width = image_size(image)
        return width, height


def usable(objects: list[Object], width: float, height: float, label: str, findings: Findings) -> list[Object]:
    """Choose the objects of a label file that have an area inside their picture, by the rules for COCO files."""
    kept = []
    for item in objects:
        x1, y1, x2, y2 = item.box
        where = f"{label}: {item.name}, x1, y1, x2, y2 {list(item.box)}, image {width:g} x {height:g}"
        if not (max(map(abs, item.box)) < MAX_NUMBER and min(x2 - x1, y2 - y1) > MIN_SIDE):
            findings.report(LEFT_OUT, "box without area or inverted", [where], str)
        elif x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            findings.report(LEFT_OUT, "box outside its image", [where], str)
        else:
            if min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
                findings.report(DOUBTFUL, "box that reaches outside its image", [where], str)
            kept.append(item)
    return kept
