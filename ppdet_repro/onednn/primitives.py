"""oneDNN's primitives, each made once for its shapes: the next update of a network calls the same ones.

Those that were not used for the longest time are destroyed: a training with many image sizes needs ever new ones.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_uint, c_void_p
from functools import cache, lru_cache
from typing import Callable, List, Optional, Sequence, Tuple
from weakref import finalize

from paddle.profiler import RecordEvent

from ppdet_repro.onednn import library as dnn
from ppdet_repro.onednn.library import call_library, channels_last, check, descriptor, dims, engine

Shape = Tuple[int, ...]
Pair = Tuple[int, int]

trimmed_at = 0  # the number of primitives then
kept = lru_cache(maxsize=640)  # of each kind; an image size needs 20 to 100


def destroyed_with(owner: object, destroy: Callable[[c_void_p], object], handle: c_void_p) -> None:
    """Destroy what a handle stands for when its owner goes; what is left when the program ends stays."""
    finalize(owner, destroy, handle).atexit = False  # type: ignore[misc]


class Description:
    """A primitive's description, which oneDNN writes to `handle`, and the layouts that belong to it."""

    def __init__(self) -> None:
        self.handle = c_void_p()
        destroyed_with(self, call_library().dnnl_primitive_desc_destroy, self.handle)

    def layout(self, what: int) -> c_void_p:
        """One of its memory descriptors, which lives as long as the description."""
        return c_void_p(call_library().dnnl_primitive_desc_query_md(self.handle, what, 0))

    def implementation(self) -> str:
        """The name of the code that computes it."""
        name, what = ctypes.c_char_p(), dnn.QUERY_IMPLEMENTATION
        check(call_library().dnnl_primitive_desc_query(self.handle, what, 0, byref(name)), "a query")
        return (name.value or b"").decode()

    def workspace(self) -> Tuple[int, List[Tuple[int, c_void_p]]]:
        """The bytes of what a forward primitive keeps for its backward one, and its argument, if there is any."""
        layout = self.layout(dnn.QUERY_WORKSPACE)
        size = dnn.size_of(layout) if layout.value else 0
        return size, [(dnn.WORKSPACE, layout)] if size else []


class Primitive:
    """A computation on arrays of fixed shapes and layouts.

    It is called with one address per argument, in the order of `arguments`: (oneDNN's name of it, descriptor). Paddle's
    profiler shows it under its name.
    """

    made = 0  # so far

    def __init__(self, name: str, description: Description, arguments: Sequence[Tuple[int, c_void_p]]):
        lib, self.handle, self.name = call_library(), c_void_p(), f"oneDNN {name}"
        self.memories: List[c_void_p] = []
        check(lib.dnnl_primitive_create(byref(self.handle), description.handle), "a primitive")
        destroyed_with(self, lib.dnnl_primitive_destroy, self.handle)
        Primitive.made += 1
        self.arguments = (dnn.ExecArgument * len(arguments))()
        for i, (argument, layout) in enumerate(arguments):
            memory = c_void_p()
            check(lib.dnnl_memory_create(byref(memory), layout, engine(), c_void_p(None)), "a memory object")
            destroyed_with(self, lib.dnnl_memory_destroy, memory)
            self.memories.append(memory)
            self.arguments[i] = dnn.ExecArgument(argument, memory)
        self._set, self._run = lib.dnnl_memory_set_data_handle, lib.dnnl_primitive_execute
        self._stream, self._count = dnn.stream(), len(arguments)
        self._addresses: List[Optional[int]] = [None] * len(arguments)  # that the memory objects have
        self._event = RecordEvent(self.name)

    def __call__(self, *addresses: int) -> None:
        known = self._addresses
        for i, address in enumerate(addresses):
            if address != known[i]:  # from update to update most are the same, and a call costs more than comparing
                self._set(self.memories[i], address)
                known[i] = address
        with self._event:
            status = self._run(self.handle, self._stream, self._count, self.arguments)
        if status:
            check(status, self.name)


def trim_heap() -> None:
    """Give freed memory back to the system, if primitives were made since the last call. They are many small pieces
    between larger ones, and the C library gives back only what lies at the end."""
    global trimmed_at
    if Primitive.made > trimmed_at:
        trimmed_at = Primitive.made
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)


def copying(source: c_void_p, target: c_void_p) -> Primitive:
    """Copies an array into another layout or data type."""
    made, ends = Description(), (source, engine(), target, engine())
    check(call_library().dnnl_reorder_primitive_desc_create(byref(made.handle), *ends, None), "a copy")
    return Primitive("copy", made, [(dnn.SRC, source), (dnn.DST, target)])


@kept
def to_dense(shape: Shape, dtype: int) -> Primitive:
    """Copies a map into a dense float32 array."""
    return copying(channels_last(shape, dtype), descriptor(shape))


@kept
def from_dense(shape: Shape, dtype: int) -> Primitive:
    """Copies a dense float32 array into a map."""
    return copying(descriptor(shape), channels_last(shape, dtype))


