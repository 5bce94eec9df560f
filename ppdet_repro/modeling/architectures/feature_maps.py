"""The network of a detector on feature maps."""

from __future__ import annotations

from types import MethodType
from typing import Any

import paddle

from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.onednn.layers import take_feature_maps, take_tensors
from ppdet_repro.onednn.memory import POOL
from ppdet_repro.onednn.tape import FeatureMap, enter


def use_feature_maps(detector: Detector, dtype: int) -> None:
    """Let oneDNN compute what `detector.raw` computes in training mode; the rest of the detector sees tensors."""
    take_feature_maps(detector)
    plain, parameters = type(detector).raw, detector.parameters()

    def raw(self: Detector, image: paddle.Tensor) -> Any:
        if not self.training:
            return plain(self, image)
        POOL.trim()
        learned = [p for p in parameters if not p.stop_gradient]  # phases freeze some
        return paddle.utils.map_structure(as_tensor, plain(self, enter(image, learned, dtype)))

    detector.raw = MethodType(raw, detector)  # type: ignore[method-assign]


def use_tensors(detector: Detector) -> None:
    """Undo `use_feature_maps`."""
    detector.__dict__.pop("raw", None)
    take_tensors(detector)


def as_tensor(value: Any) -> Any:
    """An output of a head, as a tensor if it is a feature map."""
    return value.tensor() if isinstance(value, FeatureMap) else value
