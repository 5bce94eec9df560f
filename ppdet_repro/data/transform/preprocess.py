"""Preprocessing for deployment.

An exported model's infer_cfg.yml describes the preprocessing in a `Preprocess` list, whose format is PaddleDetection's.
`to_list` makes this list from the transforms of a reader, and `from_list` makes the preprocessing from the list.
"""

from __future__ import annotations

import reprlib
from typing import Any, Callable, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.data.transform.base import AnyTransform, Context, Sample, apply_to_batch
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import Pad, PadBatch, stack
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.utils.errors import UserError

KINDS: dict[str, tuple[Callable[..., AnyTransform], tuple[str, ...]]] = {  # type -> transform, its keys in the list
    "Resize": (Resize, ("target_size", "keep_ratio", "interp")),
    "NormalizeImage": (NormalizeImage, ("mean", "std", "is_scale", "norm_type")),
    "Permute": (Permute, ()),
    "Pad": (Pad, ("size", "fill_value")),
    "PadStride": (PadBatch, ("stride",)),
}


class Inputs(NamedTuple):
    """The input of a network, all float32."""

    image: np.ndarray  # [B, 3, H, W]
    im_shape: np.ndarray  # [B, 2]: height and width before padding
    scale_factor: np.ndarray  # [B, 2]: (y, x)


class Preprocess:
    """Decodes and transforms images for a network, as evaluation does.

    Images of different sizes are padded to the largest size of the batch, even without a transform that pads.
    """

    def __init__(self, transforms: Sequence[AnyTransform]):
        self.transforms = [t for t in transforms if not isinstance(t, Decode)]
        self._decode = Decode()

    def __call__(self, images: Sequence[str | bytes | np.ndarray]) -> Inputs:
        """Prepare a batch of images, each of which is a path, the bytes of a file, or an RGB array [H, W, 3] uint8.

        ImageError if one is missing, empty, not an image, or truncated.
        """
        ctx = Context(np.random.default_rng(0))
        samples = [self._decode(_sample(image), ctx) for image in images]
        samples = apply_to_batch(self.transforms, samples, ctx)
        if len({sample["image"].shape for sample in samples}) > 1:
            samples = PadBatch()(samples, ctx)
        return Inputs(
            stack([sample["image"] for sample in samples]).astype(np.float32, copy=False),
            stack([sample["im_shape"] for sample in samples]),
            stack([sample["scale_factor"] for sample in samples]),
        )


def _sample(image: str | bytes | np.ndarray) -> Sample:
    if isinstance(image, str):
        return {"im_file": image}
    return {"image": image}  # type: ignore[typeddict-item]  # `Decode` replaces the bytes


def from_list(items: Sequence[dict[str, Any]], source: str = "infer_cfg.yml") -> Preprocess:
    """Make the preprocessing that a `Preprocess` list describes.

    The list is, for example, [{type: Resize, target_size: [608, 608]}, {type: Permute}]. Results and defaults are those
    of PaddleDetection's deployment; see the parameter `one_scale` of `Resize`. If a type or key is unknown, or a value
    is missing, the UserError names the file `source`.
    """
    transforms = []
    for item in items:
        values = dict(item)
        kind = values.pop("type", None)
        if kind not in KINDS:
            raise UserError(
                f"{source}: unknown type {reprlib.repr(kind)} in Preprocess; known types are {', '.join(KINDS)}"
            )
        make, known = KINDS[kind]
        unknown = sorted(set(values).difference(known))
        if unknown:
            raise UserError(
                f"{source}: {kind} has unknown keys {reprlib.repr(unknown)}; known keys are {sorted(known)}"
            )
        if kind == "PadStride":
            values = {"pad_to_stride": values.get("stride", 0)}
        if kind == "Resize":
            values = {"keep_ratio": True, "one_scale": True, **values}
        needed = {"Resize": "target_size", "Pad": "size"}.get(kind)
        if needed is not None and needed not in values:
            raise UserError(f"{source}: {kind} needs a {needed}")
        try:
            transforms.append(make(**values))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return Preprocess(transforms)


def to_list(
    transforms: Sequence[AnyTransform], image_shape: Optional[Sequence[int]] = None, fuse_normalize: bool = False
) -> list[dict[str, Any]]:
    """Make the `Preprocess` list for the transforms of a reader. UserError if deployment does not support one of them.

    Args:
        transforms: `reader.preprocess`.
        image_shape: [3, height, width], which replaces the size to resize to, unless the height is -1. Images that
            keep their ratio are padded to this size.
        fuse_normalize: Omit NormalizeImage, because the network normalizes.
    """
    items: list[dict[str, Any]] = []
    fixed = list(image_shape[1:]) if image_shape is not None and image_shape[1] != -1 else None  # height, width
    keeps_ratio = any(isinstance(transform, Resize) and transform.keep_ratio for transform in transforms)
    has_pad = any(isinstance(transform, Pad) for transform in transforms)
    kinds = {make: kind for kind, (make, _) in KINDS.items()}
    for transform in transforms:
        if isinstance(transform, Decode):
            continue
        kind = kinds.get(type(transform))
        if kind is None:
            raise UserError(
                f"{type(transform).__name__} cannot be exported; the test reader may use Decode, Resize, "
                "Pad, NormalizeImage, Permute and PadBatch"
            )
        if (kind == "PadStride" and fixed and keeps_ratio) or (kind == "NormalizeImage" and fuse_normalize):
            continue  # a Pad does what PadStride would do
        if kind == "Permute" and fixed and keeps_ratio and not has_pad:
            items.append({"type": "Pad", "size": list(fixed), "fill_value": [0.0, 0.0, 0.0]})
        item: dict[str, Any] = {"type": kind}
        for key in KINDS[kind][1]:
            value = getattr(transform, "pad_to_stride" if key == "stride" else key)
            if fixed and key in ("target_size", "size"):
                value = fixed
            item[key] = list(value) if isinstance(value, (tuple, list)) else value  # a list of its own for YAML
        items.append(item)
    return items
