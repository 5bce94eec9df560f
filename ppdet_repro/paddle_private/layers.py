"""What Paddle's layers know of themselves but offer no public attribute for."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Sequence, Tuple, Union

import paddle
from paddle import nn
from paddle.base import core
from paddle.nn.quant import quant_layers
from paddle.vision.ops import DeformConv2D

BATCH_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.SyncBatchNorm)
OBSERVERS = (quant_layers.FakeQuantMovingAverageAbsMax, quant_layers.MovingAverageAbsMaxScale)


def is_frozen(norm: nn.Layer) -> bool:
    """Whether a batch norm uses its running statistics in training, too."""
    return bool(norm._use_global_stats)


def set_frozen(norm: nn.Layer, frozen: bool) -> None:
    """Make a batch norm use its running statistics in training, or the statistics of the batch again."""
    norm._use_global_stats = True if frozen else None


def running_statistics(norm: nn.Layer) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The running mean and variance of a batch norm."""
    return norm._mean, norm._variance


def epsilon(norm: nn.Layer) -> float:
    """What a batch norm adds to the variance."""
    return norm._epsilon


def momentum(norm: nn.Layer) -> float:
    """The share of the running statistics that a batch norm keeps in an update."""
    return norm._momentum


def set_momentum(norm: nn.Layer, value: float) -> None:
    """Set the share of the running statistics that a batch norm keeps in an update."""
    norm._momentum = value


class Geometry(NamedTuple):
    """The settings of a deformable convolution; an integer stands for both axes."""

    stride: Union[int, Sequence[int]]
    padding: Union[int, Sequence[int]]
    dilation: Union[int, Sequence[int]]
    groups: int
    deformable_groups: int


def geometry(layer: DeformConv2D) -> Geometry:
    """The settings that a deformable convolution was built with."""
    return Geometry(layer._stride, layer._padding, layer._dilation, layer._groups, layer._deformable_groups)


def replace_sublayer(model: nn.Layer, old: nn.Layer, new: nn.Layer) -> None:
    """Put the layer `new` wherever the model holds `old`."""
    for parent in model.sublayers(include_self=True):
        for name, child in parent._sub_layers.items():
            if child is old:
                parent._sub_layers[name] = new


def activation_ranges(model: nn.Layer) -> List[paddle.Tensor]:
    """The ranges of activations that the quantized layers of a model gather in training."""
    return [
        value
        for layer in model.sublayers()
        if isinstance(layer, OBSERVERS)
        for value in (layer._scale, layer._state, layer._accum)
        if value is not None
    ]


def remove_preprocessing(model: nn.Layer, kind: type) -> None:
    """Remove the layers of a kind that quantized layers apply to their inputs and weights."""
    for layer in model.sublayers():
        for name in ("_act_preprocess", "_weight_preprocess"):
            if isinstance(getattr(layer, name, None), kind):
                setattr(layer, name, None)


def test_graph(program: paddle.static.Program) -> Any:
    """The graph of a program in inference mode, as Paddle's quantization passes take it."""
    graph = paddle.base.framework.IrGraph(core.Graph(program.desc), for_test=True)
    for part in graph.all_sub_graphs():
        part._for_test = True
    return graph


def set_num_threads(count: int) -> None:
    """Set the number of CPU threads that Paddle's operators use in this process."""
    core.set_num_threads(count)
