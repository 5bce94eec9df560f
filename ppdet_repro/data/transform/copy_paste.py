"""Copy-Paste: paste objects of another image, cut out along their masks.

G objects of an image, H, W its size, S the side of the result. Masks come from the `segmentation` of COCO annotations
(gt_poly), which is a list of polygons or a run-length encoding.
Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import cv2
import numpy as np
from pycocotools import mask as rle

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, append_boxes, describe, select_boxes
from ppdet_repro.data.transform.resize import Size, resized_size
from ppdet_repro.utils.errors import UserError


def read_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode a COCO `segmentation`, polygons or run lengths, to a mask [H, W] bool.

    ValueError if it is neither, or is of another size. pycocotools itself would read beyond its arrays.
    """
    if isinstance(segmentation, list):
        if not all(is_polygon(polygon, 10 * max(height, width)) for polygon in segmentation):
            raise ValueError("a polygon is a list of at least three points x1, y1, x2, y2, ... in the image")
        return rle.decode(rle.merge(rle.frPyObjects(segmentation, height, width))).astype(bool)
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise ValueError(f"it is neither a list of polygons nor run lengths with the size [{height}, {width}]")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
            raise ValueError("the counts of its run lengths do not add up to the image's pixels")
        segmentation = rle.frPyObjects(segmentation, height, width)
    elif not isinstance(counts, (str, bytes)) or not counts:
        raise ValueError("the counts of run lengths are a list or a text")
    return rle.decode(segmentation).astype(bool)


def is_polygon(points: Any, limit: float) -> bool:
    """Whether a value is a list of coordinates x1, y1, x2, y2, ... of at least three points, none beyond `limit`."""
    numbers = isinstance(points, list) and all(type(value) in (int, float) and abs(value) <= limit for value in points)
    return numbers and len(points) >= 6


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Compute the xyxy boxes [G, 4] around masks [G, H, W], none of which is empty. A pixel is 1 wide."""
    columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)  # [G, W], [G, H]
    (x1, x2), (y1, y2) = ((seen.argmax(1), seen.shape[1] - seen[:, ::-1].argmax(1)) for seen in (columns, rows))
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


class Placement(NamedTuple):
    """How an image is placed on the canvas: it is mirrored if `flipped`, resized to `size`, and cropped."""

    flipped: bool
    size: Size
    left: int  # pixels cut off at the left
    top: int  # pixels cut off at the top

    def boxes(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Map xyxy boxes [G, 4] of an image of `size` to the canvas. They are not clipped."""
        x1, y1, x2, y2 = (boxes * np.array([self.size.width / size.width, self.size.height / size.height] * 2)).T
        if self.flipped:
            x1, x2 = self.size.width - x2, self.size.width - x1
        return np.stack([x1 - self.left, y1 - self.top, x2 - self.left, y2 - self.top], axis=1)

    def pixels(self, image: np.ndarray, side: int, fill: int, interp: int) -> np.ndarray:
        """Draw an image [H, W, ...] on a canvas [side, side, ...] uint8."""
        resized = cv2.resize(image, self.size[::-1], interpolation=interp)
        if self.flipped:
            resized = resized[:, ::-1]
        part = resized[self.top : self.top + side, self.left : self.left + side]
        canvas = np.full((side, side, *image.shape[2:]), fill, np.uint8)
        canvas[: part.shape[0], : part.shape[1]] = part
        return canvas


