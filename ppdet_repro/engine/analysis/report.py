"""What an evaluation can tell beyond its scores: TIDE's errors, and one HTML file that needs no network.

Works on COCO documents and result rows, so for every detector and, by `coco_document`, for VOC sets too.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.analysis.tide import TideErrors
from ppdet_repro.metrics.analysis import (
    WRONG,
    Curves,
    Outcome,
    best_threshold,
    confused,
    confusion_matrix,
    curves_of,
    match_image,
    mistakes,
)
from ppdet_repro.metrics.coco import SIZES, accumulate
from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.metrics.voc import Objects
from ppdet_repro.utils.analysis_plots import confusion_plot, precision_recall_plot, tide_plot
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.visualize import draw_boxes, enlarged

FILE = "report.html"
WORST = 12
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} img {{ max-width: 100% }}
pre {{ background: #f5f5f5; padding: 1em; overflow-x: auto }}
figure {{ margin: 1.5em 0 }} figcaption {{ font-weight: bold }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


class Evaluated(NamedTuple):
    """An evaluation's material: `truth` a COCO document, `rows` COCO result rows, `detections` the same by image,
    `files` image id -> path, `names` of the classes in the order of `category_ids`, `scores` as a text table."""

    truth: dict
    rows: Sequence[dict]
    detections: Sequence[ImageDetections]
    files: Dict[int, str]
    names: Sequence[str]
    category_ids: Sequence[int]
    scores: str


def write_report(title: str, done: Evaluated, tide: Optional[TideErrors], folder: str) -> Path:
    """Write `folder`/report.html: scores, errors, curves, classes and sizes, confusions, the worst images drawn.

    UserError: the disk refuses.
    """
    path = Path(folder) / FILE
    page = PAGE.format(title=html.escape(title), body="\n".join(sections(done, tide)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def sections(done: Evaluated, tide: Optional[TideErrors]) -> List[str]:
    """The page's parts."""
    objects = objects_of(done)
    evaluation = accumulate(done.truth, done.rows, [image.im_id for image in done.detections])
    order = {category: name for category, name in zip(done.category_ids, done.names)}
    precision = np.asarray(evaluation.eval["precision"])
    names = [order[i] for i in evaluation.params.catIds]
    curves = curves_of(precision, np.asarray(evaluation.params.recThrs), names)
    threshold = best_threshold(done.detections, objects)
    outcomes = [match_image(image.rows, objects[image.im_id], threshold) for image in done.detections]
    truth = [objects[image.im_id] for image in done.detections]
    matrix = confusion_matrix(outcomes, truth, len(done.names))
    parts = [f"<p>{len(done.detections)} images, {sum(len(o.boxes) for o in truth)} objects, {len(done.rows)} "
             f"detections.</p>\n<pre>{html.escape(done.scores)}</pre>"]  # fmt: skip
    if tide is not None:
        parts.append(f"<h2>Errors (TIDE)</h2>{image_tag(tide_plot(tide.main, tide.special), 'TIDE')}")
        parts.append(f"<pre>{html.escape(tide.table())}</pre>")
    parts.append("<h2>Precision and recall</h2>")
    parts.append(image_tag(precision_recall_plot(curves.recall, curves.by_iou, curves.by_class), "precision, recall"))
    parts.append(f"<h2>AP by class and size</h2><p>COCO's, IoU .50 to .95.</p>{class_table(curves, truth, done.names)}")
    parts.append(f"<h2>Confusions</h2><p>Detections that score {threshold:.2f} or more, where F1 is best; an object is "
                 "found at IoU .5, whatever the class.</p>")  # fmt: skip
    parts.append(image_tag(confusion_plot(matrix, done.names), "confusion matrix"))
    parts.append("<h2>Worst images</h2><p>Left the truth, right what was found; the same threshold.</p>")
    worst = sorted(zip(done.detections, outcomes, truth), key=lambda found: -mistakes(found[1], found[2]))
    parts += [worst_image(*found, done) for found in worst[:WORST] if mistakes(found[1], found[2])]
    return parts


