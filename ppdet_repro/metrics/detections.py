"""What a detector found on each image, as the metrics and the result files take it.

M detections of an image; a row is class, score, x1, y1, x2, y2 in pixels of the original image.
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Sequence

import numpy as np


class ImageDetections(NamedTuple):
    """The detections [M, 6] float32 of the image with id `im_id`."""

    im_id: int
    rows: np.ndarray


def split_batch(im_id: np.ndarray, bbox: np.ndarray, bbox_num: np.ndarray) -> List[ImageDetections]:
    """A detector's output on a batch, cut into images: ids [B] or [B, 1], rows [sum of M, 6], counts [B].

    Rows with a class below zero are a detector's filler and are dropped.
    """
    ends = np.cumsum(bbox_num)
    images = np.split(np.asarray(bbox, np.float32).reshape(-1, 6)[: ends[-1]], ends[:-1])
    return [ImageDetections(int(i), rows[rows[:, 0] >= 0]) for i, rows in zip(np.ravel(im_id), images)]


def merge_ranks(parts: Iterable[Sequence[ImageDetections]], order: Sequence[int]) -> List[ImageDetections]:
    """The detections of several processes as one list in the order of the image ids `order`.

    An image that several processes saw (a sampler fills the last batch) counts once, an image that none saw
    is left out; so the result, and every metric of it, is that of one process.
    """
    by_id = {}
    for part in parts:
        for image in part:
            by_id.setdefault(image.im_id, image)
    return [by_id[im_id] for im_id in order if im_id in by_id]


def coco_rows(detections: Iterable[ImageDetections], category_ids: Sequence[int], bias: float = 0.0) -> List[dict]:
    """COCO result rows: image_id, category_id (`category_ids[class]`), bbox [x, y, w, h], score.

    w = x2 - x1 + bias, and so h; `bias` 1 counts pixels, as some published weights want.
    """
    return [
        {
            "image_id": image.im_id,
            "category_id": category_ids[int(label)],
            "bbox": [x1, y1, x2 - x1 + bias, y2 - y1 + bias],
            "score": score,
        }
        for image in detections
        for label, score, x1, y1, x2, y2 in image.rows.tolist()
    ]