@register
class CopyPaste:
    """Pastes objects of another image, cut out along their masks.

    Both images are mirrored at random and resized. Images that are then larger than the canvas are cropped at random,
    smaller ones are placed at its top left. Objects of the other image are pasted at random, but no crowd regions.
    The boxes of the objects below shrink to what remains visible, and objects that are not visible are removed.

    This transform must come directly after Decode, because masks fit the image file. It needs gt_poly and is_crowd in
    the dataset's data_fields. Without a dataset to draw from, nothing is pasted.

    Args:
        target_size: S, the side of the result, which is [S, S, 3] uint8.
        scaling: Range of the factor by which an image that just fits into the canvas is resized.
        flip: Probability of mirroring an image.
        share: Probability of pasting an object.
        fill_value: Value of uncovered pixels.
    """

    def __init__(
        self,
        target_size: int,
        scaling: Sequence[float] = (0.1, 2.0),
        flip: float = 0.5,
        share: float = 0.5,
        fill_value: int = 128,
    ):
        if target_size < 1:
            raise UserError(f"CopyPaste: target_size {target_size} must be at least 1")
        if len(scaling) != 2 or not 0 < scaling[0] <= scaling[1]:
            raise UserError(f"CopyPaste: scaling {list(scaling)} must be [smallest, largest] with numbers above 0")
        self.target_size, (self.smallest, self.largest) = target_size, scaling
        self.flip, self.share, self.fill_value = flip, share, fill_value

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        masks = self._place(sample, ctx.rng)
        if ctx.draw is None:
            return sample
        other = ctx.draw()
        others_masks = self._place(other, ctx.rng)
        chosen = (ctx.rng.random(len(others_masks)) < self.share) & (other["is_crowd"][:, 0] == 0)
        if chosen.any():
            select_boxes(other, chosen)
            paste(sample, masks, other, others_masks[chosen])
        return sample

    def _place(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """Place a sample on the canvas, keep the objects that are visible there, and return their masks [G, S, S]."""
        side, size = self.target_size, Size(*sample["image"].shape[:2])
        originals = read_masks(sample)
        placement = self._draw(size, rng)
        sample["image"] = placement.pixels(sample["image"], side, self.fill_value, cv2.INTER_LINEAR)
        sample["gt_bbox"] = placement.boxes(sample["gt_bbox"], size).clip(0, side).astype(np.float32)
        sample["h"] = sample["w"] = side
        sample["im_shape"] = np.array([side, side], np.float32)
        placed = [placement.pixels(mask.view(np.uint8), side, 0, cv2.INTER_NEAREST).view(bool) for mask in originals]
        masks = np.stack(placed) if placed else np.zeros((0, side, side), bool)
        seen = np.any(masks, axis=(1, 2)) & (sample["gt_bbox"][:, 2:] > sample["gt_bbox"][:, :2]).all(axis=1)
        select_boxes(sample, seen)
        return masks[seen]

    def _draw(self, size: Size, rng: np.random.Generator) -> Placement:
        fitted = max(1, round(self.target_size * rng.uniform(self.smallest, self.largest)))
        new = Size(*(max(1, side) for side in resized_size(size, Size(fitted, fitted), True)))
        top, left = (int(rng.integers(max(0, side - self.target_size) + 1)) for side in new)
        return Placement(bool(rng.random() < self.flip), new, left, top)


def read_masks(sample: Sample) -> list[np.ndarray]:
    """Remove `gt_poly` from a sample and decode it to masks [H, W] bool, one per object.

    UserError if an object has no mask or a wrong one, or a transform has changed the image since it was decoded.
    """
    where = f"CopyPaste, {describe(sample)}"
    missing = [field for field in ("gt_poly", "is_crowd") if field not in sample]
    if missing:
        raise UserError(f"{where}: add {' and '.join(missing)} to TrainDataset.data_fields (VOC has no masks)")
    height, width = sample["image"].shape[:2]
    segmentations = sample.pop("gt_poly")
    if (height, width) != (sample["h"], sample["w"]) or len(segmentations) != len(sample["gt_bbox"]):
        raise UserError(f"{where}: another transform has changed the image; put CopyPaste directly after Decode")
    for i, segmentation in enumerate(segmentations):
        if not segmentation:
            raise UserError(f"{where}: object {i} has no segmentation; add it, or remove the annotation")
    masks = []
    for i, segmentation in enumerate(segmentations):
        try:
            masks.append(read_mask(segmentation, height, width))
        except ValueError as error:
            raise UserError(f"{where}: the segmentation of object {i} cannot be used: {error}") from None
    return masks


def paste(sample: Sample, masks: np.ndarray, other: Sample, pasted: np.ndarray) -> None:
    """Paste the objects of another sample, visible at `pasted`, over those of a sample, visible at `masks`.

    Both arrays of masks are [objects, S, S] bool.
    """
    covered = pasted.any(axis=0)  # [S, S]
    sample["image"][covered] = other["image"][covered]
    left = masks & ~covered
    seen = np.any(left, axis=(1, 2))
    shrunk = np.flatnonzero(seen & (masks & covered).any(axis=(1, 2)))
    boxes, around = sample["gt_bbox"][shrunk], boxes_of_masks(left[shrunk])
    sample["gt_bbox"][shrunk, :2] = np.maximum(boxes[:, :2], around[:, :2])
    sample["gt_bbox"][shrunk, 2:] = np.minimum(boxes[:, 2:], around[:, 2:])
    select_boxes(sample, seen & (sample["gt_bbox"][:, 2:] > sample["gt_bbox"][:, :2]).all(axis=1))
    append_boxes(sample, [other])
