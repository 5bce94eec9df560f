"""Remove channels from the layers of a detector, and give a detector the shapes of a pruned weight file."""

from __future__ import annotations

import math
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.paddle_private.channels import follow_shapes, groups, replace_value
from ppdet_repro.slim.qat import plain_name

CONVOLUTIONS = (nn.Conv2D, nn.Conv2DTranspose, DeformConv2D)
SHRINKING = (*CONVOLUTIONS, nn.BatchNorm2D, nn.SyncBatchNorm)  # layers whose channels pruning removes
COUNTED = (*CONVOLUTIONS, nn.Linear)
BACKUP = re.compile(r"_[wb]_\d+_backup$")  # the weights before pruning, which PaddleSlim leaves in a state dict
PROBE = (128, 128)  # height and width of the image whose outputs must keep their shapes

Size = Tuple[int, int]  # height, width in pixels
Masks = Dict[str, Dict[int, np.ndarray]]  # name of a parameter -> axis -> which of its channels are kept, [C] bool


class Owned(NamedTuple):
    """A parameter and the layer that it belongs to."""

    layer: nn.Layer
    parameter: paddle.Tensor


class Costs:
    """The multiply-adds of a detector on one image, for its present channels or fewer.

    Args:
        size: of the image
    """

    def __init__(self, detector: Detector, size: Size):
        self.positions: Dict[str, int] = {}  # how often the network multiplies with each weight, by name

        def watch(name: str, layer: nn.Layer) -> Any:
            def hook(layer: nn.Layer, inputs: Any, output: paddle.Tensor) -> None:
                places = inputs[0] if isinstance(layer, nn.Conv2DTranspose) else output
                channels = places.shape[-1 if isinstance(layer, nn.Linear) else 1]
                self.positions[name] = self.positions.get(name, 0) + math.prod(places.shape) // channels

            return layer.register_forward_post_hook(hook)

        layers = [(name, layer) for name, layer in detector.named_sublayers() if isinstance(layer, COUNTED)]
        hooks = [watch(f"{name}.weight", layer) for name, layer in layers]
        try:
            raw_shapes(detector, size)
        finally:
            for hook in hooks:
                hook.remove()

    def total(self, detector: Detector, masks: Optional[Masks] = None) -> int:
        """The multiply-adds; with `masks` those after `remove_channels` with them."""
        shapes = {name: list(parameter.shape) for name, parameter in detector.named_parameters()}
        for name, axes in (masks or {}).items():
            for axis, mask in axes.items():
                shapes[name][axis] = int(mask.sum())
        return sum(count * math.prod(shapes[name]) for name, count in self.positions.items())


def raw_shapes(detector: Detector, size: Size) -> List[List[int]]:
    """The shapes of the head's outputs for one black image of this size, in evaluation mode."""
    training = detector.training
    detector.eval()
    try:
        with paddle.no_grad():
            return [list(value.shape) for value in tensors(detector.raw(paddle.zeros([1, 3, *size])))]
    finally:
        if training:
            detector.train()


def tensors(value: Any) -> Iterator[Any]:
    """All tensors, or variables of a program, in nested lists, tuples and dictionaries."""
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
    elif value is not None:
        yield value


def owned_parameters(detector: nn.Layer) -> Dict[str, Owned]:
    """The parameters of a model by name, running statistics of batch norms among them, with their layers."""
    return {
        f"{prefix}{'.' if prefix else ''}{name}": Owned(layer, parameter)
        for prefix, layer in detector.named_sublayers(include_self=True)
        for name, parameter in layer.named_parameters(include_sublayers=False)
    }


def remove_channels(detector: Detector, masks: Masks) -> None:
    """Remove the channels that the masks do not keep."""
    owned = owned_parameters(detector)
    values = {}
    for name, axes in masks.items():
        value = owned[name].parameter.numpy()
        for axis, mask in axes.items():
            value = np.compress(mask, value, axis)
        values[name] = value
    set_values(detector, owned, values)


