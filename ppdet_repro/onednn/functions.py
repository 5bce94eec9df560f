"""Functions of feature maps without parameters, with their gradients."""

from __future__ import annotations

from typing import Callable, Sequence, Tuple, Union

import numpy as np
import paddle

from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn import primitives
from ppdet_repro.onednn.memory import POOL, Buffer, vector
from ppdet_repro.onednn.primitives import Pair, Shape
from ppdet_repro.onednn.tape import OPERATORS, FeatureMap, dense_tensor, packed

Numbers = Union[int, Sequence[int]]


def total(a: FeatureMap, b: FeatureMap) -> FeatureMap:
    """The sum of two maps of the same shape. A ReLU may join it."""
    tape = a.tape

    def compute(y: FeatureMap, relu: bool) -> None:
        primitives.binary(a.shape, b.shape, tape.dtype, dnn.ADD, relu)(a.address, b.address, y.address)
        if y.needs_grad:
            tape.record(lambda: back(y, relu))

    def back(y: FeatureMap, relu: bool) -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        if relu:
            result, backward = y.new_buffer(), primitives.elementwise(y.shape, tape.dtype, dnn.RELU_BY_OUTPUT)[1]
            backward(y.address, gradient.address, result.address)
            gradient = result
        for part in (a, b):
            if part.needs_grad:
                part.add_grad(gradient)

    return FeatureMap(tape, a.shape, a.needs_grad or b.needs_grad, compute, joins_relu=True)


def relu(x: FeatureMap) -> FeatureMap:
    """It joins the function before it, if that can compute both at once and nothing has asked for its values yet."""
    joined = x.with_relu()
    return activate(x, dnn.RELU_BY_OUTPUT) if joined is None else joined


def activate(x: FeatureMap, kind: int, alpha: float = 0.0, beta: float = 0.0) -> FeatureMap:
    """One of oneDNN's functions of each value."""
    y = FeatureMap(x.tape, x.shape, x.needs_grad)
    forward, backward = primitives.elementwise(x.shape, x.tape.dtype, kind, alpha, beta)
    forward(x.address, y.address)
    values = y if kind in dnn.BY_OUTPUT else x
    return _recorded(x, y, lambda gradient, result: backward(values.address, gradient, result))


def _recorded(x: FeatureMap, y: FeatureMap, backward: Callable[[int, int], None]) -> FeatureMap:
    """`y`, computed from `x` alone; `backward` takes the addresses of its gradient and of the result."""

    def back() -> None:
        gradient = y.take_grad()
        if gradient is not None:
            result = x.new_buffer()
            backward(gradient.address, result.address)
            x.add_grad(result)

    if y.needs_grad:
        x.tape.record(back)
    return y


