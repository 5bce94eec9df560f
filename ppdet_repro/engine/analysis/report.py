"""Writes the report of an evaluation: one HTML file that contains its images and needs no network.

It is made from COCO's formats, so it works for every detector and, by `coco_document`, for datasets in other formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.analysis.pages import write_page
from ppdet_repro.engine.analysis.tide import TideErrors
from ppdet_repro.metrics import analysis
from ppdet_repro.metrics.analysis import Curves, MatchedDetections
from ppdet_repro.metrics.coco import SIZES, accumulate
from ppdet_repro.metrics.detections import Document, ImageDetections, Objects, Rows, from_coco_document
from ppdet_repro.utils.analysis_plots import confusion_plot, precision_recall_plot, tide_plot
from ppdet_repro.utils.visualize import draw_boxes, enlarged

APs = List[Optional[float]]

FILE = "report.html"
WORST_IMAGES = 12


class EvaluationResult(NamedTuple):
    """What an evaluation leaves for the report."""

    truth: Document
    rows: Rows
    detections: Sequence[ImageDetections]  # the same as `rows`, per image
    files: Dict[int, str]  # paths by image id
    names: Sequence[str]  # of the classes
    category_ids: Sequence[int]  # per class
    scores: str


def write_report(title: str, result: EvaluationResult, tide: Optional[TideErrors], folder: str) -> Path:
    """Write `folder`/report.html: scores, errors, curves, AP per class and size, confused classes, the worst images."""
    path = Path(folder) / FILE
    write_page(path, f"{FILE}.j2", title=title, **contents(result, tide))
    return path


def contents(result: EvaluationResult, tide: Optional[TideErrors]) -> Dict[str, Any]:
    """The variables of the template."""
    image_ids = [image.im_id for image in result.detections]
    objects = from_coco_document(result.truth, result.category_ids, image_ids)
    truth = [objects[im_id] for im_id in image_ids]
    evaluation = accumulate(result.truth, result.rows, image_ids)
    precision, recall = np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.params.recThrs)
    name_of = dict(zip(result.category_ids, result.names))
    names = [name_of[i] for i in evaluation.params.catIds]
    curves = analysis.precision_recall_curves(precision, recall, names)
    threshold = analysis.best_threshold(result.detections, objects)
    matches = [analysis.match_image(image.rows, objects[image.im_id], threshold) for image in result.detections]
    matrix = analysis.confusion_matrix(matches, truth, len(result.names))
    wrong = [item for item in zip(result.detections, matches, truth) if analysis.count_mistakes(*item[1:])]
    wrong.sort(key=lambda item: -analysis.count_mistakes(*item[1:]))
    return {
        "images": len(result.detections),
        "objects": sum(len(o.boxes) for o in truth),
        "detections": len(result.rows),
        "scores": result.scores,
        "tide": {"plot": tide_plot(tide.main, tide.special), "table": tide.table()} if tide else None,
        "curves": precision_recall_plot(curves.recall, curves.by_iou, curves.by_class),
        "sizes": SIZES,
        "classes": class_rows(curves, truth, result.names),
        "threshold": threshold,
        "confusions": confusion_plot(matrix, result.names),
        "worst_images": [worst_image(*item, result) for item in wrong[:WORST_IMAGES]],
    }


def class_rows(curves: Curves, truth: Sequence[Objects], names: Sequence[str]) -> List[Tuple[str, int, APs]]:
    """For each class with objects: name, number of objects, AP of all, small, medium and large ones; worst first."""
    counts = np.bincount(np.concatenate([o.classes for o in truth]).astype(int), minlength=len(names))
    number_of = dict(zip(names, counts.tolist()))
    rows = sorted(curves.sizes.items(), key=lambda item: item[1][-1] or 0.0)
    return [(name, number_of[name], [aps[-1], *aps[:-1]]) for name, aps in rows]


def worst_image(
    image: ImageDetections, matches: MatchedDetections, objects: Objects, result: EvaluationResult
) -> Tuple[str, bytes]:
    """A caption, and a JPEG of an image's objects beside its detections, with labels for missed and wrong ones."""
    pixels, scale = enlarged(read_image(result.files[image.im_id]))
    missed = ["missed" if m else "crowd" if d else "" for m, d in zip(matches.missed, objects.difficult)]
    left = draw_boxes(pixels, objects.boxes * scale, objects.classes, names=result.names, notes=missed)
    nothing, wrong_class = matches.objects == analysis.FALSE_POSITIVE, analysis.confused(matches, objects)
    notes = ["nothing" if n else "wrong class" if w else "" for n, w in zip(nothing, wrong_class)]
    rows = matches.rows
    right = draw_boxes(pixels, rows[:, 2:] * scale, rows[:, 0].astype(int), rows[:, 1], result.names, notes)
    both = np.concatenate([left, np.full((left.shape[0], 8, 3), 255, np.uint8), right], axis=1)
    shrink = min(1.0, 1100 / both.shape[1])
    both = cv2.resize(both, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR))
    mistakes = f"{nothing.sum()} detections of nothing, {wrong_class.sum()} of the wrong class"
    caption = f"{Path(result.files[image.im_id]).name}: {matches.missed.sum()} missed, {mistakes}"
    return caption, encoded.tobytes()
