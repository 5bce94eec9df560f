"""Counts the parameters of a model, and the multiply-adds (one multiplication with one addition) that an image costs.

Counted are convolutions (also dilated, grouped and transposed ones, and deformable ones with the convolution that
predicts their offsets) and linear layers, each as often as it is called. Positions in zero padding count like any
other. Not counted are biases, normalization, activations, pooling, resizing, sums, the sampling of deformable
convolutions, decoding and NMS.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.models import mode
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import RUNNING_STATISTICS

COUNTED = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear, DeformConv2D)
TYPICAL_SIZES = ((480, 640), (480, 800))  # the most common size in COCO; one that becomes 800 x 1333, the largest

Size = Tuple[int, int]  # height, width in pixels


class Parameters(NamedTuple):
    """Numbers of parameters without the running statistics of batch norms."""

    total: int
    trainable: int  # those that are not frozen


class Cost(NamedTuple):
    """What one image costs."""

    parts: Dict[str, int]  # multiply-adds by the name of the part
    idle: List[str]  # layers that have weights but were not counted: they were not called, or are of another kind
    deformable: int = 0  # the part of deformable convolutions, without the convolutions that predict their offsets

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class CountedImage(NamedTuple):
    """The sizes of an image, and what the network costs on it."""

    original: Optional[Size]  # before the transforms; None if only the input's size is given
    resized: Size
    padded: Size
    cost: Cost


def count_parameters(layer: nn.Layer) -> Parameters:
    """Count the parameters of a layer and its sublayers. Shared ones count once."""
    counted = [p for name, p in layer.named_parameters() if not ("." + name).endswith(RUNNING_STATISTICS)]
    sizes = [math.prod(p.shape) for p in counted]
    return Parameters(sum(sizes), sum(n for n, p in zip(sizes, counted) if not p.stop_gradient))


def multiply_adds(layer: nn.Layer, source: paddle.Tensor, output: paddle.Tensor) -> int:
    """What one call of a layer of a kind in `COUNTED` costs."""
    shape = layer.weight.shape
    if isinstance(layer, nn.Linear):  # weight [in, out]
        return math.prod(output.shape) * shape[0]
    if isinstance(layer, nn.Conv2DTranspose):  # weight [in, out / groups, kh, kw], for each input value
        return math.prod(source.shape) * math.prod(shape[1:])
    return math.prod(output.shape) * math.prod(shape[1:])  # weight [out, in / groups, kh, kw]


def count(model: nn.Layer, run: Callable[[], object]) -> Cost:
    """Count the multiply-adds while `run` calls the model, which is in eval mode meanwhile.
    The parts of the cost are the children of the model; "" is the model itself."""
    parts: Dict[str, int] = {name: 0 for name, _ in model.named_children()}
    deformable: List[int] = []
    called = set()

    def watch(name: str, layer: nn.Layer):
        def hook(layer, inputs, output):
            part, cost = name.split(".")[0], multiply_adds(layer, inputs[0], output)
            parts[part] = parts.get(part, 0) + cost
            called.add(name)
            if isinstance(layer, DeformConv2D):
                deformable.append(cost)

        return layer.register_forward_post_hook(hook)

    layers = dict(model.named_sublayers(include_self=True))
    hooks = [watch(name, layer) for name, layer in layers.items() if isinstance(layer, COUNTED)]
    try:
        with mode(model, training=False), paddle.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    weights = {name: layer.parameters(include_sublayers=False) for name, layer in layers.items() if name not in called}
    idle = [name for name, own in weights.items() if any(len(p.shape) > 1 for p in own)]
    return Cost(parts, idle, sum(deformable))


def count_input(model: Detector, size: Size) -> Cost:
    """Count the multiply-adds of the network on one image of that input size."""
    image = paddle.zeros([1, 3, *size])
    return count(model, lambda: model.raw(image))


def input_size(preprocess: Preprocess, original: Size) -> Tuple[Size, Size]:
    """The size of an image after resizing, and after padding, when the network sees it."""
    inputs = preprocess([np.zeros((*original, 3), np.uint8)])
    height, width = inputs.im_shape[0]
    return (int(height), int(width)), (inputs.image.shape[2], inputs.image.shape[3])


def count_images(model: Detector, preprocess: Preprocess, sizes: Sequence[Size]) -> List[CountedImage]:
    """Count the multiply-adds for images of these sizes after preprocessing. Each input size is counted once."""
    costs: Dict[Size, Cost] = {}
    images = []
    for original in sizes:
        resized, padded = input_size(preprocess, original)
        if padded not in costs:
            costs[padded] = count_input(model, padded)
        images.append(CountedImage(original, resized, padded, costs[padded]))
    return images
