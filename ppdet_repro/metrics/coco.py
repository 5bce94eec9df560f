"""COCO's average precision of boxes: pycocotools' numbers, by faster-coco-eval where it is installed.

T IoU thresholds, R recall places, K classes, S object sizes, D limits of detections an image.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ppdet_repro.data.source.coco import read_coco
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.table import text_table

SUMMARY = (
    "bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l",
    "bbox_AR_1", "bbox_AR_10", "bbox_AR_100", "bbox_AR_s", "bbox_AR_m", "bbox_AR_l",
)  # fmt: skip
SIZES = ("small", "medium", "large")


class ClassScore(NamedTuple):
    """One class: objects that count, AP over the thresholds, AP at IoU 0.5; None if it has no objects."""

    name: str
    objects: int
    ap: Optional[float]
    ap50: Optional[float]


class COCOScores(NamedTuple):
    """`summary`: pycocotools' twelve numbers by name, -1 where no object has that size; `classes` in the
    order of the category ids."""

    summary: Dict[str, float]
    classes: List[ClassScore]

    def values(self) -> Dict[str, float]:
        """The summary, then `bbox_AP/<class>` of each class that has objects."""
        per_class = {f"bbox_AP/{c.name}": c.ap for c in self.classes if c.ap is not None}
        return {**self.summary, **per_class}

    def table(self) -> str:
        """The summary for a reader: AP by threshold and size, recall by limit and size."""
        shown = [None if value < 0 else value for value in self.summary.values()]
        precision = text_table(["COCO", "all", "IoU .50", "IoU .75", *SIZES], [["AP", *shown[:6]]])
        recall = text_table(["COCO", "1 box", "10 boxes", "100", *SIZES], [["recall", *shown[6:]]])
        return f"{precision}\n\n{recall}"

    def class_table(self) -> str:
        """Objects, AP and AP50 of each class."""
        return text_table(["class", "objects", "AP", "AP50"], self.classes)


def load_coco_json(path: Union[str, Path]) -> dict:
    """A COCO annotation file, ready for the evaluation: `area` (w * h) and `iscrowd` (0) where they are left
    out, annotations without a box dropped. UserError if it is missing or is not one."""
    document = read_coco(str(path))
    annotations = [
        {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a}
        for a in document.get("annotations", [])
        if len(a.get("bbox") or ()) == 4
    ]
    if any(a.get("id") == 0 for a in annotations):
        get_logger().warning(
            f"{path}: an annotation has id 0, which COCO's evaluation takes for 'not found', so its object "
            "always counts as missed; number annotations from 1"
        )
    return {**document, "annotations": annotations}


def evaluate_coco(
    truth: dict, rows: Sequence[dict], image_ids: Optional[Sequence[int]] = None, reference: bool = False
) -> COCOScores:
    """Scores of the result rows (`coco_rows`) against `truth` (`load_coco_json`).

    `image_ids`: the images that were looked at, all of the file if None. `reference`: compute with
    pycocotools itself, slower, to check. UserError if a row names an image that the file does not have.
    """
    evaluation = accumulate(truth, rows, image_ids, reference)
    precision = np.asarray(evaluation.eval["precision"])  # [T, R, K, S, D]
    objects = _count_objects(truth, image_ids)
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    curves = {i: precision[:, :, k, 0, -1] for k, i in enumerate(evaluation.params.catIds)}  # [T, R] each
    classes = [ClassScore(names[i], objects.get(i, 0), _mean(c), _mean(c[0])) for i, c in curves.items()]
    return COCOScores(dict(zip(SUMMARY, map(float, evaluation.stats))), classes)


def accumulate(
    truth: dict, rows: Sequence[dict], image_ids: Optional[Sequence[int]] = None, reference: bool = False
) -> Any:
    """The finished COCOeval, for its arrays; parameters and errors as `evaluate_coco`."""
    known = {image["id"] for image in truth["images"]}
    strangers = {row["image_id"] for row in rows} - known
    if strangers:
        raise UserError(
            f"results name {len(strangers)} image ids that the annotation file does not have, such as "
            f"{min(strangers)}; evaluate with the annotation file of the images that were run"
        )
    COCO, COCOeval = _evaluator(reference)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        found = {**truth, "annotations": _as_annotations(rows)}
        evaluation = COCOeval(_index(COCO, truth), _index(COCO, found), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _evaluator(reference: bool):
    """The classes COCO and COCOeval of faster-coco-eval, or of pycocotools."""
    if not reference:
        with contextlib.suppress(ImportError):
            from faster_coco_eval import COCO, COCOeval_faster

            return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _index(COCO: type, data: dict):
    """A COCO object of annotations that are in memory; none at all is fine."""
    coco = COCO()
    coco.dataset = {**data, "annotations": [dict(a) for a in data["annotations"]]}
    coco.createIndex()
    return coco


def _as_annotations(rows: Sequence[dict]) -> List[dict]:
    """Result rows with what the evaluation reads besides: id, area, iscrowd."""
    return [{**row, "id": i, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} for i, row in enumerate(rows, 1)]


def _count_objects(truth: dict, image_ids: Optional[Sequence[int]]) -> Dict[int, int]:
    """Objects of each category id on the evaluated images, crowds left out."""
    seen = None if image_ids is None else set(image_ids)
    counts: Dict[int, int] = {}
    for a in truth["annotations"]:
        if not a["iscrowd"] and (seen is None or a["image_id"] in seen):
            counts[a["category_id"]] = counts.get(a["category_id"], 0) + 1
    return counts


def _mean(precision: np.ndarray) -> Optional[float]:
    """The mean of the defined places, None if there is none (a class without objects)."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None
