"""The layers that are exported: thin wrappers around a detector's methods.

B images, N candidate boxes, K classes, M final boxes.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.sizes import Size, sizes

Inputs = Dict[str, paddle.Tensor]  # image [B, 3, H, W], im_shape and scale_factor [B, 2]


class Wrapper(nn.Layer):
    """A layer that contains a detector."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector


class HeadOutputs(Wrapper):
    """The network alone: the raw outputs of the head as a flat list of tensors."""

    def forward(self, inputs: Inputs) -> List[paddle.Tensor]:
        return paddle.utils.flatten(self.detector.raw(inputs["image"]))


class DecodedBoxes(Wrapper):
    """The network and decoding: boxes [B, N, 4] in pixels of the original images, and scores [B, K, N]."""

    def forward(self, inputs: Inputs) -> Tuple[paddle.Tensor, paddle.Tensor]:
        raw = self.detector.raw(inputs["image"])
        return self.detector.decode(raw, inputs["im_shape"], inputs["scale_factor"])


class FinalBoxes(Wrapper):
    """The network, decoding and suppression: bbox [M, 6] (class, score, x1, y1, x2, y2), and bbox_num [B]."""

    def forward(self, inputs: Inputs) -> Tuple[paddle.Tensor, paddle.Tensor]:
        raw = self.detector.raw(inputs["image"])
        boxes, scores = self.detector.decode(raw, inputs["im_shape"], inputs["scale_factor"])
        found = self.detector.suppress(boxes, scores)
        return found.bbox, found.bbox_num


class NormalizedInside(nn.Layer):
    """A network that takes pixels of 0 to 255 and normalizes them itself.

    The padding, everything outside `im_shape`, becomes 0, as if the image had been padded after its normalization: that
    is what training does. With `black_padding`, its pixels of 0 become -mean / std, as in PaddleDetection's exports.
    """

    def __init__(self, network: nn.Layer, normalize: NormalizeImage, black_padding: bool = False):
        super().__init__()
        self.network, self.black_padding = network, black_padding
        factor = 1 / 255 if normalize.is_scale else 1.0
        plain_scale = normalize.norm_type == "none"
        mean = np.zeros(3) if plain_scale else np.array(normalize.mean)
        std = np.ones(3) if plain_scale else np.array(normalize.std)
        for name, values in (("scale", factor / std), ("shift", -mean / std)):
            self.register_buffer(name, paddle.to_tensor(values.reshape([1, 3, 1, 1]), "float32"))

    def forward(self, inputs: Inputs) -> Any:
        image = inputs["image"]
        if self.black_padding:
            return self.network({**inputs, "image": image * self.scale + self.shift})
        inside = inside_image(inputs["im_shape"], *sizes(image)[2:])
        # oneDNN has a fast kernel if only the second factor is broadcast, by channel
        shift = paddle.concat([inside] * 3, axis=1) * self.shift
        return self.network({**inputs, "image": image * self.scale + shift})


def inside_image(im_shape: paddle.Tensor, height: Size, width: Size) -> paddle.Tensor:
    """1 on the image and 0 in the padding: im_shape [B, 2] (h, w) -> [B, 1, height, width]."""
    h, w = im_shape[:, 0].reshape([-1, 1, 1, 1]), im_shape[:, 1].reshape([-1, 1, 1, 1])
    rows = paddle.arange(height, dtype="float32").reshape([1, 1, -1, 1]) < h  # [B, 1, height, 1]
    columns = paddle.arange(width, dtype="float32").reshape([1, 1, 1, -1]) < w  # [B, 1, 1, width]
    return rows.astype("float32") * columns.astype("float32")  # [B, 1, height, width]
