"""The network of a detector on feature maps."""

from __future__ import annotations

from types import MethodType
from typing import Any

import paddle

from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.onednn.layers import take_feature_maps, take_tensors
from ppdet_repro.onednn.memory import POOL
from ppdet_repro.onednn.primitives import trim_heap
from ppdet_repro.onednn.tape import FeatureMap, enter


def use_feature_maps(detector: Detector, dtype: int, always: bool = False) -> None:
    """Let oneDNN compute what `detector.raw` computes in training mode, or always; its losses see tensors."""
    take_feature_maps(detector)
    plain, parameters = type(detector).raw, detector.parameters()

    def entered(self: Detector, image: paddle.Tensor) -> Any:
        if not self.training and not always:
            return image
        POOL.trim()
        trim_heap()
        return enter(image, [p for p in parameters if not p.stop_gradient], dtype)  # phases freeze some

    def raw(self: Detector, image: paddle.Tensor) -> Any:
        return as_tensors(plain(self, self.enter(image)))

    detector.enter = MethodType(entered, detector)  # type: ignore[method-assign]
    detector.raw = MethodType(raw, detector)  # type: ignore[method-assign]


def use_tensors(detector: Detector) -> None:
    """Undo `use_feature_maps`."""
    for name in ("enter", "raw"):
        detector.__dict__.pop(name, None)
    take_tensors(detector)


def as_tensors(values: Any) -> Any:
    """Nested values of a network, with tensors in place of feature maps."""
    return paddle.utils.map_structure(lambda x: x.tensor() if isinstance(x, FeatureMap) else x, values)
