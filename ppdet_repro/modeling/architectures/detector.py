"""What every detector is: backbone -> neck -> head, losses in training, boxes otherwise.

B images, N candidate boxes, K classes.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence

import paddle
from paddle import nn


class Detector(nn.Layer):
    """Base of the architectures. A subclass names its parts in its constructor and points `head` at the one
    that has `forward(feats)` and `losses(raw, batch)`, `post_process` at the one that has
    `decode(raw, im_shape, scale_factor)` and `suppress(boxes, scores)`; that may be the head, too. The
    attributes' names are the first words of the state dict's keys."""

    backbone: nn.Layer
    neck: nn.Layer
    head: nn.Layer
    post_process: Any

    def forward(self, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """A batch -> the losses (entry `loss` is their total) in training mode, else
        {`bbox`: [M, 6] class, score, x1, y1, x2, y2 in pixels of the original images, `bbox_num`: [B]}."""
        raw = self.raw(batch["image"])
        if self.training:
            return self.losses(raw, batch)
        boxes, scores = self.decode(raw, batch["im_shape"], batch["scale_factor"])
        return self.suppress(boxes, scores)._asdict()

    def raw(self, image: paddle.Tensor):
        """Image [B, 3, H, W] -> the head's outputs."""
        return self.head(self.neck(self.backbone(image)))

    def losses(self, raw, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """The head's losses on a batch with ground truth."""
        return self.head.losses(raw, batch)

    def decode(self, raw, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Boxes [B, N, 4] in pixels of the original images and scores [B, K, N]."""
        return self.post_process.decode(raw, im_shape, scale_factor)

    def suppress(self, boxes: paddle.Tensor, scores: paddle.Tensor):
        """The final `Detections`."""
        return self.post_process.suppress(boxes, scores)

    def check_targets(self, transforms: Sequence[Any]) -> None:
        """UserError if a reader's transforms make training targets that do not fit this model."""
