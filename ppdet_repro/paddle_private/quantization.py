"""Internals of Paddle's quantized layers and of its quantization passes."""

from __future__ import annotations

from typing import Any, List

import paddle
from paddle import nn
from paddle.base import core
from paddle.nn.quant import quant_layers

OBSERVERS = (quant_layers.FakeQuantMovingAverageAbsMax, quant_layers.MovingAverageAbsMaxScale)


def activation_ranges(model: nn.Layer) -> List[paddle.Tensor]:
    """The ranges of activations that the quantized layers of a model record in training."""
    observers = [layer for layer in model.sublayers() if isinstance(layer, OBSERVERS)]
    ranges = [value for layer in observers for value in (layer._scale, layer._state, layer._accum)]
    return [value for value in ranges if value is not None]


def remove_preprocessing(model: nn.Layer) -> None:
    """Remove what quantized layers apply to their inputs and weights before rounding, after applying it to the
    weights."""
    for layer in model.sublayers():
        if getattr(layer, "_weight_preprocess", None) is not None:
            layer.weight.set_value(layer._weight_preprocess(layer.weight).detach())
            layer._weight_preprocess = None
        if getattr(layer, "_act_preprocess", None) is not None:
            layer._act_preprocess = None


def inference_graph(program: paddle.static.Program) -> Any:
    """A program as the graph, in inference mode, that Paddle's quantization passes work on."""
    graph = paddle.base.framework.IrGraph(core.Graph(program.desc), for_test=True)
    for part in graph.all_sub_graphs():
        part._for_test = True
    return graph


def leave_batch_norms_exact(program: Any) -> None:
    """Remove the rounding between a convolution and the batch norm that reads its output.

    Converters and engines fold the batch norm into the convolution; what follows then has another range, but would be
    rounded and clipped to the range from before the batch norm.
    """
    block = program.global_block()
    writers = {name: operator for operator in block.ops for name in operator.output_arg_names}
    rounding = []
    for norm in [operator for operator in block.ops if operator.type == "batch_norm"]:
        after = writers.get(norm.input("X")[0])
        before = after and writers.get(after.input("X")[0])
        if after and before and (before.type, after.type) == ("quantize_linear", "dequantize_linear"):
            norm._rename_input(norm.input("X")[0], before.input("X")[0])
            rounding += [before, after]
    for operator in rounding:
        block._remove_op(block.ops.index(operator), sync=False)
    block._sync_with_cpp()
