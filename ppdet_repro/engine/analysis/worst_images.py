"""The images with the most mistakes: their objects beside the detections, with labels for missed and wrong ones.

G objects and M detections of an image, with rows class, score, x1, y1, x2, y2. A training keeps them in a file, from
which the page of the run is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.metrics import analysis
from ppdet_repro.metrics.analysis import MatchedDetections
from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.metrics.f1 import ClassF1
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.visualize import draw_boxes, enlarged

LONGEST_SIDE = 640  # pixels of an image in a page
GAP = 8  # pixels between the objects and the detections
QUALITY = 88  # of the JPEGs


class WorstImage(NamedTuple):
    """An image with mistakes."""

    file: str
    objects: Objects
    matches: MatchedDetections  # of those with a score of at least the threshold


def worst_images(
    detections: Sequence[ImageDetections],
    matches: Sequence[MatchedDetections],
    truth: Sequence[Objects],
    files: Dict[int, str],
    most: int,
) -> List[WorstImage]:
    """Of images with their matches and objects, in the same order, at most `most` with mistakes, the worst first."""
    mistakes = [analysis.count_mistakes(*pair) for pair in zip(matches, truth)]
    order = sorted((i for i, number in enumerate(mistakes) if number), key=lambda i: -mistakes[i])[:most]
    return [WorstImage(files[detections[i].im_id], truth[i], matches[i]) for i in order]


def draw_worst(image: WorstImage, names: Sequence[str]) -> Tuple[str, bytes]:
    """A caption, and a JPEG with the objects on the left and the detections on the right. ImageError: the image cannot
    be read."""
    matches, objects = image.matches, image.objects
    pixels, scale = fitted(read_image(image.file))
    missed = ["missed" if m else "crowd" if d else "" for m, d in zip(matches.missed, objects.difficult)]
    left = draw_boxes(pixels, objects.boxes * scale, objects.classes, names=names, notes=missed)
    nothing, wrong_class = matches.objects == analysis.FALSE_POSITIVE, analysis.confused(matches, objects)
    notes = ["nothing" if n else "wrong class" if w else "" for n, w in zip(nothing, wrong_class)]
    rows = matches.rows
    right = draw_boxes(pixels, rows[:, 2:] * scale, rows[:, 0].astype(int), rows[:, 1], names, notes)
    both = np.concatenate([left, np.full((left.shape[0], GAP, 3), 255, np.uint8), right], axis=1)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    mistakes = f"{nothing.sum()} detections of nothing, {wrong_class.sum()} of the wrong class"
    caption = f"{Path(image.file).name}: {matches.missed.sum()} missed, {mistakes}"
    return caption, encoded.tobytes()


def fitted(image: np.ndarray) -> Tuple[np.ndarray, float]:
    """The image in a size for a page, and by how much it was scaled."""
    shrink = LONGEST_SIDE / max(image.shape[:2])
    if shrink >= 1:
        return enlarged(image)
    size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), shrink


class LastEvaluation(NamedTuple):
    """What the page of a run shows of the last evaluation."""

    line: str  # precision, recall, F1 and the threshold
    threshold: float  # of the detections in `worst`
    names: List[str]  # of the classes
    classes: List[ClassF1]
    worst: List[WorstImage]

    def save(self, path: Path) -> None:
        """Write it as JSON. UserError: that fails."""
        worst = [
            {
                "file": image.file,
                "objects": [getattr(image.objects, name).tolist() for name in Objects._fields],
                "detections": image.matches.rows.tolist(),
            }
            for image in self.worst
        ]
        write_output(path, json.dumps({**self._asdict(), "worst": worst}).encode())


def load_evaluation(path: Path) -> Optional[LastEvaluation]:
    """Read what `LastEvaluation.save` wrote; None if there is no file. UserError: it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        threshold = content["threshold"]
        worst = []
        for image in content["worst"]:
            boxes, classes, difficult = image["objects"]
            objects = Objects(np.reshape(boxes, (-1, 4)), np.array(classes, np.int64), np.array(difficult, bool))
            rows = np.array(image["detections"], np.float32).reshape(-1, 6)
            worst.append(WorstImage(image["file"], objects, analysis.match_image(rows, objects, threshold)))
        classes = [ClassF1(*row) for row in content["classes"]]
        return LastEvaluation(content["line"], threshold, content["names"], classes, worst)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not what a training wrote: {error}") from error
