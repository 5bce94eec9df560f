"""Layers of Paddle that also take feature maps."""

from __future__ import annotations

from types import MethodType
from typing import Any, Callable, Dict, Type

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.onednn import functions, learned
from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.functions import pair
from ppdet_repro.onednn.primitives import Pair
from ppdet_repro.onednn.tape import FeatureMap
from ppdet_repro.paddle_private import layers as private

Handler = Callable[[Any, FeatureMap], FeatureMap]


def convolve(layer: nn.Conv2D, x: FeatureMap) -> FeatureMap:
    geometry = private.convolution_geometry(layer)
    stride, dilation, kernel = pair(geometry.stride), pair(geometry.dilation), pair(layer.weight.shape[2:])
    if is_wrong_in_onednn(x, layer.weight.shape[1], kernel, stride):
        return functions.through_paddle(layer, x)
    padding = functions.paddings(geometry.padding, x.shape[2:], kernel, stride, dilation)
    return learned.convolve(x, layer.weight, layer.bias, stride, padding, dilation, geometry.groups)


def is_wrong_in_onednn(x: FeatureMap, channels: int, kernel: Pair, stride: Pair) -> bool:
    """Whether oneDNN 3.2.1 and 3.6.2 have no right gradient of the weights of a convolution; `channels` of a group.

    A 1x1 convolution with a stride first copies the pixels it needs, to places in its scratch memory that are as far
    apart as those of a full vector of channels (8 floats with AVX2, 16 with AVX-512), but the memory is only as large
    as the pixels. With fewer channels it writes beyond: wrong gradients, threads that wait forever, or a crash later.
    In bfloat16, a map of one column is read beyond its end: some gradients are infinite or wrong.
    """
    if kernel == (1, 1) and max(stride) > 1 and channels < 16:
        return True
    return x.tape.dtype == dnn.BF16 and x.shape[3] == 1 and stride[1] > 1


def convolve_transposed(layer: nn.Conv2DTranspose, x: FeatureMap) -> FeatureMap:
    geometry, extra = private.convolution_geometry(layer), pair(layer.output_padding)
    wrong = x.tape.dtype == dnn.BF16 and geometry.groups == 1  # with 48 channels, or a map of one column
    if wrong or isinstance(geometry.padding, str) or pair(geometry.dilation) != (1, 1):
        return functions.through_paddle(layer, x)
    stride, padding = pair(geometry.stride), pair(geometry.padding)
    return learned.convolve_transposed(x, layer.weight, layer.bias, stride, padding, extra, geometry.groups)


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