@kept
def take_channels(shape: Shape, of: int, dtype: int) -> Primitive:
    """Copies a map [N, C, H, W] out of a map with `of` channels, from its address on."""
    _, _, height, width = shape
    part = descriptor(shape, dtype, (height * width * of, 1, width * of, of))
    return copying(part, channels_last(shape, dtype))


@cache
def attribute(relu: bool = False, adds: bool = False) -> Optional[c_void_p]:
    """What is joined to a primitive: adding what the result already holds, a ReLU; None: nothing."""
    lib, operations, made = call_library(), c_void_p(), c_void_p()
    if not relu and not adds:
        return None
    check(lib.dnnl_post_ops_create(byref(operations)), "an attribute")
    if adds:
        check(lib.dnnl_post_ops_append_sum(operations, c_float(1.0), 0, 0), "an attribute")
    if relu:
        check(lib.dnnl_post_ops_append_eltwise(operations, dnn.RELU, c_float(0.0), c_float(0.0)), "an attribute")
    check(lib.dnnl_primitive_attr_create(byref(made)), "an attribute")
    check(lib.dnnl_primitive_attr_set_post_ops(made, operations), "an attribute")
    return made


@kept
def add(shape: Shape, dtype: int) -> Primitive:
    """The sum of two maps."""
    layout, made = channels_last(shape, dtype), Description()
    sources, scales = (c_void_p * 2)(layout, layout), (c_float * 2)(1.0, 1.0)
    status = call_library().dnnl_sum_primitive_desc_create(
        byref(made.handle), engine(), layout, 2, scales, sources, None
    )
    check(status, f"the sum of maps {shape}")
    return Primitive("sum", made, [(dnn.SOURCES, layout), (dnn.SOURCES + 1, layout), (dnn.DST, layout)])


@kept
def elementwise(
    shape: Shape, dtype: int, kind: int, alpha: float = 0.0, beta: float = 0.0
) -> Tuple[Primitive, Primitive]:
    """A function of each value, and its backward pass: (values, gradient, result).

    The values are the function's inputs, or its outputs if the kind is one BY_OUTPUT.
    """
    lib, layout, forward, made = call_library(), channels_last(shape, dtype), Description(), Description()
    numbers = c_float(alpha), c_float(beta)
    status = lib.dnnl_eltwise_forward_primitive_desc_create(
        byref(forward.handle), engine(), dnn.FORWARD_TRAINING, kind, layout, layout, *numbers, None
    )
    check(status, f"function {kind:#x} of a map {shape}")
    status = lib.dnnl_eltwise_backward_primitive_desc_create(
        byref(made.handle), engine(), kind, layout, layout, layout, *numbers, forward.handle, None
    )
    check(status, f"the gradient of function {kind:#x} of a map {shape}")
    values = dnn.DST if kind in dnn.BY_OUTPUT else dnn.SRC
    gradients = [(dnn.DIFF_DST, layout), (dnn.DIFF_SRC, layout)]
    backward = Primitive("function of values, gradient", made, [(values, layout), *gradients])
    return Primitive("function of values", forward, [(dnn.SRC, layout), (dnn.DST, layout)]), backward


@kept
def binary(first: Shape, second: Shape, dtype: int, kind: int, relu: bool = False) -> Primitive:
    """A function of two maps, of which the second one is broadcast; `relu` is joined."""
    x, y, made = channels_last(first, dtype), channels_last(second, dtype), Description()
    status = call_library().dnnl_binary_primitive_desc_create(
        byref(made.handle), engine(), kind, x, y, x, attribute(relu=relu)
    )
    check(status, f"function {kind:#x} of maps {first} and {second}")
    return Primitive("function of two maps", made, [(dnn.SRC, x), (dnn.SRC_1, y), (dnn.DST, x)])


@kept
def scaled(shape: Shape, dtype: int, adds: bool) -> Primitive:
    """A map times one factor per channel, which is in memory in float32; with `adds` it is added to the result."""
    layout, factors, made = channels_last(shape, dtype), channels_last((1, shape[1], 1, 1), dnn.F32), Description()
    status = call_library().dnnl_binary_primitive_desc_create(
        byref(made.handle), engine(), dnn.MULTIPLY, layout, factors, layout, attribute(adds=adds)
    )
    check(status, f"a map {shape} times a number")
    return Primitive("scaling", made, [(dnn.SRC, layout), (dnn.SRC_1, factors), (dnn.DST, layout)])


