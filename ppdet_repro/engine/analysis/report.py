"""Writes the report of an evaluation: one HTML file that contains its images and needs no network.

It is made from COCO's formats, so it works for every detector and, by `coco_document`, for datasets in other formats.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.analysis.tide import TideErrors
from ppdet_repro.metrics.analysis import (
    FALSE_POSITIVE,
    Curves,
    MatchedDetections,
    best_threshold,
    confused,
    confusion_matrix,
    count_mistakes,
    match_image,
    precision_recall_curves,
)
from ppdet_repro.metrics.coco import SIZES, accumulate
from ppdet_repro.metrics.detections import ImageDetections, Objects, from_coco_document
from ppdet_repro.utils.analysis_plots import confusion_plot, precision_recall_plot, tide_plot
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.visualize import draw_boxes, enlarged

FILE = "report.html"
WORST_IMAGES = 12
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["base64"] = lambda data: base64.b64encode(data).decode()


class EvaluationResult(NamedTuple):
    """What an evaluation leaves for the report."""

    truth: Dict[str, Any]  # the content of a COCO annotation file
    rows: Sequence[Dict[str, Any]]  # of a COCO result file
    detections: Sequence[ImageDetections]  # the same per image
    files: Dict[int, str]  # paths by image id
    names: Sequence[str]  # of the classes
    category_ids: Sequence[int]  # per class
    scores: str


class WorstImage(NamedTuple):
    """An image with many mistakes: a JPEG file of the ground truth beside the detections, and what is wrong."""

    caption: str
    jpeg: bytes


def write_report(title: str, result: EvaluationResult, tide: Optional[TideErrors], folder: str) -> Path:
    """Write `folder`/report.html: scores, errors, curves, AP per class and size, confused classes, the worst images.

    Returns the path of the file. Raises UserError if it cannot be written.
    """
    path = Path(folder) / FILE
    page = TEMPLATES.get_template(f"{FILE}.j2").render(title=title, **contents(result, tide))
    write_output(path, page.encode())
    return path


def contents(result: EvaluationResult, tide: Optional[TideErrors]) -> Dict[str, Any]:
    """The variables of the template."""
    image_ids = [image.im_id for image in result.detections]
    objects = from_coco_document(result.truth, result.category_ids, image_ids)
    truth = [objects[im_id] for im_id in image_ids]
    evaluation = accumulate(result.truth, result.rows, image_ids)
    name_of = dict(zip(result.category_ids, result.names))
    curves = precision_recall_curves(
        np.asarray(evaluation.eval["precision"]),
        np.asarray(evaluation.params.recThrs),
        [name_of[i] for i in evaluation.params.catIds],
    )
    threshold = best_threshold(result.detections, objects)
    matches = [match_image(image.rows, objects[image.im_id], threshold) for image in result.detections]
    matrix = confusion_matrix(matches, truth, len(result.names))
    worst = sorted(zip(result.detections, matches, truth), key=lambda item: -count_mistakes(*item[1:]))
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
        "worst_images": [worst_image(*item, result) for item in worst[:WORST_IMAGES] if count_mistakes(*item[1:])],
    }


def class_rows(
    curves: Curves, truth: Sequence[Objects], names: Sequence[str]
) -> List[Tuple[str, int, List[Optional[float]]]]:
    """For each class with objects: name, number of objects, AP of all, small, medium and large ones; worst first."""
    counts = np.bincount(np.concatenate([o.classes for o in truth]).astype(int), minlength=len(names))
    number_of = dict(zip(names, counts.tolist()))
    rows = sorted(curves.sizes.items(), key=lambda item: item[1][-1] or 0.0)
    return [(name, number_of[name], [aps[-1], *aps[:-1]]) for name, aps in rows]


def worst_image(
    image: ImageDetections, matches: MatchedDetections, objects: Objects, result: EvaluationResult
) -> WorstImage:
    """Draw the objects of an image and, beside them, its detections; labels say which are missed or wrong."""
    pixels, scale = enlarged(read_image(result.files[image.im_id]))
    missed = ["missed" if m else "crowd" if d else "" for m, d in zip(matches.missed, objects.difficult)]
    left = draw_boxes(pixels, objects.boxes * scale, objects.classes, names=result.names, notes=missed)
    nothing, wrong_class = matches.objects == FALSE_POSITIVE, confused(matches, objects)
    notes = ["nothing" if n else "wrong class" if w else "" for n, w in zip(nothing, wrong_class)]
    rows = matches.rows
    right = draw_boxes(pixels, rows[:, 2:] * scale, rows[:, 0].astype(int), rows[:, 1], result.names, notes)
    both = np.concatenate([left, np.full((left.shape[0], 8, 3), 255, np.uint8), right], axis=1)
    shrink = min(1.0, 1100 / both.shape[1])
    both = cv2.resize(both, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR))
    caption = (
        f"{Path(result.files[image.im_id]).name}: {int(matches.missed.sum())} missed, {int(nothing.sum())} detections "
        f"of nothing, {int(wrong_class.sum())} of the wrong class"
    )
    return WorstImage(caption, encoded.tobytes())
