"""Preprocessing outside training: a reader's transforms as the `Preprocess` list of an exported
model's infer_cfg.yml, and back. The list's format is PaddleDetection's."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.data.transform.base import BatchTransform, Context, Sample, SampleTransform, apply_to_batch
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import Pad, PadBatch, stack
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.utils.errors import UserError

KINDS = {
    "Resize": (Resize, {"target_size", "keep_ratio", "interp"}),
    "NormalizeImage": (NormalizeImage, {"mean", "std", "is_scale", "norm_type"}),
    "Permute": (Permute, set()),
    "Pad": (Pad, {"size", "fill_value"}),
    "PadStride": (PadBatch, {"stride"}),
}


class Inputs(NamedTuple):
    """A network's input: image [B, 3, H, W] float32, im_shape [B, 2] (height, width before padding) and
    scale_factor [B, 2] (y, x)."""

    image: np.ndarray
    im_shape: np.ndarray
    scale_factor: np.ndarray


class Preprocess:
    """Decodes and transforms images for a network, in the way of evaluation; deterministic.

    Images of different size are padded to the batch's largest, even where no padding is asked for.
    """

    def __init__(self, transforms: Sequence[SampleTransform | BatchTransform]):
        self.transforms = [t for t in transforms if not isinstance(t, Decode)]
        self._decode = Decode()

    def __call__(self, images: Sequence[str | bytes | np.ndarray]) -> Inputs:
        """Each image is a file's path, its bytes, or an RGB array [H, W, 3] uint8.

        Raises:
            ImageError: an image is missing, empty, not an image, or cut off.
        """
        ctx = Context(np.random.default_rng(0))
        samples = [self._decode(_sample(image), ctx) for image in images]
        samples = apply_to_batch(self.transforms, samples, ctx)
        if len({sample["image"].shape for sample in samples}) > 1:
            samples = PadBatch()(samples, ctx)
        stacked = (stack([sample[key] for sample in samples]) for key in Inputs._fields)
        return Inputs(*(array.astype(np.float32, copy=False) for array in stacked))


def _sample(image: str | bytes | np.ndarray) -> Sample:
    return {"im_file": image} if isinstance(image, str) else {"image": image}


def from_list(items: Sequence[dict[str, Any]], source: str = "infer_cfg.yml") -> Preprocess:
    """The preprocessing that a `Preprocess` list describes: {type: Resize, ...}, {type: PadStride, ...}.

    What it does, and the defaults of absent keys, are PaddleDetection's deployment's: see `Resize.one_scale`. `source`
    is for messages.

    Raises:
        UserError: an item's type or one of its keys is unknown, or a value is missing.
    """
    transforms = []
    for item in items:
        values = dict(item)
        kind = values.pop("type", None)
        if kind not in KINDS:
            raise UserError(f"{source}: Preprocess has type {kind!r}; known are {', '.join(KINDS)}")
        make, known = KINDS[kind]
        if set(values) - known:
            raise UserError(f"{source}: {kind} has unknown {sorted(set(values) - known)}; known are {sorted(known)}")
        if kind == "PadStride":
            values = {"pad_to_stride": values.get("stride", 0)}
        if kind == "Resize":
            values = {"keep_ratio": True, "one_scale": True, **values}
        needed = {"Resize": "target_size", "Pad": "size"}.get(kind)
        if needed is not None and needed not in values:
            raise UserError(f"{source}: {kind} needs a {needed}")
        transforms.append(make(**values))
    return Preprocess(transforms)


def to_list(
    transforms: Sequence[SampleTransform | BatchTransform],
    image_shape: Optional[Sequence[int]] = None,
    fuse_normalize: bool = False,
) -> list[dict[str, Any]]:
    """The `Preprocess` list of a reader's transforms (`reader.preprocess`).

    image_shape     [3, height, width]: replaces the size to resize to, unless the height is -1; images that keep
                    their ratio are padded to it
    fuse_normalize  leave NormalizeImage out, since the network does it

    Raises:
        UserError: a transform has no counterpart in deployment.
    """
    items: list[dict[str, Any]] = []
    fixed = image_shape is not None and image_shape[1] != -1
    keeps_ratio = any(isinstance(transform, Resize) and transform.keep_ratio for transform in transforms)
    letterbox = any(isinstance(transform, Pad) for transform in transforms)
    for transform in transforms:
        if isinstance(transform, Resize):
            size = image_shape[1:] if fixed else transform.target_size
            values = {"target_size": list(size), "keep_ratio": transform.keep_ratio, "interp": transform.interp}
        elif isinstance(transform, NormalizeImage):
            values = {
                "mean": list(transform.mean),
                "std": list(transform.std),
                "is_scale": transform.is_scale,
                "norm_type": transform.norm_type,
            }
        elif isinstance(transform, Pad):
            values = {
                "size": list(image_shape[1:] if fixed else transform.size),
                "fill_value": list(transform.fill_value),
            }
        elif isinstance(transform, PadBatch):
            if fixed and keeps_ratio:
                continue  # padded already
            values = {"stride": transform.pad_to_stride}
        elif isinstance(transform, (Permute, Decode)):
            values = {}
        else:
            raise UserError(
                f"{type(transform).__name__} cannot be exported; the test reader may use Decode, Resize, "
                "Pad, NormalizeImage, Permute and PadBatch"
            )
        kind = "PadStride" if isinstance(transform, PadBatch) else type(transform).__name__
        if kind == "Permute" and fixed and keeps_ratio and not letterbox:
            items.append({"type": "Pad", "size": list(image_shape[1:]), "fill_value": [0.0, 0.0, 0.0]})
        if kind != "Decode" and not (fuse_normalize and kind == "NormalizeImage"):
            items.append({"type": kind, **values})
    return items
