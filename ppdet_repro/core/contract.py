"""What flows through a detector: batches, raw outputs, losses and detections, with shapes and units.

B images, G ground truths, L levels of feature maps, N candidate boxes, K classes, M detections of a whole batch.

Boxes are `xyxy` (x1, y1, x2, y2) unless a name says otherwise. Ground truth boxes are in pixels of the network's input,
detections in pixels of the original images. Pairs of sizes and scales are ordered (y, x), as in PaddleDetection. This
module does not import Paddle: `Tensor` is Paddle's class for type checkers and `Any` at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, NamedTuple, Protocol, TypedDict, Union, runtime_checkable

if TYPE_CHECKING:
    from paddle import Tensor
else:
    Tensor = Any

Losses = Dict[str, Tensor]
"""The losses of a batch by name, each a scalar; the entry `loss` is the sum of the others."""

RawOutputs = Any
"""What a head returns before decoding: a `NamedTuple` of its own with tensors, or lists of a tensor per level."""

PerImage = Union[Tensor, list[Tensor]]
"""A tensor per image; or one tensor with a leading dimension B if all images have the same number of entries."""


class Batch(TypedDict, total=False):
    """A batch from a reader. Which keys it has depends on the dataset's `data_fields` and on the transforms."""

    image: Tensor  # [B, 3, H, W] float32
    im_id: Tensor  # [B, 1] int64
    im_shape: Tensor  # [B, 2] float32: height and width after resizing, without padding
    scale_factor: Tensor  # [B, 2] float32: resized over original size
    progress: Tensor  # [1] float32: the progress of training, from 0 to 1; in training only

    # Ground truth. `PadBox` appends zeros: a box without area is padding.
    gt_bbox: PerImage  # [G, 4] float32, xyxy, pixels of the network's input
    gt_class: PerImage  # [G, 1] int32 ([G] after PadBox)
    gt_score: PerImage  # [G, 1] float32 ([G] after PadBox): the weight from Mixup
    is_crowd: PerImage  # [G, 1] int32 ([G] after PadBox)
    difficult: PerImage  # [G, 1] int32 ([G] after PadBox)

    # What YOLOv3's loss also needs: see NormalizeBox, BboxXYXY2XYWH and Gt2YoloTarget.
    gt_xyxy_relative: PerImage  # [G, 4] float32, xyxy over the input's width and height
    gt_cxcywh_relative: PerImage  # [G, 4] float32, center and size over the input's width and height
    target0: Tensor  # [B, A, 6 + K, H / stride, W / stride] float32: coarsest level
    target1: Tensor
    target2: Tensor

    # Targets of TTFNet and PAFNet: see Gt2TTFTarget.
    ttf_heatmap: Tensor  # [B, K, H / 4, W / 4] float32
    ttf_box_target: Tensor  # [B, 4, H / 4, W / 4] float32
    ttf_reg_weight: Tensor  # [B, 1, H / 4, W / 4] float32
    ttf_score: Tensor  # [B, 1, H / 4, W / 4] float32: only where images were mixed


class Detections(NamedTuple):
    """The detections of a batch, those of the first image first."""

    bbox: Tensor  # [M, 6] float32: class, score, x1, y1, x2, y2 in pixels of the original images
    bbox_num: Tensor  # [B] int32: rows per image


class Head(Protocol):
    """The last part of a detector that has weights."""

    def __call__(self, feats: Any) -> RawOutputs:
        """Feature maps [B, C, H, W], one or one per level -> raw outputs."""

    def losses(self, raw: RawOutputs, batch: Batch) -> Losses:
        """The losses of raw outputs on a batch with ground truth."""


class Suppressor(Protocol):
    """From decoded boxes to detections: a non-maximum suppression, or a decoder's own selection.

    `name` and `settings` describe it in an exported model's infer_cfg.yml, for runtimes that do without Paddle.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def __call__(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Boxes [B, N, 4] xyxy and scores [B, K, N] -> detections."""


class PostProcess(Protocol):
    """From raw outputs to detections; the head itself, or a part of its own."""

    def decode(self, raw: RawOutputs, im_shape: Tensor, scale_factor: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] in pixels of the original images, and scores [B, K, N]."""

    @property
    def suppress(self) -> Suppressor:
        """Removes duplicates among decoded boxes."""


class DecodingHead(Head, PostProcess, Protocol):
    """A head that decodes its own outputs."""


@runtime_checkable
class TargetTransform(Protocol):
    """A transform that makes a head's training targets."""

    @property
    def target_settings(self) -> Mapping[str, Any]:
        """The transform's parameters, by name, that must have the same values in the head."""
