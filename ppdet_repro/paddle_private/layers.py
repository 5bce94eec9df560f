"""Accessors for properties of Paddle's layers that have no public attribute."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Tuple, Union

import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

BATCH_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)


def is_frozen(norm: nn.Layer) -> bool:
    """Whether a batch norm normalizes with its running statistics in training mode, too."""
    return bool(norm._use_global_stats)


def set_frozen(norm: nn.Layer, frozen: bool) -> None:
    """Choose what a batch norm normalizes with in training mode: its running statistics, or those of the batch."""
    norm._use_global_stats = True if frozen else None


def running_statistics(norm: nn.Layer) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The running mean and variance [C] of a batch norm."""
    return norm._mean, norm._variance


def epsilon(norm: nn.Layer) -> float:
    """The number that a batch norm adds to the variance."""
    return norm._epsilon


def momentum(norm: nn.Layer) -> float:
    """The factor with which a batch norm keeps its running statistics in an update."""
    return norm._momentum


def set_momentum(norm: nn.Layer, value: float) -> None:
    """Set the factor that `momentum` returns."""
    norm._momentum = value


def geometry(layer: DeformConv2D) -> Tuple[List[int], List[int], List[int], int, int]:
    """Stride, padding and dilation per axis, groups and deformable groups of a deformable convolution."""
    return layer._stride, layer._padding, layer._dilation, layer._groups, layer._deformable_groups


class ConvolutionGeometry(NamedTuple):
    """The arguments with which a convolution was made; a number counts for both axes."""

    stride: Union[int, Tuple[int, ...]]
    padding: Union[int, str, Tuple[int, ...]]
    dilation: Union[int, Tuple[int, ...]]
    groups: int


def convolution_geometry(layer: Union[nn.Conv2D, nn.Conv2DTranspose]) -> ConvolutionGeometry:
    """Stride, padding, dilation and groups of a convolution, plain or transposed."""
    return ConvolutionGeometry(
        _hashable(layer._stride), _hashable(layer._padding), _hashable(layer._dilation), layer._groups
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def negative_slope(layer: nn.LeakyReLU) -> float:
    """The slope of a leaky ReLU for negative values."""
    return layer._negative_slope


def replace_sublayer(model: nn.Layer, old: nn.Layer, new: nn.Layer) -> None:
    """Put the layer `new` in every place where the model holds the layer `old`."""
    for parent in model.sublayers(include_self=True):
        for name, child in parent._sub_layers.items():
            if child is old:
                parent._sub_layers[name] = new
