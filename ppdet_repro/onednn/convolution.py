"""The primitives of convolutions, plain and transposed, on channels-last maps."""

from __future__ import annotations

from ctypes import byref, c_void_p
from typing import Any, List, NamedTuple, Optional, Tuple

from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.library import call_library, channels_last, check, descriptor, dims, engine
from ppdet_repro.onednn.primitives import Description, Pair, Primitive, Shape, copying, kept


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
    """The three primitives of a convolution, and those that copy Paddle's weights into the layouts of the three
    (`pack`, `pack_for_data`), and their gradients back (`unpack`)."""

    attributes: Optional[c_void_p] = None  # of the three; tests set them

    def __init__(self, geometry: Geometry, bias: bool, dtype: int, learns: bool, needs_input: bool):
        self.geometry = geometry
        self.x, self.y = channels_last(geometry.src, dtype), channels_last(geometry.dst, dtype)
        shape, strides = geometry.plain_weights()
        plain = descriptor(shape, dnn.F32, strides)
        self.biases = [descriptor((geometry.dst[1],), dnn.F32)] if bias else []
        weights = dnn.any_layout(shape, dtype)
        self.names: List[str] = []
        self.description: Optional[Description] = None
        kind = dnn.DECONVOLUTION if geometry.transposed else dnn.CONVOLUTION
        bias_layout = self.biases[0] if bias else None

        arguments = [dnn.FORWARD_TRAINING, kind, self.x, weights, bias_layout, self.y]
        made = self.describe("forward", arguments)
        packed = made.layout(dnn.QUERY_WEIGHTS)
        self.bytes, self.pack = dnn.size_of(packed), copying(plain, packed)
        ends = [(dnn.BIAS, layout) for layout in self.biases]
        inputs = [(dnn.SRC, self.x), (dnn.WEIGHTS, packed), *ends]
        self.forward = Primitive("convolution", made, [*inputs, (dnn.DST, self.y)])
        self.description = made
        if needs_input:
            made = self.describe("backward_data", [kind, self.x, weights, self.y])
            packed = made.layout(dnn.QUERY_WEIGHTS)
            self.bytes_for_data, self.pack_for_data = dnn.size_of(packed), copying(plain, packed)
            inputs = [(dnn.DIFF_DST, self.y), (dnn.WEIGHTS, packed)]
            name = "convolution, gradient of its input"
            self.backward_data = Primitive(name, made, [*inputs, (dnn.DIFF_SRC, self.x)])
        if learns:
            gradients = dnn.any_layout(shape, dnn.F32)
            made = self.describe("backward_weights", [kind, self.x, gradients, bias_layout, self.y])
            packed = made.layout(dnn.QUERY_DIFF_WEIGHTS)
            self.gradient_bytes, self.unpack = dnn.size_of(packed), copying(packed, plain)
            ends = [(dnn.DIFF_BIAS, layout) for layout in self.biases]
            inputs, name = [(dnn.SRC, self.x), (dnn.DIFF_DST, self.y)], "convolution, gradient of its weights"
            self.backward_weights = Primitive(name, made, [*inputs, (dnn.DIFF_WEIGHTS, packed), *ends])

    def describe(self, direction: str, arguments: List[Any]) -> Description:
        """The description of one of the primitives."""
        g, made = self.geometry, Description()
        kind = "deconvolution" if g.transposed else "convolution"
        create = getattr(call_library(), f"dnnl_{kind}_{direction}_primitive_desc_create")
        shape = [dims(g.stride), dims([d - 1 for d in g.dilation]), dims(g.before), dims(g.after)]
        hint = [] if self.description is None else [self.description.handle]
        status = create(byref(made.handle), engine(), *arguments, *shape, *hint, self.attributes)
        check(status, f"the {kind} ({direction}) of {g.src} with weights {g.weights}")
        self.names.append(made.implementation())
        return made


@kept
def convolution(geometry: Geometry, bias: bool, dtype: int, learns: bool, needs_input: bool) -> Convolution:
    """The primitives, made once."""
    return Convolution(geometry, bias, dtype, learns, needs_input)
