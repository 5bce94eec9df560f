"""Layers that several backbones, necks and heads are made of."""

from __future__ import annotations

import math
from functools import partial
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal, Uniform
from paddle.regularizer import L2Decay
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.sizes import Size
from ppdet_repro.utils.errors import UserError

NORM_TYPES = ("bn", "sync_bn")

Activation = Callable[[paddle.Tensor], paddle.Tensor]
ACTIVATIONS: Dict[str, Activation] = {
    "hard_swish": F.hardswish,
    "leaky": partial(F.leaky_relu, negative_slope=0.1),
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "swish": F.silu,
}

Norm = Callable[..., nn.BatchNorm2D]
"""`batch_norm` with settings filled in (`functools.partial`): a number of channels -> a layer."""


def activation(name: str) -> nn.Layer:
    """The activation layer of that name: `relu`, or `leaky` (slope 0.1 for negative values)."""
    return nn.LeakyReLU(0.1) if name == "leaky" else nn.ReLU()


def reduce_mean(value: paddle.Tensor) -> paddle.Tensor:
    """The mean of a scalar tensor over all processes of a distributed run; without one, the tensor itself."""
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
    """Batch norm with its own weight decay.

    Args:
        norm_type: `bn` or `sync_bn`, else a UserError is raised. Both build the same layer; the training engine
            converts the model to synchronized batch norm when it trains on several GPUs.
        decay: L2 coefficient of weight and bias; None leaves them to the optimizer's
        frozen: use the running statistics in training too, and compute no gradients for weight and bias
        lr: factor on the learning rate of weight and bias
        momentum: the share of the old running statistics that an update keeps
        epsilon: added to the variance
    """
    if norm_type not in NORM_TYPES:
        raise UserError(f"norm_type {norm_type!r} is not one of {', '.join(NORM_TYPES)}")
    regularizer = None if decay is None else L2Decay(decay)
    attr = ParamAttr(learning_rate=0.0 if frozen else lr, regularizer=regularizer, trainable=not frozen)
    layer = nn.BatchNorm2D(channels, momentum, epsilon, attr, attr, use_global_stats=True if frozen else None)
    if frozen:
        freeze(layer)
    return layer


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding: Union[int, str, None] = None,
    weight_attr: Optional[ParamAttr] = None,
    bias_attr: Union[ParamAttr, bool, None] = False,
) -> nn.Conv2D:
    """Convolution without bias, unless `bias_attr` is given; None is Paddle's default bias.

    By default it is padded so that the map keeps its size at stride 1.
    """
    pad = dilation * (kernel_size - 1) // 2 if padding is None else padding
    attrs = {"weight_attr": weight_attr, "bias_attr": bias_attr}
    return nn.Conv2D(in_channels, out_channels, kernel_size, stride, pad, dilation, groups, **attrs)


def conv3x3(in_channels: int, out_channels: int, bias: Optional[float] = 0.0, padding: int = 1) -> nn.Conv2D:
    """3x3 convolution with weights from N(0, 0.01). `bias` is the initial value of its bias; None: it has no bias."""
    weight_attr = ParamAttr(initializer=Normal(0.0, 0.01))
    bias_attr = False if bias is None else ParamAttr(initializer=Constant(bias))
    return nn.Conv2D(in_channels, out_channels, 3, padding=padding, weight_attr=weight_attr, bias_attr=bias_attr)


def conv_tower(
    in_channels: int, channels: int, depth: int, norm: Optional[Callable[[int], nn.Layer]], act: str = "relu"
) -> nn.Sequential:
    """`depth` times 3x3 convolution, `norm(channels)` if it is given, and the activation of that name."""
    layers = []
    for i in range(depth):
        layers.append(conv3x3(in_channels if i == 0 else channels, channels))
        layers += [activation(act)] if norm is None else [norm(channels), activation(act)]
    return nn.Sequential(*layers)


def prior_bias(probability: float) -> float:
    """The bias with which a last layer predicts `probability` before it is trained. RetinaNet, section 4.1."""
    return -math.log((1 - probability) / probability)


