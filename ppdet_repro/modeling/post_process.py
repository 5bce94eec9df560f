"""From a head's outputs to detections."""

from __future__ import annotations

from typing import Any, Optional

from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError


@register
class BBoxPostProcess:
    """`decode(raw, im_shape, scale_factor)` gives boxes [B, N, 4] and scores [B, K, N];
    `suppress(boxes, scores)` the detections: `nms`, or the decoder's own `select` where none is named."""

    def __init__(self, decode: Part[Any], nms: Optional[Part[Any]] = None):
        if nms is None and not hasattr(decode, "select"):
            raise UserError(f"BBoxPostProcess: {type(decode).__name__} needs an nms")
        self.decode = decode
        self.suppress = decode.select if nms is None else nms
