"""Feature maps that lie in memory with their channels next to each other, and the record of what was computed on them.

Paddle's automatic differentiation sees such a part of a network as one operator per map that leaves it. Inside, every
function records how to compute its gradients, and the record is played backwards.
"""

from __future__ import annotations

from math import prod
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import paddle
from paddle.autograd import PyLayer

from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.memory import POOL, Buffer
from ppdet_repro.onednn.primitives import Shape, add, from_dense, to_dense
from ppdet_repro.paddle_private.tensors import empty

OPERATORS: Dict[str, Callable[..., FeatureMap]] = {}  # filled by `functions`


class Tape:
    """The record of one forward pass, from a map that enters to all that leave."""

    def __init__(self, dtype: int, records: bool, token: Optional[paddle.Tensor] = None):
        self.dtype, self.records, self.token = dtype, records, token
        self.steps: List[Callable[[], None]] = []
        self.gradients: Dict[int, paddle.Tensor] = {}  # of parameters, by id

    def record(self, step: Callable[[], None]) -> None:
        self.steps.append(step)

    def learn(self, parameter: paddle.Tensor, gradient: paddle.Tensor) -> None:
        """Add to the gradient of a parameter."""
        known = self.gradients.get(id(parameter))
        self.gradients[id(parameter)] = gradient if known is None else known + gradient

    def play_back(self) -> None:
        """Compute all gradients; maps are freed on the way."""
        while self.steps:
            self.steps.pop()()


class FeatureMap:
    """A map [N, C, H, W] in channels-last memory; it offers what networks ask of a tensor.

    `compute`, if given, writes the values when they are asked for. Until then a ReLU may join it (`joins_relu`): its
    second argument says whether one has.
    """

    ndim = 4
    dtype = paddle.float32  # of the tensor that it becomes

    def __init__(
        self,
        tape: Tape,
        shape: Shape,
        needs_grad: bool,
        compute: Optional[Callable[[FeatureMap, bool], None]] = None,
        joins_relu: bool = False,
    ):
        self.tape, self.shape, self.needs_grad = tape, shape, needs_grad and tape.records
        self.bytes = prod(shape) * dnn.SIZES[tape.dtype]
        self.compute, self.joins_relu = compute, joins_relu
        self.grad: Optional[Buffer] = None
        self._buffer: Optional[Buffer] = None
        self._tensor: Optional[paddle.Tensor] = None
        self._joined = False

    def new_buffer(self) -> Buffer:
        """Memory for as many values."""
        return POOL.take(self.bytes)

    @property
    def address(self) -> int:
        """Where the values are, or will be written."""
        if self._buffer is None:
            self.evaluate(False)
            assert self._buffer is not None
        return self._buffer.address

    def with_relu(self) -> Optional[FeatureMap]:
        """The map after a ReLU that has joined its computation; None: that is done already, or none can join. The map
        itself cannot be used any more then."""
        if self._buffer is not None or not self.joins_relu or self._joined:
            return None
        self._joined = True
        result = FeatureMap(self.tape, self.shape, self.needs_grad, self.compute)
        result.evaluate(True)
        return result

    def evaluate(self, relu: bool) -> None:
        if self._joined:
            raise RuntimeError("a feature map was asked for its values before the ReLU that follows it")
        self._buffer, compute, self.compute = self.new_buffer(), self.compute, None
        if compute is not None:
            compute(self, relu)

    def write(self, tensor: paddle.Tensor) -> None:
        """Take the values of a tensor of the same shape."""
        self._buffer = packed(self, tensor)

    def take_grad(self) -> Optional[Buffer]:
        """The gradient, which nothing else needs any more."""
        taken, self.grad = self.grad, None
        return taken

    def add_grad(self, gradient: Buffer) -> None:
        """Add to the gradient."""
        if self.grad is None:
            self.grad = gradient
            return
        result = self.new_buffer()
        add(self.shape, self.tape.dtype)(self.grad.address, gradient.address, result.address)
        self.grad = result

    def tensor(self) -> paddle.Tensor:
        """The map as a dense float32 tensor, through which gradients come back."""
        if self._tensor is None:
            self._tensor = _Leave.apply(self.tape.token, self) if self.needs_grad else dense_tensor(self)
        return self._tensor

    def __add__(self, other: FeatureMap) -> FeatureMap:
        return OPERATORS["add"](self, other)

    def __radd__(self, other: Any) -> FeatureMap:
        return self if isinstance(other, int) and other == 0 else OPERATORS["add"](self, other)  # `sum` begins with 0

    def __mul__(self, other: Any) -> FeatureMap:
        return OPERATORS["multiply"](self, other)

    __rmul__ = __mul__

    def __getattr__(self, name: str) -> Any:
        """What else a tensor has, from the tensor that the map becomes."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)


def dense_tensor(value: FeatureMap, buffer: Optional[Buffer] = None) -> paddle.Tensor:
    """A copy of a map, or of a buffer of its layout, as a float32 tensor."""
    out = empty(value.shape)
    address = value.address if buffer is None else buffer.address
    to_dense(value.shape, value.tape.dtype)(address, out.data_ptr())
    return out


def packed(like: FeatureMap, tensor: paddle.Tensor) -> Buffer:
    """A copy of a tensor in the layout of a map of its shape."""
    buffer, dense = like.new_buffer(), tensor.detach().astype("float32").contiguous()
    from_dense(like.shape, like.tape.dtype)(dense.data_ptr(), buffer.address)
    return buffer


class _Enter(PyLayer):
    """A token that every map which leaves depends on. Its gradients are computed after all of those have come."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, entered: FeatureMap, *tensors: paddle.Tensor) -> paddle.Tensor:
        ctx.tape, ctx.entered, ctx.ids = tape, entered, [id(t) for t in tensors]
        return paddle.zeros([1])

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> Tuple[Optional[paddle.Tensor], ...]:
        tape, entered = ctx.tape, ctx.entered
        tape.play_back()
        found = entered.take_grad()
        if found is not None:
            tape.gradients[ctx.ids[0]] = dense_tensor(entered, found)
        return tuple(tape.gradients.get(i) for i in ctx.ids)


class _Leave(PyLayer):
    """A map as a tensor."""

    @staticmethod
    def forward(ctx: Any, token: paddle.Tensor, value: FeatureMap) -> paddle.Tensor:
        ctx.value = value
        return dense_tensor(value)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        ctx.value.add_grad(packed(ctx.value, gradient))
        return paddle.zeros([1])


def enter(tensor: paddle.Tensor, parameters: Sequence[paddle.Tensor], dtype: int) -> FeatureMap:
    """A tensor [N, C, H, W] as a feature map. Functions of the map may use `parameters`, which get their gradients."""
    tape = Tape(dtype, paddle.is_grad_enabled())
    entered = FeatureMap(tape, tuple(tensor.shape), not tensor.stop_gradient)
    entered.write(tensor)
    if tape.records:
        tape.token = _Enter.apply(tape, entered, tensor, *parameters)
    return entered
