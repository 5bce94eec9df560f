"""Reading input: lists of image files, and the frames of a video."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence
from urllib.parse import urlsplit

import cv2
import numpy as np

from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import require_utf8

DEFAULT_RATE = 25.0  # frames per second, for cameras that do not report a rate
MISSING_SHARE = 0.02  # of the announced frames of a video; some containers only estimate their number


class ImageList(NamedTuple):
    """Image files, the id of each file in results, and the category id of each class."""

    files: List[str]
    ids: List[int]
    category_ids: List[int]


class Video(NamedTuple):
    """An open video or camera."""

    name: str  # of the file to write its frames to
    rate: float  # frames per second
    announced: int  # the number of frames according to the file's header; 0 if unknown
    frames: Iterator[np.ndarray]  # RGB images [H, W, 3]


def list_images(path: str, classes: int) -> ImageList:
    """An image file, or all images of a folder in natural order. Ids count from 0; category ids are class numbers."""
    files = find_images(path)
    if not files:
        raise UserError(f"there is no image in {path}")
    return ImageList(files, list(range(len(files))), list(range(classes)))


def with_coco_ids(images: ImageList, category_ids: Sequence[int]) -> ImageList:
    """The same files with COCO's ids: that of an image is the number in its file name."""
    if len(images.category_ids) != len(category_ids):
        raise UserError(
            f"--use_coco_category is for COCO's {len(category_ids)} classes, the model has "
            f"{len(images.category_ids)}; --eval_json takes ids from an annotation file"
        )
    stems = [Path(file).stem for file in images.files]
    for stem in stems:
        if not stem.isdigit():
            needed = "image files that are named by their id"
            raise UserError(f"--use_coco_category needs {needed}; {stem!r} is not a number")
    return ImageList(images.files, [int(stem) for stem in stems], list(category_ids))


def coco_images(path: str, image_dir: Optional[str], classes: int) -> ImageList:
    """All images of a COCO annotation file, with its ids, in the folder `image_dir`. UserError if the file is not COCO
    json, an image is missing, or the model has another number of classes."""
    if image_dir is None:
        raise UserError("--eval_json needs --image_dir, the folder of its images")
    dataset = COCODataSet(image_dir=image_dir, anno_path=path, allow_empty=True)
    if len(dataset.category_ids) != classes:
        raise UserError(f"{path} has {len(dataset.category_ids)} categories, the model has {classes} classes")
    return ImageList(dataset.table.files, dataset.table.ids.tolist(), dataset.category_ids)


@contextmanager
def open_video(path: Optional[str], camera_id: int) -> Iterator[Video]:
    """Open a video file or stream, or a camera by its number.

    `path` is that of a file, a URL that OpenCV opens, such as rtsp://..., or the number of a camera; if it is None, the
    camera is `camera_id`. UserError if it cannot be opened.
    """
    if path is not None and path.isdecimal() and not os.path.exists(path):
        camera_id, path = int(path), None
    is_file = path is not None and not re.match("[a-z][a-z0-9+.-]*://", path, re.IGNORECASE)
    if is_file and not os.path.isfile(path or ""):
        raise UserError(f"--video_file {path} is not a file, and no URL such as rtsp://...")
    if is_file:
        require_utf8(path or "")
    capture = cv2.VideoCapture(camera_id if path is None else path)
    frames = _frames(capture)
    try:
        first = next(frames, None)
        if first is None:
            what = f"camera {camera_id} delivers no image" if path is None else f"{path} is not a video"
            reason = "or OpenCV has no decoder for it" if path is None or is_file else "or cannot be reached"
            raise UserError(f"{what}, {reason}")
        rate = capture.get(cv2.CAP_PROP_FPS)
        name = f"camera_{camera_id}.mp4" if path is None else f"{stream_name(path)}.mp4"
        announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if is_file else 0
        yield Video(name, rate if rate > 0 else DEFAULT_RATE, announced, itertools.chain([first], frames))
    finally:
        capture.release()


def stream_name(path: str) -> str:
    """A file name, without suffix, for the frames of a video file or URL."""
    return Path(urlsplit(path).path if "://" in path else path).stem or "stream"


def check_complete(path: str, read: int, announced: int) -> None:
    """UserError if clearly fewer frames of a video could be read than its file announces."""
    if announced - read > max(1, MISSING_SHARE * announced):
        found = f"{read} of {announced} frames could be read"
        raise UserError(f"{path} ends early: {found}; the results for them are written")


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while (read := capture.read())[0]:
        yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