class ConvNorm(nn.Layer):
    """Convolution, normalization and, if one is given, an activation function.

    The activation is a function rather than a layer because quantization-aware training adds observers, and with them
    entries of the state dict, to activation layers. `names` are those of the two layers in the state dict's keys, in
    which published checkpoints differ.
    """

    def __init__(
        self,
        conv: nn.Layer,
        norm: nn.Layer,
        act: Optional[Activation] = None,
        names: Tuple[str, str] = ("conv", "norm"),
    ):
        super().__init__()
        self.names = names
        for name, layer in zip(names, (conv, norm)):
            self.add_sublayer(name, layer)
        self.act = act

    def convolve(self, x: paddle.Tensor) -> paddle.Tensor:
        return getattr(self, self.names[0])(x)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = getattr(self, self.names[1])(self.convolve(x))
        return x if self.act is None else self.act(x)


class SqueezeExcitation(nn.Layer):
    """Scale each channel by a sigmoid of two linear layers of the channels' means; the middle has C / 16 channels.

    `names` are those of the two layers in the state dict's keys.
    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    def __init__(self, channels: int, names: Tuple[str, str] = ("squeeze", "extract")):
        super().__init__()
        self.names = names
        for name, c_in, c_out in zip(names, (channels, channels // 16), (channels // 16, channels)):
            bound = 1 / math.sqrt(c_in)
            attr = ParamAttr(initializer=Uniform(-bound, bound))
            self.add_sublayer(name, nn.Linear(c_in, c_out, weight_attr=attr))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.by_paddle(self.scaled, x)

    def scaled(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> the same shape."""
        squeeze, excite = (getattr(self, name) for name in self.names)
        scale = F.sigmoid(excite(F.relu(squeeze(x.mean(axis=[2, 3])))))  # [B, C]
        return x * scale.unsqueeze([2, 3])


def nearest(x: paddle.Tensor, height: Size, width: Size) -> paddle.Tensor:
    """Resize with nearest neighbors: [B, C, H, W] -> [B, C, height, width]; output row i shows row i * H // height.

    Where the sizes are known and not multiples of each other, rows and columns are gathered instead of interpolated,
    because an optimized program of Paddle Inference 2.6 computes `interpolate` wrongly there. In an exported program
    unknown sizes are tensors, or -1.
    """
    changes = [(2, x.shape[2], height), (3, x.shape[3], width)]
    if not all(isinstance(old, int) and isinstance(new, int) and old > 0 for _, old, new in changes):
        return F.interpolate(x, size=[height, width], mode="nearest")
    if all(new % old == 0 for _, old, new in changes):
        return F.interpolate(x, size=[height, width], mode="nearest")
    return F.by_paddle(gather_nearest, x, changes=changes)


def gather_nearest(x: paddle.Tensor, changes: Sequence[Tuple[int, int, int]]) -> paddle.Tensor:
    """`nearest` by gathering along each (axis, old size, new size)."""
    for axis, old, new in changes:
        x = paddle.gather(x, paddle.to_tensor([i * old // new for i in range(new)], "int32"), axis=axis)
    return x


def freeze(layer: nn.Layer) -> None:
    """Stop the gradients of all parameters of a layer."""
    for parameter in layer.parameters():
        parameter.stop_gradient = True


def offset_conv(
    in_channels: int, kernel_size: int, stride: int, bias_attr: Optional[ParamAttr] = None, modulated: bool = True
) -> nn.Conv2D:
    """The convolution that predicts the sampling offsets of a deformable convolution.

    Its output has 2 * k * k channels of offsets (dy and dx of each kernel position) and, if `modulated`, k * k channels
    of mask logits. It starts at zero: no offsets, and a mask of 0.5 everywhere.
    Source: Zhu et al., "Deformable ConvNets v2", CVPR 2019; without a mask: Dai et al., "Deformable Convolutional
    Networks", ICCV 2017.
    """
    out_channels, zero = (3 if modulated else 2) * kernel_size**2, ParamAttr(initializer=Constant(0.0))
    return conv2d(in_channels, out_channels, kernel_size, stride, weight_attr=zero, bias_attr=bias_attr or zero)


def deform(x: paddle.Tensor, conv_offset: nn.Conv2D, conv: DeformConv2D) -> paddle.Tensor:
    """Modulated deformable convolution of [B, C, H, W]; `conv_offset` predicts offsets and mask from the same map."""
    return F.by_paddle(deform_by, x, conv_offset(x), conv=conv)


def deform_by(x: paddle.Tensor, predicted: paddle.Tensor, conv: DeformConv2D) -> paddle.Tensor:
    """Deformable convolution by predicted offsets and mask logits [B, 3 * k * k, H, W]."""
    positions = predicted.shape[1] // 3  # of the kernel, k * k
    offset, mask = paddle.split(predicted, [2 * positions, positions], axis=1)
    return conv(x, offset, mask=F.sigmoid(mask))
