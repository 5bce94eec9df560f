"""What a model looks at: image files, or the frames of a video."""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.utils.errors import UserError

DEFAULT_RATE = 25.0  # frames a second, where a camera does not say
MISSING_SHARE = 0.02  # of the frames that a video announces: some containers only estimate their number


class ImageList(NamedTuple):
    """Image files, the id of each in result files, and the category id of each class."""

    files: List[str]
    ids: List[int]
    category_ids: List[int]


class Video(NamedTuple):
    """An open video or camera: the name of its copy, frames a second, how many frames its file announces (0 if
    it does not say), and RGB images [H, W, 3]."""

    name: str
    rate: float
    announced: int
    frames: Iterator[np.ndarray]


def list_images(image_file: Optional[str], image_dir: Optional[str], classes: int) -> ImageList:
    """The image, or the folder's images in natural order; ids count from 0, categories are the classes.

    UserError if there is none.
    """
    files = find_images(image_file or image_dir)
    if not files:
        raise UserError(f"there is no image in {image_dir}")
    return ImageList(files, list(range(len(files))), list(range(classes)))


def with_coco_ids(images: ImageList, category_ids: Sequence[int]) -> ImageList:
    """The same files with COCO's ids: an image's is the number that its file is called.

    UserError if a file is called otherwise, or the model's classes are not COCO's 80.
    """
    if len(images.category_ids) != len(category_ids):
        raise UserError(
            f"--use_coco_category is for COCO's {len(category_ids)} classes, the model has "
            f"{len(images.category_ids)}; --eval_json takes ids from an annotation file"
        )
    stems = [Path(file).stem for file in images.files]
    if not all(stem.isdigit() for stem in stems):
        strange = next(stem for stem in stems if not stem.isdigit())
        raise UserError(f"--use_coco_category wants image files called by their id; {strange!r} is not a number")
    return ImageList(images.files, [int(stem) for stem in stems], list(category_ids))


def coco_images(path: str, image_dir: Optional[str], classes: int) -> ImageList:
    """All images of a COCO annotation file, with its ids, below `image_dir`.

    UserError if the file is not COCO json, an image is missing or the model has another number of classes.
    """
    if image_dir is None:
        raise UserError("--eval_json needs --image_dir, the folder of its images")
    dataset = COCODataSet(image_dir=image_dir, anno_path=path, allow_empty=True)
    if len(dataset.category_ids) != classes:
        raise UserError(f"{path} has {len(dataset.category_ids)} categories, the model has {classes} classes")
    return ImageList(dataset.table.files, dataset.table.ids.tolist(), dataset.category_ids)


@contextmanager
def open_video(path: Optional[str], camera_id: int) -> Iterator[Video]:
    """Open a video file, or the camera with this number. UserError if it cannot be opened."""
    if path is not None and not os.path.isfile(path):
        raise UserError(f"--video_file {path} is not a file")
    capture = cv2.VideoCapture(camera_id if path is None else path)
    frames = _frames(capture)
    try:
        first = next(frames, None)
        if first is None:
            what = f"camera {camera_id} gives no picture" if path is None else f"{path} is not a video"
            raise UserError(f"{what}, or OpenCV has no decoder for it")
        rate = capture.get(cv2.CAP_PROP_FPS)
        name = f"camera_{camera_id}.mp4" if path is None else f"{Path(path).stem}.mp4"
        announced = 0 if path is None else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        yield Video(name, rate if rate > 0 else DEFAULT_RATE, announced, itertools.chain([first], frames))
    finally:
        capture.release()


def check_complete(path: str, read: int, announced: int) -> None:
    """UserError if a video gave clearly fewer frames than its file announces."""
    if announced - read > max(1, MISSING_SHARE * announced):
        raise UserError(
            f"{path} ends early: {read} of {announced} frames could be read; what was found on them is written"
        )


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


class VideoWriter:
    """Writes RGB pictures of one size as an mp4 file; closes it on leaving the `with`."""

    def __init__(self, path: Path, rate: float):
        self.path = path
        self.rate = rate
        self._writer: Optional[cv2.VideoWriter] = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, picture: np.ndarray) -> None:
        """Append a picture [H, W, 3]. UserError if the file cannot be written."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec, (height, width) = cv2.VideoWriter_fourcc(*"mp4v"), picture.shape[:2]
            self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
