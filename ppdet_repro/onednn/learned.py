"""Functions of feature maps that have parameters, with their gradients."""

from __future__ import annotations

from typing import List, Optional

import paddle
from paddle import nn

from ppdet_repro.onednn.convolution import Convolution, Geometry, convolution
from ppdet_repro.onednn.memory import POOL, Buffer, vector
from ppdet_repro.onednn.primitives import BatchNorm, batch_normalization
from ppdet_repro.onednn.tape import FeatureMap
from ppdet_repro.paddle_private import layers as private
from ppdet_repro.paddle_private.tensors import empty


def convolve(x: FeatureMap, weight: paddle.Tensor, bias: Optional[paddle.Tensor], geometry: Geometry) -> FeatureMap:
    """A convolution, plain or transposed."""
    tape = x.tape
    learns = tape.records and not weight.stop_gradient
    made = convolution(geometry, bias is not None, tape.dtype, learns, x.needs_grad)
    y = FeatureMap(tape, geometry.dst, x.needs_grad or learns)
    packed = POOL.take(made.bytes)
    made.pack(weight.data_ptr(), packed.address)
    biases = [] if bias is None else [bias.data_ptr()]
    made.forward(x.address, packed.address, *biases, y.address)

    def back() -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        if learns:
            _learn(x, weight, bias, made, gradient)
        if x.needs_grad:
            packed, result = POOL.take(made.bytes_for_data), x.new_buffer()
            made.pack_for_data(weight.data_ptr(), packed.address)
            made.backward_data(gradient.address, packed.address, result.address)
            x.add_grad(result)

    if y.needs_grad:
        tape.record(back)
    return y


def _learn(
    x: FeatureMap, weight: paddle.Tensor, bias: Optional[paddle.Tensor], made: Convolution, gradient: Buffer
) -> None:
    """Compute the gradients of a convolution's parameters."""
    found, packed = empty(weight.shape), POOL.take(made.gradient_bytes)
    biases = [] if bias is None else [empty(bias.shape)]
    made.backward_weights(x.address, gradient.address, packed.address, *[b.data_ptr() for b in biases])
    made.unpack(packed.address, found.data_ptr())
    x.tape.learn(weight, found)
    if bias is not None and not bias.stop_gradient:
        x.tape.learn(bias, biases[0])


def batch_norm(x: FeatureMap, layer: nn.BatchNorm2D) -> FeatureMap:
    """Batch normalization, with the running statistics of the layer where it is frozen. A ReLU may join it."""
    tape, channels = x.tape, x.shape[1]
    frozen = private.is_frozen(layer) or not layer.training
    learns = tape.records and not layer.weight.stop_gradient
    running = [statistic.data_ptr() for statistic in private.running_statistics(layer)]
    parameters = [layer.weight.data_ptr(), layer.bias.data_ptr()]

    def compute(y: FeatureMap, relu: bool) -> None:
        made = batch_normalization(x.shape, tape.dtype, private.epsilon(layer), relu, frozen)
        own = POOL.take(8 * channels)
        statistics = running if frozen else [own.address, own.address + 4 * channels]
        marks = [POOL.take(made.workspace_bytes)] if made.workspace_bytes else []
        made.forward(x.address, *statistics, *parameters, y.address, *[m.address for m in marks])
        if not frozen:
            keep = private.momentum(layer)
            for old, new in zip(running, statistics):
                values = vector(old, channels)
                values *= keep
                values += (1 - keep) * vector(new, channels)
        if y.needs_grad:
            tape.record(lambda: back(y, made, own, statistics, marks))

    def back(y: FeatureMap, made: BatchNorm, own: Buffer, statistics: List[int], marks: List[Buffer]) -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        result, scale, shift = x.new_buffer(), empty([channels]), empty([channels])
        addresses = [gradient.address, result.address, scale.data_ptr(), shift.data_ptr(), *[m.address for m in marks]]
        made.backward(x.address, *statistics, parameters[0], *addresses)
        if learns:
            tape.learn(layer.weight, scale)
            tape.learn(layer.bias, shift)
        if x.needs_grad:
            x.add_grad(result)

    return FeatureMap(tape, x.shape, x.needs_grad or learns, compute, joins_relu=True)
