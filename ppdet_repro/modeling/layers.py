"""Layers that several backbones, necks and heads are made of."""

from __future__ import annotations

from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant
from paddle.regularizer import L2Decay
from paddle.vision.ops import DeformConv2D

from ppdet_repro.utils.errors import UserError

NORM_TYPES = ("bn", "sync_bn")


def activation(name: str) -> nn.Layer:
    """The layer of an activation's name: relu, or leaky (slope 0.1 below zero)."""
    return nn.LeakyReLU(0.1) if name == "leaky" else nn.ReLU()


def reduce_mean(value: paddle.Tensor) -> paddle.Tensor:
    """The mean of a scalar tensor over all processes of a distributed run (itself where there is one)."""
    world = paddle.distributed.get_world_size()
    if world == 1:
        return value
    value = value.detach().clone()
    paddle.distributed.all_reduce(value)
    return value / world


def batch_norm(
    channels: int,
    norm_type: str = "bn",
    decay: Optional[float] = 0.0,
    frozen: bool = False,
    lr: float = 1.0,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> nn.BatchNorm2D:
    """Batch norm whose weight and bias have an L2 coefficient of their own.

    `decay` None leaves it to the optimizer. Frozen: running statistics also in training, no gradients. `momentum` is
    the share of the running statistics that an update keeps.
    `sync_bn` builds the same layer; the training engine converts it where several GPUs train.
    """
    if norm_type not in NORM_TYPES:
        raise UserError(f"norm_type {norm_type!r} is not one of {', '.join(NORM_TYPES)}")
    attr = ParamAttr(
        learning_rate=0.0 if frozen else lr, regularizer=None if decay is None else L2Decay(decay), trainable=not frozen
    )
    layer = nn.BatchNorm2D(
        channels, momentum, epsilon, weight_attr=attr, bias_attr=attr, use_global_stats=True if frozen else None
    )
    if frozen:
        freeze(layer)
    return layer


def nearest(x: paddle.Tensor, height, width) -> paddle.Tensor:
    """Nearest neighbours: [B, C, H, W] -> [B, C, height, width], place i showing i * H // height.

    Sizes that are known and no multiples are gathered: in Paddle Inference 2.6 an optimised program gets
    `interpolate` wrong there.
    """
    sizes = [(2, x.shape[2], height), (3, x.shape[3], width)]
    if not all(isinstance(old, int) and isinstance(new, int) and old > 0 for _, old, new in sizes):
        return F.interpolate(x, size=[height, width], mode="nearest")
    if all(new % old == 0 for _, old, new in sizes):
        return F.interpolate(x, size=[height, width], mode="nearest")
    for axis, old, new in sizes:
        x = paddle.gather(x, paddle.to_tensor([i * old // new for i in range(new)], "int32"), axis=axis)
    return x


def freeze(layer: nn.Layer) -> None:
    """Stop the gradients of all parameters of a layer."""
    for parameter in layer.parameters():
        parameter.stop_gradient = True


def offset_conv(
    in_channels: int, kernel_size: int, stride: int, bias_attr: Optional[ParamAttr] = None, modulated: bool = True
) -> nn.Conv2D:
    """The convolution that predicts a deformable one's 2*k*k offsets (dy, dx a tap) and, if that is modulated, k*k
    mask logits.

    It starts at zero: no offsets, and a mask of 0.5. Source: Zhu et al., "Deformable ConvNets v2", CVPR 2019;
    without a mask: Dai et al., "Deformable Convolutional Networks", ICCV 2017.
    """
    return nn.Conv2D(
        in_channels,
        (3 if modulated else 2) * kernel_size**2,
        kernel_size,
        stride=stride,
        padding=(kernel_size - 1) // 2,
        weight_attr=ParamAttr(initializer=Constant(0.0)),
        bias_attr=bias_attr or ParamAttr(initializer=Constant(0.0)),
    )


def deform(x: paddle.Tensor, conv_offset: nn.Conv2D, conv: DeformConv2D) -> paddle.Tensor:
    """Modulated deformable convolution of [B, C, H, W], offsets and mask predicted from the same map."""
    taps = conv_offset.weight.shape[0] // 3
    offset, mask = paddle.split(conv_offset(x), [2 * taps, taps], axis=1)
    return conv(x, offset, mask=F.sigmoid(mask))
