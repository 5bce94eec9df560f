"""Multi-scale testing: each image is detected at several sizes, also mirrored, and one NMS merges all boxes.

B images, N candidate boxes, K classes.
Source: the usual test-time augmentation of COCO results; YOLOF's Table 1 follows HTC (Chen et al., CVPR 2019).
"""

from __future__ import annotations

import copy
from typing import Dict, List, NamedTuple, Sequence, Tuple, TypedDict

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.contract import Batch, Tensor
from ppdet_repro.data.reader.readers import EvalReader
from ppdet_repro.data.transform.base import Context, Sample
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.utils.errors import UserError


class View(NamedTuple):
    """A size to fit the image into (short side, long side in pixels), and whether to mirror the image."""

    size: Tuple[int, int]
    mirrored: bool


class ViewBatches(TypedDict):
    """The batches of all views of the same images."""

    im_id: Tensor  # [B, 1]
    views: Sequence[Batch]  # one per view


class Mirror:
    """A transform that swaps left and right of the image."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return {**sample, "image": np.ascontiguousarray(sample["image"][:, ::-1])}


def list_views(sizes: Sequence[Sequence[int]], flip: bool) -> List[View]:
    """The views for the settings `test_scales` and `test_flip`: every size; with `flip` also every size mirrored."""
    for size in sizes:
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"test_scales: {list(size)} is not [short side, long side] in pixels")
    sides = [(min(size), max(size)) for size in sizes]
    return [View(size, mirrored) for size in sides for mirrored in ((False, True) if flip else (False,))]


def reader_of_view(reader: EvalReader, view: View) -> EvalReader:
    """A copy of a reader that resizes to the view's size, with the image's aspect ratio, and then mirrors if needed."""
    resizes = [i for i, transform in enumerate(reader.sample_transforms) if isinstance(transform, Resize)]
    if len(resizes) != 1:
        raise UserError(f"test_scales needs one Resize in EvalReader.sample_transforms, there are {len(resizes)}")
    (index,) = resizes
    own = copy.copy(reader)
    own.sample_transforms = list(reader.sample_transforms)
    own.sample_transforms[index] = Resize(view.size, True, own.sample_transforms[index].interp)
    if view.mirrored:
        own.sample_transforms.insert(index + 1, Mirror())
    return own


class MultiViewDetector(nn.Layer):
    """A detector that merges the candidate boxes of several views before its NMS."""

    def __init__(self, model: Detector, views: Sequence[View]):
        super().__init__()
        self.model = model
        self.views = views
        self.training = model.training

    def forward(self, batch: ViewBatches) -> Dict[str, Tensor]:
        """The detections as `Detector.forward` returns them."""
        parts = [candidates(self.model, *pair) for pair in zip(batch["views"], self.views)]
        return self.model.suppress(*merge(parts))._asdict()


def candidates(model: Detector, batch: Batch, view: View) -> Tuple[Tensor, Tensor]:
    """The boxes [B, N, 4] of one view in pixels of the original images, and their scores [B, K, N]."""
    boxes, scores = model.decode(model.raw(batch["image"]), batch["im_shape"], batch["scale_factor"])
    if not view.mirrored:
        return boxes, scores
    widths = batch["im_shape"][:, 1:] / batch["scale_factor"][:, 1:]  # [B, 1], of the original images
    return mirror(boxes, widths), scores


def mirror(boxes: Tensor, widths: Tensor) -> Tensor:
    """Mirror boxes [B, N, 4] in images with the widths [B, 1]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return paddle.stack([widths - x2, y1, widths - x1, y2], axis=-1)


def merge(parts: Sequence[Tuple[Tensor, Tensor]]) -> Tuple[Tensor, Tensor]:
    """Concatenate the candidates of all views: boxes [B, N, 4] and scores [B, K, N]."""
    return paddle.concat([boxes for boxes, _ in parts], axis=1), paddle.concat([scores for _, scores in parts], axis=2)