class BatchNorm:
    """The two primitives of a batch normalization, which may include the ReLU behind it."""

    def __init__(self, shape: Shape, dtype: int, epsilon: float, relu: bool, frozen: bool):
        lib, layout, vector = call_library(), channels_last(shape, dtype), descriptor((shape[1],), dnn.F32)
        joined, fixed = dnn.FUSED_RELU if relu else 0, dnn.GLOBAL_STATISTICS if frozen else 0
        settings = c_float(epsilon), c_uint(dnn.SCALE_FLAG | dnn.SHIFT_FLAG | joined | fixed)
        forward, backward = Description(), Description()
        status = lib.dnnl_batch_normalization_forward_primitive_desc_create(
            byref(forward.handle), engine(), dnn.FORWARD_TRAINING, layout, layout, *settings, None
        )
        check(status, f"the normalization of a map {shape}")
        status = lib.dnnl_batch_normalization_backward_primitive_desc_create(
            byref(backward.handle), engine(), dnn.BACKWARD, layout, layout, layout, *settings, forward.handle, None
        )
        check(status, f"the gradient of the normalization of a map {shape}")
        self.workspace_bytes, marks = forward.workspace()
        inputs = [(dnn.SRC, layout), (dnn.MEAN, vector), (dnn.VARIANCE, vector), (dnn.SCALE, vector)]
        outputs = [(dnn.DST, layout), *marks]
        self.forward = Primitive("normalization", forward, [*inputs, (dnn.SHIFT, vector), *outputs])
        learned = [(dnn.DIFF_SCALE, vector), (dnn.DIFF_SHIFT, vector)]
        gradients = [(dnn.DIFF_DST, layout), (dnn.DIFF_SRC, layout), *learned]
        self.backward = Primitive("normalization, gradient", backward, [*inputs, *gradients, *marks])


@kept
def batch_normalization(shape: Shape, dtype: int, epsilon: float, relu: bool, frozen: bool) -> BatchNorm:
    """The primitives, made once."""
    return BatchNorm(shape, dtype, epsilon, relu, frozen)


class Pooling:
    """The two primitives of a pooling."""

    def __init__(
        self, src: Shape, dst: Shape, dtype: int, kind: int, kernel: Pair, stride: Pair, before: Pair, after: Pair
    ):
        lib, x, y = call_library(), channels_last(src, dtype), channels_last(dst, dtype)
        geometry = [dims(stride), dims(kernel), dims((0, 0)), dims(before), dims(after)]
        forward, backward = Description(), Description()
        status = lib.dnnl_pooling_forward_primitive_desc_create(
            byref(forward.handle), engine(), dnn.FORWARD_TRAINING, kind, x, y, *geometry, None
        )
        check(status, f"the pooling of a map {src}")
        status = lib.dnnl_pooling_backward_primitive_desc_create(
            byref(backward.handle), engine(), kind, x, y, *geometry, forward.handle, None
        )
        check(status, f"the gradient of the pooling of a map {src}")
        self.workspace_bytes, marks = forward.workspace()
        self.forward = Primitive("pooling", forward, [(dnn.SRC, x), (dnn.DST, y), *marks])
        self.backward = Primitive("pooling, gradient", backward, [(dnn.DIFF_DST, y), (dnn.DIFF_SRC, x), *marks])


@kept
def pooling(
    src: Shape, dst: Shape, dtype: int, kind: int, kernel: Pair, stride: Pair, before: Pair, after: Pair
) -> Pooling:
    """The primitives, made once."""
    return Pooling(src, dst, dtype, kind, kernel, stride, before, after)


@kept
def resampling(src: Shape, dst: Shape, dtype: int, kind: int) -> Tuple[Primitive, Primitive]:
    """Resizing, and its backward pass."""
    lib, x, y = call_library(), channels_last(src, dtype), channels_last(dst, dtype)
    forward, backward = Description(), Description()
    status = lib.dnnl_resampling_forward_primitive_desc_create(
        byref(forward.handle), engine(), dnn.FORWARD_TRAINING, kind, None, x, y, None
    )
    check(status, f"the resizing of a map {src} to {dst}")
    status = lib.dnnl_resampling_backward_primitive_desc_create(
        byref(backward.handle), engine(), kind, None, x, y, forward.handle, None
    )
    check(status, f"the gradient of the resizing of a map {src} to {dst}")
    gradient = Primitive("resizing, gradient", backward, [(dnn.DIFF_DST, y), (dnn.DIFF_SRC, x)])
    return Primitive("resizing", forward, [(dnn.SRC, x), (dnn.DST, y)]), gradient


@kept
def concatenation(shapes: Tuple[Shape, ...], dtype: int) -> Primitive:
    """Maps side by side along their channels."""
    layouts, count = [channels_last(shape, dtype) for shape in shapes], len(shapes)
    n, _, h, w = shapes[0]
    out, made = channels_last((n, sum(shape[1] for shape in shapes), h, w), dtype), Description()
    status = call_library().dnnl_concat_primitive_desc_create(
        byref(made.handle), engine(), out, count, 1, (c_void_p * count)(*layouts), None
    )
    check(status, f"the concatenation of maps {shapes}")
    sources = [(dnn.SOURCES + i, layout) for i, layout in enumerate(layouts)]
    return Primitive("concatenation", made, [*sources, (dnn.DST, out)])