def objects_of(done: Evaluated) -> Dict[int, Objects]:
    """Each evaluated image's objects; crowds count as difficult."""
    numbers = {category: i for i, category in enumerate(done.category_ids)}
    found: Dict[int, List[Tuple]] = {image.im_id: [] for image in done.detections}
    for a in done.truth["annotations"]:
        if a["image_id"] in found:
            x, y, w, h = a["bbox"]
            found[a["image_id"]].append(((x, y, x + w, y + h), numbers[a["category_id"]], bool(a["iscrowd"])))
    return {
        im_id: Objects(
            np.array([box for box, _, _ in items], np.float64).reshape(-1, 4),
            np.array([label for _, label, _ in items], np.int64),
            np.array([crowd for _, _, crowd in items], bool),
        )
        for im_id, items in found.items()
    }


def class_table(curves: Curves, truth: Sequence[Objects], names: Sequence[str]) -> str:
    """AP of each class with objects, over all and by size."""
    counts = np.bincount(np.concatenate([o.classes for o in truth]).astype(int), minlength=len(names))
    numbers = dict(zip(names, counts))
    head = "".join(f"<th>{word}</th>" for word in ("class", "objects", "AP", *SIZES))
    lines = [f"<table><tr>{head}</tr>"]
    for name, (*sizes, every) in sorted(curves.sizes.items(), key=lambda item: item[1][-1]):
        cells = [html.escape(name), str(numbers[name]), *("-" if v is None else f"{v:.3f}" for v in (every, *sizes))]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def worst_image(image: ImageDetections, outcome: Outcome, objects: Objects, done: Evaluated) -> str:
    """One image with its objects, beside it with its detections; what is missed and wrong says so."""
    picture, scale = enlarged(read_image(done.files[image.im_id]))
    missed = ["missed" if m else "crowd" if d else "" for m, d in zip(outcome.missed, objects.difficult)]
    left = draw_boxes(picture, objects.boxes * scale, objects.classes, names=done.names, notes=missed)
    wrong = outcome.owners == WRONG
    notes = ["nothing" if w else "confused" if c else "" for w, c in zip(wrong, confused(outcome, objects))]
    rows = outcome.rows
    right = draw_boxes(picture, rows[:, 2:] * scale, rows[:, 0].astype(int), rows[:, 1], done.names, notes)
    both = np.concatenate([left, np.full((left.shape[0], 8, 3), 255, np.uint8), right], axis=1)
    shrink = min(1.0, 1100 / both.shape[1])
    both = cv2.resize(both, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR))
    caption = (
        f"{Path(done.files[image.im_id]).name}: {int(outcome.missed.sum())} missed, {int(wrong.sum())} detections of "
        f"nothing, {int(confused(outcome, objects).sum())} confused"
    )
    tag = image_tag(encoded.tobytes(), caption, "jpeg")
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{tag}</figure>"


def image_tag(data: bytes, words: str, kind: str = "png") -> str:
    """An image inside the page."""
    content = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(words, quote=True)}" src="data:image/{kind};base64,{content}">'


def coco_document(dataset: Source, truth: Dict[int, Objects]) -> dict:
    """The objects of a data set without a COCO file as a COCO document; difficult ones become crowds."""
    annotations = []
    for im_id, objects in truth.items():
        for box, label, difficult in zip(objects.boxes.tolist(), objects.classes.ravel(), objects.difficult.ravel()):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": im_id,
                    "category_id": dataset.category_ids[int(label)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(difficult),
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(dataset.category_ids, dataset.class_names)]
    return {"images": [{"id": im_id} for im_id in truth], "annotations": annotations, "categories": categories}


def detections_of(
    rows: Sequence[dict], category_ids: Sequence[int], image_ids: Sequence[int], bias: float
) -> List[ImageDetections]:
    """COCO result rows by image, as a detector gives them; the inverse of `coco_rows`. Rows of categories that the data
    set does not have are left out, as in COCO's evaluation."""
    numbers = {category: i for i, category in enumerate(category_ids)}
    found: Dict[int, List[List[float]]] = {im_id: [] for im_id in image_ids}
    for row in (row for row in rows if row["category_id"] in numbers):
        x, y, w, h = row["bbox"]
        found[row["image_id"]].append([numbers[row["category_id"]], row["score"], x, y, x + w - bias, y + h - bias])
    return [ImageDetections(i, np.array(rows, np.float32).reshape(-1, 6)) for i, rows in found.items()]
