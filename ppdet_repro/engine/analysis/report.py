"""Writes the report of an evaluation: one HTML file that contains its images and needs no network.

It is made from COCO's formats, so it works for every detector and, by `coco_document`, for datasets in other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ppdet_repro.engine.analysis.pages import write_page
from ppdet_repro.engine.analysis.tide import TideErrors
from ppdet_repro.engine.analysis.worst_images import draw_worst, worst_images
from ppdet_repro.metrics import analysis
from ppdet_repro.metrics.analysis import Curves, MatchedDetections
from ppdet_repro.metrics.coco import SIZES, accumulate
from ppdet_repro.metrics.detections import Document, ImageDetections, Objects, Rows
from ppdet_repro.metrics.f1 import F1Scores
from ppdet_repro.utils.analysis_plots import confusion_plot, precision_recall_plot, tide_plot

FILE = "report.html"
WORST_IMAGES = 12


class EvaluationResult(NamedTuple):
    """What an evaluation leaves for the report."""

    truth: Document
    rows: Rows
    objects: Mapping[int, Objects]  # the same as `truth`, by image id
    detections: Sequence[ImageDetections]  # the same as `rows`, per image
    files: Dict[int, str]  # paths by image id
    names: Sequence[str]  # of the classes
    category_ids: Sequence[int]  # per class
    scores: str
    f1: F1Scores


def write_report(title: str, result: EvaluationResult, tide: Optional[TideErrors], folder: str) -> Path:
    """Write `folder`/report.html: scores, errors, curves, AP per class and size, confused classes, the worst images."""
    path = Path(folder) / FILE
    write_page(path, f"{FILE}.j2", title=title, **contents(result, tide))
    return path


def contents(result: EvaluationResult, tide: Optional[TideErrors]) -> Dict[str, Any]:
    """The variables of the template."""
    image_ids = [image.im_id for image in result.detections]
    truth = [result.objects[im_id] for im_id in image_ids]
    evaluation = accumulate(result.truth, result.rows, image_ids)
    precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.params.recThrs)
    name_of = dict(zip(result.category_ids, result.names))
    names = [name_of[i] for i in evaluation.params.catIds]
    curves = analysis.precision_recall_curves(precision, recall, names)
    matches = match_all(result)
    matrix = analysis.confusion_matrix(matches, truth, len(result.names))
    worst = worst_images(result.detections, matches, truth, result.files, WORST_IMAGES)
    return {
        "images": len(result.detections),
        "objects": sum(len(o.boxes) for o in truth),
        "detections": len(result.rows),
        "scores": result.scores,
        "tide": {"plot": tide_plot(tide.main, tide.special), "table": tide.table()} if tide else None,
        "curves": precision_recall_plot(curves.recall, curves.by_iou, curves.by_class),
        "sizes": SIZES,
        "classes": class_rows(curves, truth, result),
        "f1": result.f1.line(),
        "threshold": result.f1.threshold,
        "confusions": confusion_plot(matrix, result.names),
        "worst_images": [draw_worst(image, result.names) for image in worst],
    }


def match_all(result: EvaluationResult) -> List[MatchedDetections]:
    """Match the objects of each image with the detections that score at least the threshold with the best F1."""
    return [analysis.match_image(i.rows, result.objects[i.im_id], result.f1.threshold) for i in result.detections]


def class_rows(
    curves: Curves, truth: Sequence[Objects], result: EvaluationResult
) -> List[Tuple[str, int, List[Optional[float]]]]:
    """For each class with objects: its name, number of objects, AP of all, small, medium and large ones, precision,
    recall and F1; the worst AP first."""
    counts = np.bincount(np.concatenate([o.classes for o in truth]).astype(int), minlength=len(result.names))
    number_of = dict(zip(result.names, counts.tolist()))
    f1_of = {scores.name: scores[1:] for scores in result.f1.classes}
    rows = sorted(curves.sizes.items(), key=lambda item: item[1][-1] or 0.0)
    return [(name, number_of[name], [aps[-1], *aps[:-1], *f1_of[name]]) for name, aps in rows]