def pair(value: Numbers) -> Pair:
    """Paddle's argument for both axes."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def paddings(
    padding: Union[str, Numbers], size: Sequence[int], kernel: Pair, stride: Pair, dilation: Pair
) -> Tuple[Pair, Pair]:
    """Paddle's `padding` as ((top, left), (bottom, right))."""
    if padding != "SAME":
        assert not isinstance(padding, str)
        return pair(padding), pair(padding)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    needed = [max(0, (-(-s // st) - 1) * st + r - s) for s, st, r in zip(size, stride, reach)]
    return pair([n // 2 for n in needed]), pair([n - n // 2 for n in needed])


def pool(
    x: FeatureMap, kind: int, kernel: Numbers, stride: Numbers, padding: Union[str, Numbers] = 0, ceil: bool = False
) -> FeatureMap:
    """Pooling with Paddle's arguments. With `ceil` a last window may reach over the end."""
    window, steps, (n, c, *size) = pair(kernel), pair(stride), x.shape
    before, after = paddings(padding, size, window, steps, (1, 1))
    if ceil:
        rest = [-(s + b + a - k) % st for s, b, a, k, st in zip(size, before, after, window, steps)]
        after = (after[0] + rest[0], after[1] + rest[1])
    out = [(s + b + a - k) // st + 1 for s, b, a, k, st in zip(size, before, after, window, steps)]
    y = FeatureMap(x.tape, (n, c, *out), x.needs_grad)
    made = primitives.pooling(x.shape, y.shape, x.tape.dtype, kind, window, steps, before, after)
    marks = [POOL.take(made.workspace_bytes)] if made.workspace_bytes else []
    made.forward(x.address, y.address, *[m.address for m in marks])
    return _recorded(x, y, lambda gradient, result: made.backward(gradient, result, *[m.address for m in marks]))


def mean_of_locations(x: FeatureMap) -> FeatureMap:
    """[N, C, H, W] -> [N, C, 1, 1]."""
    return pool(x, dnn.AVERAGE_POOLING, x.shape[2:], x.shape[2:])


def resize(x: FeatureMap, height: int, width: int, kind: int) -> FeatureMap:
    """With nearest neighbors, or bilinear with the corners' pixels, not their centers, in place."""
    y = FeatureMap(x.tape, (*x.shape[:2], height, width), x.needs_grad)
    forward, backward = primitives.resampling(x.shape, y.shape, x.tape.dtype, kind)
    forward(x.address, y.address)
    return _recorded(x, y, backward)


def times(x: FeatureMap, other: Union[FeatureMap, paddle.Tensor, float]) -> FeatureMap:
    """The product with a number, a tensor that needs no gradient, or a map; these are broadcast."""
    if isinstance(other, (int, float)):
        return activate(x, dnn.LINEAR, float(other))
    return product(x, constant(other, x) if isinstance(other, paddle.Tensor) else other)


def product(a: FeatureMap, b: FeatureMap) -> FeatureMap:
    """The product of two maps; the second one has the same shape, or is [N, C, 1, 1], or needs no gradient."""
    tape, y = a.tape, FeatureMap(a.tape, a.shape, a.needs_grad or b.needs_grad)
    multiply = primitives.binary(a.shape, b.shape, tape.dtype, dnn.MULTIPLY)
    multiply(a.address, b.address, y.address)

    def back() -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        if a.needs_grad:
            result = a.new_buffer()
            multiply(gradient.address, b.address, result.address)
            a.add_grad(result)
        if b.needs_grad:
            result = a.new_buffer()
            primitives.binary(a.shape, a.shape, tape.dtype, dnn.MULTIPLY)(gradient.address, a.address, result.address)
            b.add_grad(result if a.shape == b.shape else _sum_of_locations(result, a.shape, b))

    if y.needs_grad:
        tape.record(back)
    return y


def _sum_of_locations(values: Buffer, shape: Shape, like: FeatureMap) -> Buffer:
    """The sums over all locations of values [N, C, H, W], in the layout of a map [N, C, 1, 1]."""
    dtype, size, no = like.tape.dtype, pair(shape[2:]), (0, 0)
    mean, result = like.new_buffer(), like.new_buffer()
    average = primitives.pooling(shape, like.shape, dtype, dnn.AVERAGE_POOLING, size, size, no, no).forward
    average(values.address, mean.address)
    multiply = primitives.elementwise(like.shape, dtype, dnn.LINEAR, float(size[0] * size[1]))[0]
    multiply(mean.address, result.address)
    return result


def concatenate(maps: Sequence[FeatureMap]) -> FeatureMap:
    """Maps side by side along their channels."""
    tape, (n, _, h, w) = maps[0].tape, maps[0].shape
    channels = sum(x.shape[1] for x in maps)
    y = FeatureMap(tape, (n, channels, h, w), any(x.needs_grad for x in maps))
    primitives.concatenation(tuple(x.shape for x in maps), tape.dtype)(*[x.address for x in maps], y.address)

    def back() -> None:
        gradient, start = y.take_grad(), 0
        if gradient is None:
            return
        for x in maps:
            if x.needs_grad:
                result, copy = x.new_buffer(), primitives.take_channels(x.shape, channels, tape.dtype)
                copy(gradient.address + start * dnn.SIZES[tape.dtype], result.address)
                x.add_grad(result)
            start += x.shape[1]

    if y.needs_grad:
        tape.record(back)
    return y


def weighted_sum(maps: Sequence[FeatureMap], weights: paddle.Tensor) -> FeatureMap:
    """The sum of maps of the same shape, each times its weight; weights [n]."""
    tape, shape = maps[0].tape, maps[0].shape
    learns = tape.records and not weights.stop_gradient
    y = FeatureMap(tape, shape, learns or any(x.needs_grad for x in maps))
    factors = [_repeated(float(value), shape[1]) for value in weights.numpy()]
    for i, (x, factor) in enumerate(zip(maps, factors)):
        primitives.scaled(shape, tape.dtype, adds=i > 0)(x.address, factor.address, y.address)

    def back() -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        for x, factor in zip(maps, factors):
            if x.needs_grad:
                result = x.new_buffer()
                primitives.scaled(shape, tape.dtype, adds=False)(gradient.address, factor.address, result.address)
                x.add_grad(result)
        if learns:
            dense = dense_tensor(y, gradient).numpy().ravel()
            found = [np.dot(dense, dense_tensor(x).numpy().ravel()) for x in maps]
            paddle.autograd.backward([weights], [paddle.to_tensor(found, "float32")])

    if y.needs_grad:
        tape.record(back)
    return y


def _repeated(value: float, count: int) -> Buffer:
    """A float32 number `count` times."""
    buffer = POOL.take(4 * count)
    vector(buffer.address, count)[:] = value
    return buffer


def through_paddle(function: Callable[..., paddle.Tensor], *maps: FeatureMap) -> FeatureMap:
    """A function of tensors that Paddle computes: tensors of the maps' shapes -> a tensor [N, C, H, W]."""
    tape, inputs = maps[0].tape, [dense_tensor(x) for x in maps]
    for tensor, x in zip(inputs, maps):
        tensor.stop_gradient = not x.needs_grad
    result = function(*inputs)
    y = FeatureMap(tape, tuple(result.shape), not result.stop_gradient)
    y.write(result)

    def back() -> None:
        gradient = y.take_grad()
        if gradient is None:
            return
        paddle.autograd.backward([result], [dense_tensor(y, gradient)])
        for tensor, x in zip(inputs, maps):
            if x.needs_grad and tensor.grad is not None:
                x.add_grad(packed(x, tensor.grad))

    if y.needs_grad:
        tape.record(back)
    return y


def constant(tensor: paddle.Tensor, like: FeatureMap) -> FeatureMap:
    """A tensor without gradient as a map of the same network."""
    if like.tape.records and not tensor.stop_gradient:
        raise TypeError("a tensor with a gradient cannot enter in the middle of a network")
    y = FeatureMap(like.tape, tuple(tensor.shape), False)
    y.write(tensor)
    return y


OPERATORS.update(add=total, multiply=times)
