"""Multi-scale testing: one picture at several sizes, mirrored too, and one suppression of all boxes.

B images, N candidates of all views, K classes.
Source: the usual test-time augmentation of COCO results; YOLOF's Table 1 follows HTC (Chen et al., CVPR 2019).
"""

from __future__ import annotations

import copy
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.data.transform.base import Context, Sample
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.utils.errors import UserError


class View(NamedTuple):
    """A size to fit the picture into (short side, long side; pixels), and whether to mirror it."""

    size: Tuple[int, int]
    mirrored: bool


class Mirror:
    """Left and right exchanged."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return {**sample, "image": np.ascontiguousarray(sample["image"][:, ::-1])}


def views(sizes: Sequence[Sequence[int]], flip: bool) -> List[View]:
    """Every size, and with `flip` every size mirrored.

    UserError: a size is not two whole numbers.
    """
    for size in sizes:
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"test_scales: {list(size)} is not [short side, long side] in pixels")
    sides = [(min(size), max(size)) for size in sizes]
    return [View(size, mirrored) for size in sides for mirrored in ((False, True) if flip else (False,))]


def reader_of(reader: Any, view: View) -> Any:
    """A copy of an EvalReader that resizes to the view's size, keeping the ratio, and mirrors after that.

    UserError: the reader's sample transforms do not resize exactly once.
    """
    resizes = [i for i, transform in enumerate(reader.sample_transforms) if isinstance(transform, Resize)]
    if len(resizes) != 1:
        raise UserError(f"test_scales wants one Resize in EvalReader.sample_transforms, there are {len(resizes)}")
    own = copy.copy(reader)
    own.sample_transforms = list(reader.sample_transforms)
    resize = own.sample_transforms[resizes[0]]
    own.sample_transforms[resizes[0]] = Resize(view.size, True, resize.interp)
    if view.mirrored:
        own.sample_transforms.insert(resizes[0] + 1, Mirror())
    return own


class ManyViews(nn.Layer):
    """A detector of batches that are seen in several views: {`im_id`, `views`: a batch for each}."""

    def __init__(self, model: Detector, seen: Sequence[View]):
        super().__init__()
        self.model = model
        self.seen = seen
        self.training = model.training

    def forward(self, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """As a detector's: {`bbox`: [M, 6], `bbox_num`: [B]}."""
        parts = [candidates(self.model, *pair) for pair in zip(batch["views"], self.seen)]
        return self.model.suppress(*merge(parts))._asdict()


def grouped(views: Sequence[Iterable[Dict[str, Any]]]) -> Iterator[Dict[str, Any]]:
    """The batches for `ManyViews` from those of each view, which are of the same images in the same order."""
    return ({"im_id": group[0]["im_id"], "views": group} for group in zip(*views))


def candidates(model: Detector, batch: Dict[str, Any], view: View) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """Boxes [B, N, 4] of one view in pixels of the original images, scores [B, K, N]."""
    boxes, scores = model.decode(model.raw(batch["image"]), batch["im_shape"], batch["scale_factor"])
    if not view.mirrored:
        return boxes, scores
    widths = batch["im_shape"][:, 1:] / batch["scale_factor"][:, 1:]  # [B, 1], of the original images
    return mirror(boxes, widths), scores


def mirror(boxes: paddle.Tensor, widths: paddle.Tensor) -> paddle.Tensor:
    """Boxes [B, N, 4] of mirrored images in the images themselves, which are `widths` [B, 1] wide."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return paddle.stack([widths - x2, y1, widths - x1, y2], axis=-1)


def merge(parts: Sequence[Tuple[paddle.Tensor, paddle.Tensor]]) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The candidates of all views as those of one: boxes [B, N, 4] and scores [B, K, N]."""
    return paddle.concat([boxes for boxes, _ in parts], axis=1), paddle.concat([scores for _, scores in parts], axis=2)
