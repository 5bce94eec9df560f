"""Mixing two images: Mixup and CutMix.

The reader decides in which epochs they are active. Without a dataset to draw from, they do nothing, nor with two images
for which a canvas would be larger than any image may be, such as a wide and a high strip.
"""

from __future__ import annotations

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, append_boxes
from ppdet_repro.data.transform.decode import DECODER_LIMIT
from ppdet_repro.utils.errors import UserError


def on_canvas(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Place an image [h, w, 3] at the top left of a black canvas [height, width, 3] float32."""
    canvas = np.zeros((height, width, image.shape[2]), np.float32)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def canvas_size(first: Sample, second: Sample) -> tuple[int, int]:
    """Height and width of the smallest canvas for both images; (0, 0) if it had more pixels than an image may have."""
    height, width = (int(side) for side in np.maximum(first["image"].shape, second["image"].shape)[:2])
    return (height, width) if height * width <= DECODER_LIMIT else (0, 0)


def unmixed(sample: Sample) -> Sample:
    """Give all boxes the score 1."""
    sample["gt_score"] = np.ones((len(sample["gt_bbox"]), 1), np.float32)
    return sample


def join_boxes(first: Sample, second: Sample, weight: float) -> None:
    """Append the boxes of `second` to those of `first`. Their scores become 1 - weight and `weight`, respectively."""
    first["gt_score"] = np.full((len(first["gt_bbox"]), 1), weight, np.float32)
    second["gt_score"] = np.full((len(second["gt_bbox"]), 1), 1 - weight, np.float32)
    append_boxes(first, [second])


def checked_beta(alpha: float, beta: float, owner: str) -> tuple[float, float]:
    """Check the parameters of a Beta distribution. UserError if one is not positive."""
    if alpha <= 0 or beta <= 0:
        raise UserError(f"{owner}: alpha {alpha} and beta {beta} must be positive")
    return alpha, beta


@register
class Mixup:
    """Blends the image with another one: f * first + (1 - f) * second, with f drawn from Beta(alpha, beta).

    Both images are placed at the top left of a canvas large enough for both. The result is truncated to 8 bits and
    has the boxes of both images, with scores of f and 1 - f.

    Args:
        alpha, beta: parameters of the Beta distribution that the share of the first image is drawn from
    """

    def __init__(self, alpha: float = 1.5, beta: float = 1.5):
        self.alpha, self.beta = checked_beta(alpha, beta, "Mixup")

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.draw is None:
            return sample
        other = ctx.draw()
        factor = ctx.rng.beta(self.alpha, self.beta)
        height, width = canvas_size(sample, other)
        if not height:
            return unmixed(sample)
        blend = on_canvas(sample["image"], height, width) * np.float32(factor)
        blend += on_canvas(other["image"], height, width) * np.float32(1 - factor)
        sample["image"] = blend.astype(np.uint8)
        join_boxes(sample, other, factor)
        return sample


@register
class Cutmix:
    """Pastes a rectangle of another image into the image (CutMix; PAFNet, equation 6).

    Both images are placed at the top left of a canvas large enough for both. With f drawn from Beta(alpha, beta), the
    sides of the rectangle are sqrt(1 - f) times those of the canvas. Its center is any pixel, and it is clipped to
    the canvas. The result is float32 and has the boxes of both images, unchanged, with scores of f and 1 - f.

    Args:
        alpha, beta: Parameters of the Beta distribution.
        exact_area: Use for f in the scores the part of the canvas that the rectangle leaves uncovered.
    """

    def __init__(self, alpha: float = 1.5, beta: float = 1.5, exact_area: bool = False):
        self.alpha, self.beta = checked_beta(alpha, beta, "Cutmix")
        self.exact_area = exact_area

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.draw is None:
            return sample
        other = ctx.draw()
        factor = ctx.rng.beta(self.alpha, self.beta)
        height, width = canvas_size(sample, other)
        if not height:
            return unmixed(sample)
        half_h, half_w = (int(side * np.sqrt(1 - factor)) // 2 for side in (height, width))
        cx, cy = int(ctx.rng.integers(width)), int(ctx.rng.integers(height))
        x1, x2 = (int(np.clip(x, 0, width - 1)) for x in (cx - half_w, cx + half_w))
        y1, y2 = (int(np.clip(y, 0, height - 1)) for y in (cy - half_h, cy + half_h))
        mixed = on_canvas(sample["image"], height, width)
        mixed[y1:y2, x1:x2] = on_canvas(other["image"], height, width)[y1:y2, x1:x2]
        sample["image"] = mixed
        if self.exact_area:
            factor = 1 - (y2 - y1) * (x2 - x1) / (height * width)
        join_boxes(sample, other, factor)
        return sample
