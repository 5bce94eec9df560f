"""Change the number of channels of layers that exist."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.paddle_private.layers import BATCH_NORMS


def groups(layer: nn.Layer) -> int:
    """The number of groups of a convolution."""
    return int(layer._groups)


def replace_value(parameter: paddle.Tensor, value: np.ndarray) -> None:
    """Give a parameter a value of another shape. Its name, its optimizer settings and its data type stay."""
    gpu = parameter.place.is_gpu_place()
    place = paddle.CUDAPlace(parameter.place.gpu_device_id()) if gpu else paddle.CPUPlace()
    parameter.get_tensor().set(value, place)


def follow_shapes(layer: nn.Layer, group_count: int) -> None:
    """Make what a convolution or batch norm notes about its channels agree with the shape of its weight, after a
    change of that shape. `group_count` is the new number of groups of a convolution."""
    if isinstance(layer, BATCH_NORMS):
        layer._num_features = layer._mean.shape[0]
        return
    layer._groups = group_count
    first, second = layer.weight.shape[0], layer.weight.shape[1] * group_count
    transposed = isinstance(layer, nn.Conv2DTranspose)  # weight [in, out / groups, kh, kw]
    layer._in_channels, layer._out_channels = (first, second) if transposed else (second, first)
