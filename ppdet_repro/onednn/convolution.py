"""The primitives of convolutions, plain and transposed, on channels-last maps."""

from __future__ import annotations

from ctypes import byref, c_void_p
from functools import cache
from typing import Any, List, NamedTuple, Optional, Tuple

from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.library import call_library, channels_last, check, descriptor, dims, engine
from ppdet_repro.onednn.primitives import Pair, Primitive, Shape, implementation, query


class Geometry(NamedTuple):
    """What oneDNN must know of a convolution to choose its code."""

    src: Shape  # of the input
    weights: Shape  # as Paddle has them: [O, C / groups, kh, kw], transposed [C, O / groups, kh, kw]
    dst: Shape  # of the output
    stride: Pair
    dilation: Pair
    before: Pair  # padding at the top and at the left
    after: Pair  # padding at the bottom and at the right
    groups: int
    transposed: bool

    def plain_weights(self) -> Tuple[Shape, Optional[Shape]]:
        """The shape of the weights for oneDNN, with the groups in front and outputs before inputs, and the strides of
        Paddle's array in it; None: it is dense."""
        first, second, *kernel = self.weights
        if not self.transposed:
            grouped = (self.groups, first // self.groups, second, *kernel)
            return (self.weights if self.groups == 1 else grouped), None
        inputs, area, width = first // self.groups, kernel[0] * kernel[1], kernel[1]
        shape, strides = (second, inputs, *kernel), (area, second * area, width, 1)
        if self.groups == 1:
            return shape, strides
        return (self.groups, *shape), (inputs * second * area, *strides)


class Convolution:
    """The three primitives of a convolution.

    Weights go from Paddle's layout (`plain`) to the one of each primitive, and their gradients back.
    """

    def __init__(self, geometry: Geometry, bias: bool, dtype: int, learns: bool, needs_input: bool):
        self.geometry = geometry
        self.x, self.y = channels_last(geometry.src, dtype), channels_last(geometry.dst, dtype)
        shape, strides = geometry.plain_weights()
        self.plain = descriptor(shape, dnn.F32, strides)
        self.biases = [descriptor((geometry.dst[1],), dnn.F32)] if bias else []
        weights = dnn.any_layout(shape, dtype)
        self.names: List[str] = []
        self.description: Optional[c_void_p] = None
        kind = dnn.DECONVOLUTION if geometry.transposed else dnn.CONVOLUTION
        bias_layout = self.biases[0] if bias else None

        arguments = [dnn.FORWARD_TRAINING, kind, self.x, weights, bias_layout, self.y]
        made = self.describe("forward", arguments)
        self.weights = query(made, dnn.QUERY_WEIGHTS)
        ends = [(dnn.BIAS, layout) for layout in self.biases]
        inputs = [(dnn.SRC, self.x), (dnn.WEIGHTS, self.weights), *ends]
        self.forward = Primitive("convolution", made, [*inputs, (dnn.DST, self.y)])
        self.description = made
        if needs_input:
            made = self.describe("backward_data", [kind, self.x, weights, self.y])
            self.data_weights = query(made, dnn.QUERY_WEIGHTS)
            inputs = [(dnn.DIFF_DST, self.y), (dnn.WEIGHTS, self.data_weights)]
            name = "convolution, gradient of its input"
            self.backward_data = Primitive(name, made, [*inputs, (dnn.DIFF_SRC, self.x)])
        if learns:
            gradients = dnn.any_layout(shape, dnn.F32)
            made = self.describe("backward_weights", [kind, self.x, gradients, bias_layout, self.y])
            self.diff_weights = query(made, dnn.QUERY_DIFF_WEIGHTS)
            ends = [(dnn.DIFF_BIAS, layout) for layout in self.biases]
            inputs, name = [(dnn.SRC, self.x), (dnn.DIFF_DST, self.y)], "convolution, gradient of its weights"
            self.backward_weights = Primitive(name, made, [*inputs, (dnn.DIFF_WEIGHTS, self.diff_weights), *ends])

    def describe(self, direction: str, arguments: List[Any]) -> c_void_p:
        """The description of one of the primitives."""
        g, made = self.geometry, c_void_p()
        kind = "deconvolution" if g.transposed else "convolution"
        create = getattr(call_library(), f"dnnl_{kind}_{direction}_primitive_desc_create")
        shape = [dims(g.stride), dims([d - 1 for d in g.dilation]), dims(g.before), dims(g.after)]
        hint = [] if self.description is None else [self.description]
        status = create(byref(made), engine(), *arguments, *shape, *hint, None)
        check(status, f"the {kind} ({direction}) of {g.src} with weights {g.weights}")
        self.names.append(implementation(made))
        return made


@cache
def convolution(geometry: Geometry, bias: bool, dtype: int, learns: bool, needs_input: bool) -> Convolution:
    """The primitives, made once."""
    return Convolution(geometry, bias, dtype, learns, needs_input)
