"""The base class of all detectors. B images, N candidate boxes, K classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence, Tuple

from paddle import Tensor, nn

from ppdet_repro.core.contract import Batch, Detections, Head, Losses, PostProcess, RawOutputs, TargetTransform
from ppdet_repro.utils.errors import UserError


class Detector(nn.Layer):
    """Backbone -> neck -> head; losses in training mode, detections otherwise.

    A subclass stores its parts in its constructor; the attributes' names are the first words of the state dict's keys.
    It provides `head` and `post_process` as attributes or properties; they may be the same part.
    """

    if TYPE_CHECKING:  # at run time Paddle could not store a layer under the name of a property

        @property
        def head(self) -> Head: ...

        @property
        def post_process(self) -> PostProcess: ...

    def __init__(self, backbone: nn.Layer, neck: nn.Layer):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, batch: Batch) -> Dict[str, Tensor]:
        """In training mode the losses by name, where `loss` is their sum; otherwise the fields of `Detections`."""
        raw = self.raw(batch["image"])
        if self.training:
            return self.losses(raw, batch)
        boxes, scores = self.decode(raw, batch["im_shape"], batch["scale_factor"])
        return self.suppress(boxes, scores)._asdict()

    def raw(self, image: Tensor) -> RawOutputs:
        """Images [B, 3, H, W] -> the head's outputs."""
        return self.head(self.neck(self.backbone(image)))

    def enter(self, image: Tensor) -> Any:
        """Images as the backbone takes them: a tensor, unless `feature_maps` says otherwise."""
        return image

    def losses(self, raw: RawOutputs, batch: Batch) -> Losses:
        """The head's losses on a batch with ground truth."""
        return self.head.losses(raw, batch)

    def decode(self, raw: RawOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] in pixels of the original images, and scores [B, K, N]."""
        return self.post_process.decode(raw, im_shape, scale_factor)

    def suppress(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Decoded boxes and scores -> the final detections."""
        return self.post_process.suppress(boxes, scores)

    @property
    def target_settings(self) -> Mapping[str, Any]:
        """The head's parameters, by name, that the transform which makes its training targets must share."""
        return {}

    def check_targets(self, transforms: Sequence[Any]) -> None:
        """Raise a UserError if one of a reader's transforms and the head differ in a parameter that they must share."""
        own = self.target_settings
        for transform in transforms:
            settings = transform.target_settings if isinstance(transform, TargetTransform) else {}
            for name in [name for name in settings if name in own and settings[name] != own[name]]:
                raise UserError(
                    f"{type(transform).__name__}.{name} {settings[name]} does not fit {type(self.head).__name__}, "
                    f"which has {own[name]}; write the same value for both, or once at the top level of the config"
                )
