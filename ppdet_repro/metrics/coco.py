"""COCO's average precision of boxes: the numbers of pycocotools, computed by faster-coco-eval where it is installed."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ppdet_repro.data.source.coco_file import read_coco
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.values import MAX_NUMBER
from ppdet_repro.metrics.detections import Document, Rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

SUMMARY = (
    "bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l",
    "bbox_AR_1", "bbox_AR_10", "bbox_AR_100", "bbox_AR_s", "bbox_AR_m", "bbox_AR_l",
)  # fmt: skip
SIZES = ("small", "medium", "large")


class ClassScore(NamedTuple):
    """The scores of one class."""

    name: str
    objects: int  # without crowds
    ap: Optional[float]  # over all IoU thresholds; None if there are no objects
    ap50: Optional[float]  # at IoU 0.5


class COCOScores(NamedTuple):
    """The result of an evaluation."""

    summary: Dict[str, float]  # the twelve numbers of pycocotools by name; -1 if there are no objects of that size
    classes: List[ClassScore]  # in the order of the category ids

    def values(self) -> Dict[str, float]:
        """The summary and the `bbox_AP/<class>` of each class that has objects."""
        per_class = {f"bbox_AP/{c.name}": c.ap for c in self.classes if c.ap is not None}
        return {**self.summary, **per_class}

    def table(self) -> str:
        """The summary as text: AP by IoU threshold and size, recall by limit and size."""
        shown = [None if value < 0 else value for value in self.summary.values()]
        precision = text_table(["COCO", "all", "IoU .50", "IoU .75", *SIZES], [["AP", *shown[:6]]])
        recall = text_table(["COCO", "1 box", "10 boxes", "100", *SIZES], [["recall", *shown[6:]]])
        return f"{precision}\n\n{recall}"

    def class_table(self) -> str:
        """Objects, AP and AP50 per class as text."""
        return text_table(["class", "objects", "AP", "AP50"], self.classes)


def load_coco_json(path: Union[str, Path]) -> Document:
    """Read a COCO annotation file for evaluation, as `COCODataSet` reads it for training.

    Annotations are numbered anew: their ids mean nothing, but 0 means "not found" in COCO's evaluation, and of two
    annotations with the same id it knows one. Annotations without a box, or with one that is not finite or over 1e9
    pixels, are dropped. As in COCO's evaluation, boxes without area or outside their image count, and `ignore` means
    nothing. UserError if the file is missing or is not in COCO's format.
    """
    file = read_coco(str(path), Findings(f"{path}: "))
    a = file.annotations
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero((np.abs(a.xywh) < MAX_NUMBER).all(1))
    columns = (
        range(1, len(rows) + 1),
        file.images.ids[a.image_of[rows]].tolist(),
        np.array(file.category_ids)[a.class_of[rows]].tolist(),
        a.xywh[rows].tolist(),
        a.areas[rows].tolist(),
        a.crowd[rows].astype(int).tolist(),
    )
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    return {
        "images": [{"id": i, "file_name": name} for i, name in zip(file.images.ids.tolist(), file.images.names)],
        "annotations": [dict(zip(keys, values)) for values in zip(*columns)],
        "categories": [{"id": i, "name": name} for i, name in zip(file.category_ids, file.names)],
    }


def evaluate_coco(
    truth: Document, rows: Rows, image_ids: Optional[Sequence[int]] = None, reference: bool = False
) -> COCOScores:
    """Evaluate detections. Raises UserError if a row has the id of an image that the annotation file does not have.

    Args:
        truth: The content of an annotation file, from `load_coco_json`.
        rows: The rows of a result file, as from `coco_rows`.
        image_ids: The images to evaluate; None for all.
        reference: Compute with pycocotools itself, which is slower, as a check.
    """
    evaluation = accumulate(truth, rows, image_ids, reference)
    precision = np.asarray(evaluation.eval["precision"])  # by IoU, recall, class, size of objects, detections per image
    objects = _count_objects(truth, image_ids)
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    uses = Counter(names.values())
    names = {i: name if uses[name] == 1 else f"{name} (id {i})" for i, name in names.items()}
    curves = {i: precision[:, :, k, 0, -1] for k, i in enumerate(evaluation.params.catIds)}
    classes = [ClassScore(names[i], objects[i], defined_mean(c), defined_mean(c[0])) for i, c in curves.items()]
    return COCOScores(dict(zip(SUMMARY, map(float, evaluation.stats))), classes)


def accumulate(truth: Document, rows: Rows, image_ids: Optional[Sequence[int]], reference: bool = False) -> Any:
    """Evaluate detections and return the finished COCOeval with its arrays; arguments and errors as `evaluate_coco`."""
    unknown = {row["image_id"] for row in rows} - {image["id"] for image in truth["images"]}
    if unknown:
        raise UserError(
            f"the results have {len(unknown)} image ids that the annotation file does not have, such as "
            f"{min(unknown)}; evaluate with the annotation file of these images"
        )
    COCO, COCOeval = _evaluator(reference)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        more = ({"id": i, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for i, row in enumerate(rows, 1))
        found = {**truth, "annotations": [{**row, **keys} for row, keys in zip(rows, more)]}
        evaluation = COCOeval(_index(COCO, truth), _index(COCO, found), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _evaluator(reference: bool) -> Tuple[Any, Any]:
    """The classes COCO and COCOeval of faster-coco-eval, or of pycocotools."""
    if not reference:
        with contextlib.suppress(ImportError):
            from faster_coco_eval import COCO, COCOeval_faster

            return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _index(COCO: Any, data: Document) -> Any:
    """A COCO object for annotations in memory, of which there may be none."""
    coco = COCO()
    coco.dataset = {**data, "annotations": [dict(a) for a in data["annotations"]]}
    coco.createIndex()
    return coco


def _count_objects(truth: Document, image_ids: Optional[Sequence[int]]) -> Counter[int]:
    """The number of objects per category id on the evaluated images, without crowds."""
    evaluated = {a["image_id"] for a in truth["annotations"]} if image_ids is None else set(image_ids)
    counted = (a for a in truth["annotations"] if a["image_id"] in evaluated and not a["iscrowd"])
    return Counter(a["category_id"] for a in counted)


def defined_mean(precision: np.ndarray) -> Optional[float]:
    """The mean of the precisions that are defined, not -1; None if there are none, as the class has no objects."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None
