"""Functions of maps [B, C, H, W] that networks are made of, with the names and arguments of `paddle.nn.functional`.

Each takes a tensor, or a `FeatureMap`, on which oneDNN computes it (training on a CPU).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Optional, Sequence, TypeVar, Union

import paddle
import paddle.nn.functional as F

from ppdet_repro.onednn import functions as onednn
from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.tape import FeatureMap

Map = TypeVar("Map", paddle.Tensor, FeatureMap)
Size = Union[int, Sequence[int]]


def relu(x: Map) -> Map:
    return onednn.relu(x) if isinstance(x, FeatureMap) else F.relu(x)


def relu6(x: Map) -> Map:
    return onednn.activate(x, dnn.CLIP, 0.0, 6.0) if isinstance(x, FeatureMap) else F.relu6(x)


def leaky_relu(x: Map, negative_slope: float = 0.01) -> Map:
    if isinstance(x, FeatureMap):
        return onednn.activate(x, dnn.RELU, negative_slope)
    return F.leaky_relu(x, negative_slope)


def mish(x: Map) -> Map:
    return onednn.activate(x, dnn.MISH) if isinstance(x, FeatureMap) else F.mish(x)


def silu(x: Map) -> Map:
    return onednn.activate(x, dnn.SWISH, 1.0) if isinstance(x, FeatureMap) else F.silu(x)


def swish(x: Map) -> Map:
    return onednn.activate(x, dnn.SWISH, 1.0) if isinstance(x, FeatureMap) else F.swish(x)


def hardswish(x: Map) -> Map:
    return onednn.activate(x, dnn.HARD_SWISH, 1 / 6, 0.5) if isinstance(x, FeatureMap) else F.hardswish(x)


def hardsigmoid(x: Map, slope: float = 1 / 6, offset: float = 0.5) -> Map:
    if isinstance(x, FeatureMap):
        return onednn.activate(x, dnn.HARD_SIGMOID, slope, offset)
    return F.hardsigmoid(x, slope, offset)


def sigmoid(x: Map) -> Map:
    return onednn.activate(x, dnn.LOGISTIC_BY_OUTPUT) if isinstance(x, FeatureMap) else F.sigmoid(x)


def max_pool2d(x: Map, kernel_size: int, stride: Optional[int] = None, padding: Union[int, str] = 0) -> Map:
    if isinstance(x, FeatureMap):
        return onednn.pool(x, dnn.MAX_POOLING, kernel_size, stride or kernel_size, padding)
    return F.max_pool2d(x, kernel_size, stride, padding)


def avg_pool2d(x: Map, kernel_size: int, stride: Optional[int] = None, padding: Union[int, str] = 0) -> Map:
    if isinstance(x, FeatureMap):
        return onednn.pool(x, dnn.AVERAGE_POOLING, kernel_size, stride or kernel_size, padding)
    return F.avg_pool2d(x, kernel_size, stride, padding)


def mean_of_locations(x: Map) -> Map:
    """[B, C, H, W] -> [B, C, 1, 1]."""
    return onednn.mean_of_locations(x) if isinstance(x, FeatureMap) else x.mean(axis=[2, 3], keepdim=True)


def adaptive_avg_pool2d(x: Map, output_size: int) -> Map:
    """The mean of all locations; `output_size` is 1."""
    return onednn.mean_of_locations(x) if isinstance(x, FeatureMap) else F.adaptive_avg_pool2d(x, output_size)


def interpolate(
    x: Map, size: Optional[Sequence[int]] = None, scale_factor: Optional[float] = None, mode: str = "nearest"
) -> Map:
    """With nearest neighbors, `size` must be a multiple of the map's."""
    if isinstance(x, FeatureMap):
        height, width = size or [int(side * (scale_factor or 1)) for side in x.shape[2:]]
        return onednn.resize(x, height, width, dnn.NEAREST if mode == "nearest" else dnn.BILINEAR)
    return F.interpolate(x, size=size, scale_factor=scale_factor, mode=mode)


def concat(maps: Sequence[Map], axis: int = 1) -> Map:
    """Maps side by side along their channels; tensors among feature maps need no gradient."""
    like = next((x for x in maps if isinstance(x, FeatureMap)), None)
    if like is None:
        return paddle.concat(maps, axis=axis)
    return onednn.concatenate([x if isinstance(x, FeatureMap) else onednn.constant(x, like) for x in maps])


def weighted_sum(weights: paddle.Tensor, maps: Sequence[Map]) -> Map:
    """The sum of maps of the same shape, each times its weight; weights [n]."""
    if isinstance(maps[0], FeatureMap):
        return onednn.weighted_sum(maps, weights)
    return sum(weight * x for weight, x in zip(weights.unbind(), maps))


def by_paddle(function: Callable[..., paddle.Tensor], *maps: Map, **settings: Any) -> Map:
    """What a function of tensors, which only Paddle computes, returns for maps. It also gets the settings."""
    if isinstance(maps[0], FeatureMap):
        return onednn.through_paddle(partial(function, **settings), *maps)
    return function(*maps, **settings)  # not a `partial`, which Paddle cannot trace
