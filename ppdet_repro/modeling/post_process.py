"""From a head's outputs to detections, as a part of its own."""

from __future__ import annotations

from typing import Any, Optional

from ppdet_repro.core.contract import Suppressor
from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError


@register
class BBoxPostProcess:
    """A decoder, and the suppression of duplicates.

    Args:
        decode: `decode(raw, im_shape, scale_factor)` returns boxes [B, N, 4] and scores [B, K, N].
        nms: Turns these into `Detections`. Without one, `decode.select` does; it is None if the decoder needs an NMS.
    """

    def __init__(self, decode: Part[Any], nms: Optional[Part[Suppressor]] = None):
        suppress: Optional[Suppressor] = decode.select if nms is None else nms
        if suppress is None:
            raise UserError(f"BBoxPostProcess: {type(decode).__name__} needs an nms")
        self.decode = decode
        self.suppress: Suppressor = suppress