def set_values(detector: Detector, owned: Mapping[str, Owned], values: Mapping[str, np.ndarray]) -> None:
    """Give parameters values of other shapes, and make their layers, backbone and neck agree with that."""
    before = {name: owned[name].parameter.shape for name in values}
    for name, value in values.items():
        replace_value(owned[name].parameter, np.ascontiguousarray(value))
    for name in values:
        layer, parameter = owned[name]
        if not isinstance(layer, CONVOLUTIONS):
            follow_shapes(layer, 1)
        elif parameter is layer.weight:
            count = groups(layer)
            follow_shapes(layer, count if count == 1 else count * parameter.shape[0] // before[name][0])


def probe_masks(detector: Detector, masks: Masks) -> bool:
    """Whether the network runs without the channels that the masks remove, and has outputs of the same shapes. The
    detector is unchanged."""
    owned, outputs = owned_parameters(detector), raw_shapes(detector, PROBE)
    old = kept_values(owned, masks)
    remove_channels(detector, masks)
    fits = shapes_or_none(detector) == outputs
    set_values(detector, owned, old)
    return fits


def note_channels(detector: Detector) -> None:
    """Make `out_shape` of backbone and neck agree with the maps that they return."""
    training = detector.training
    detector.eval()
    with paddle.no_grad():
        maps = detector.backbone(paddle.zeros([1, 3, *PROBE]))
        for part, outputs in ((detector.backbone, maps), (detector.neck, detector.neck(maps))):
            channels = [value.shape[1] for value in tensors(outputs)]
            if len(channels) == len(part.out_shape):
                part.out_shape = [shape._replace(channels=count) for shape, count in zip(part.out_shape, channels)]
    if training:
        detector.train()


def without_backups(state: Mapping[str, Any]) -> Dict[str, Any]:
    """The entries of a state dict without the copies that PaddleSlim keeps of pruned weights."""
    return {name: value for name, value in state.items() if not BACKUP.search(name)}


def shrink_to(detector: nn.Layer, shapes: Mapping[str, Sequence[int]]) -> Optional[str]:
    """Give a detector the shapes of a pruned model's weights, if they are those of the same model with fewer channels.

    They are if every parameter of the detector has a shape, those that differ belong to convolutions and batch norms
    and are smaller in their channels alone, and the network then runs and has outputs of the same shapes as before.
    Otherwise the detector is unchanged. The new values are zeros: the caller assigns them.

    Args:
        shapes: by name of the parameter; names with the prefixes of quantization-aware training are understood

    Returns:
        A sentence for the log about what became smaller, or None if the detector is unchanged.
    """
    if not isinstance(detector, Detector):
        return None
    plain = {plain_name(name): list(shape) for name, shape in shapes.items()}
    owned = owned_parameters(detector)
    if set(owned) - set(plain):
        return None
    other = {name: plain[name] for name, (_, parameter) in owned.items() if plain[name] != parameter.shape}
    if not other or not all(is_smaller(owned[name], shape) for name, shape in other.items()):
        return None
    costs, outputs, old = Costs(detector, PROBE), raw_shapes(detector, PROBE), kept_values(owned, other)
    full = costs.total(detector)
    types = {name: value.dtype for name, value in old.items()}
    set_values(detector, owned, {name: np.zeros(shape, types[name]) for name, shape in other.items()})
    if shapes_or_none(detector) != outputs:
        set_values(detector, owned, old)
        return None
    note_channels(detector)
    convolutions = [name for name, (layer, _) in owned.items() if isinstance(layer, CONVOLUTIONS) and is_weight(name)]
    count = sum(name in other for name in convolutions)
    share = 1 - costs.total(detector) / full
    return f"a pruned model: {count} of {len(convolutions)} convolutions are smaller, {share:.1%} fewer multiply-adds"


def is_weight(name: str) -> bool:
    return name.endswith("weight")


def kept_values(owned: Mapping[str, Owned], names: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """Copies of the values of these parameters."""
    return {name: np.array(owned[name].parameter.numpy()) for name in names}


def is_smaller(owned: Owned, shape: Sequence[int]) -> bool:
    """Whether pruning can have given a parameter this shape."""
    old = owned.parameter.shape
    fewer = len(old) == len(shape) and all(0 < b <= a for a, b in zip(old, shape))
    return isinstance(owned.layer, SHRINKING) and fewer and list(old[2:]) == list(shape[2:])


def shapes_or_none(detector: Detector) -> Optional[List[List[int]]]:
    """The shapes of the outputs for the probe, None if the layers do not fit together."""
    try:
        return raw_shapes(detector, PROBE)
    except (ValueError, RuntimeError, AssertionError):
        return None
