"""Layers of Paddle that also take feature maps."""

from __future__ import annotations

from functools import lru_cache
from types import MethodType
from typing import Any, Callable, Dict, Optional, Type

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.onednn import functions, learned
from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.convolution import Geometry
from ppdet_repro.onednn.functions import pair
from ppdet_repro.onednn.primitives import Pair, Shape
from ppdet_repro.onednn.tape import FeatureMap
from ppdet_repro.paddle_private import layers as private

Handler = Callable[[Any, FeatureMap], FeatureMap]


def convolve(layer: nn.Conv2D, x: FeatureMap) -> FeatureMap:
    weight, arguments = layer.weight, private.convolution_geometry(layer)
    geometry = plain_geometry(x.shape, x.tape.dtype, tuple(weight.shape), arguments)
    if geometry is None:
        return functions.through_paddle(layer, x)
    return learned.convolve(x, weight, layer.bias, geometry)


@lru_cache(maxsize=4096)  # images of any size make ever new ones
def plain_geometry(
    shape: Shape, dtype: int, weight: Shape, arguments: private.ConvolutionGeometry
) -> Optional[Geometry]:
    """A convolution of a map of this shape with weights [O, C / groups, kh, kw]; None: Paddle must compute it."""
    stride, dilation, kernel = pair(arguments.stride), pair(arguments.dilation), pair(weight[2:])
    if is_wrong_in_onednn(shape, dtype, weight[1], kernel, stride):
        return None
    before, after = functions.paddings(arguments.padding, shape[2:], kernel, stride, dilation)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    out = [(s + b + a - r) // st + 1 for s, b, a, r, st in zip(shape[2:], before, after, reach, stride)]
    return Geometry(
        shape, weight, (shape[0], weight[0], *out), stride, dilation, before, after, arguments.groups, False
    )


def is_wrong_in_onednn(shape: Shape, dtype: int, channels: int, kernel: Pair, stride: Pair) -> bool:
    """Whether oneDNN 3.2.1 and 3.6.2 have no right gradient of the weights of a convolution; `channels` of a group.

    A 1x1 convolution with a stride first copies the pixels it needs, to places in its scratch memory that are as far
    apart as those of a full vector of channels (8 floats with AVX2, 16 with AVX-512), but the memory is only as large
    as the pixels. With fewer channels it writes beyond: wrong gradients, threads that wait forever, or a crash later.
    In bfloat16, a map of one column is read beyond its end: some gradients are infinite or wrong.
    """
    if kernel == (1, 1) and max(stride) > 1 and channels < 16:
        return True
    return dtype == dnn.BF16 and shape[3] == 1 and stride[1] > 1


def convolve_transposed(layer: nn.Conv2DTranspose, x: FeatureMap) -> FeatureMap:
    weight, arguments = layer.weight, private.convolution_geometry(layer)
    geometry = transposed_geometry(x.shape, x.tape.dtype, tuple(weight.shape), arguments, pair(layer.output_padding))
    if geometry is None:
        return functions.through_paddle(layer, x)
    return learned.convolve(x, weight, layer.bias, geometry)


@lru_cache(maxsize=4096)  # images of any size make ever new ones
def transposed_geometry(
    shape: Shape, dtype: int, weight: Shape, arguments: private.ConvolutionGeometry, extra: Pair
) -> Optional[Geometry]:
    """A transposed convolution with weights [C, O / groups, kh, kw]; `extra` rows and columns are added at the end;
    None: Paddle must compute it."""
    wrong = dtype == dnn.BF16 and arguments.groups == 1  # with 48 channels, or a map of one column
    if wrong or isinstance(arguments.padding, str) or pair(arguments.dilation) != (1, 1):
        return None
    stride, padding, groups = pair(arguments.stride), pair(arguments.padding), arguments.groups
    sides = zip(shape[2:], stride, padding, weight[2:], extra)
    out = [(s - 1) * st - 2 * p + k + e for s, st, p, k, e in sides]
    after = (padding[0] - extra[0], padding[1] - extra[1])
    dst = (shape[0], weight[1] * groups, *out)
    return Geometry(shape, weight, dst, stride, (1, 1), padding, after, groups, True)


def average(layer: nn.AvgPool2D, x: FeatureMap) -> FeatureMap:
    if not layer.exclusive or layer.divisor:
        return functions.through_paddle(layer, x)
    stride = layer.ksize if layer.stride is None else layer.stride
    return functions.pool(x, dnn.AVERAGE_POOLING, layer.ksize, stride, layer.padding, layer.ceil_mode)


def drop(layer: nn.Dropout, x: FeatureMap) -> FeatureMap:
    """With `axis=0`, whole images; it takes as many random numbers as Paddle does for a tensor."""
    if not layer.training or layer.p == 0:
        return x
    if layer.axis != 0:
        return functions.through_paddle(layer, x)
    factors = F.dropout(paddle.ones([x.shape[0], 1, 1, 1]), layer.p, axis=0, training=True, mode=layer.mode)
    return functions.product(x, functions.constant(factors, x))


HANDLERS: Dict[Type[nn.Layer], Handler] = {
    nn.Conv2D: convolve,
    nn.Conv2DTranspose: convolve_transposed,
    nn.BatchNorm2D: lambda layer, x: learned.batch_norm(x, layer),
    nn.ReLU: lambda layer, x: functions.relu(x),
    nn.ReLU6: lambda layer, x: functions.activate(x, dnn.CLIP, 0.0, 6.0),
    nn.LeakyReLU: lambda layer, x: functions.activate(x, dnn.RELU, private.negative_slope(layer)),
    nn.AvgPool2D: average,
    nn.Dropout: drop,
    nn.GroupNorm: lambda layer, x: functions.through_paddle(layer, x),
}


def take_feature_maps(network: nn.Layer) -> None:
    """Let the layers of a network, which do what they did with tensors, also take feature maps."""
    for layer in network.sublayers(include_self=True):
        handler = HANDLERS.get(type(layer))
        if handler is not None and "forward" not in vars(layer):
            layer.forward = MethodType(either(handler, type(layer).forward), layer)


def take_tensors(network: nn.Layer) -> None:
    """Undo `take_feature_maps`."""
    for layer in network.sublayers(include_self=True):
        if type(layer) in HANDLERS:
            layer.__dict__.pop("forward", None)


def either(handler: Handler, forward: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(layer: nn.Layer, x: Any) -> Any:
        return handler(layer, x) if isinstance(x, FeatureMap) else forward(layer, x)

    return chosen
