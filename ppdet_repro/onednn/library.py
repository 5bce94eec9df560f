"""oneDNN's C API through ctypes: the library of Paddle's wheel, its constants, and memory descriptors.

The constants are those of `dnnl_types.h` of oneDNN 3, and equal in the versions 3.2 (Paddle 2.6) and 3.6 (Paddle 3.2).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import cache
from pathlib import Path
from typing import Optional, Sequence, Tuple

import paddle

MAJOR = 3  # of the API
MAX_DIMS = 12
Dims = c_int64 * MAX_DIMS

F32, BF16 = 3, 2  # data types
SIZES = {F32: 4, BF16: 2}  # bytes
ANY = 1  # format tag: the primitive chooses

FORWARD_TRAINING, BACKWARD = 64, 128  # kinds of propagation
CONVOLUTION, DECONVOLUTION = 1, 0xA  # algorithms
RELU, LINEAR, HARD_SIGMOID, LOGISTIC, SWISH, CLIP, MISH, HARD_SWISH = 0x20, 0x26, 0x28, 0x29, 0x2C, 0x2E, 0x33, 0x34
RELU_BY_OUTPUT, LOGISTIC_BY_OUTPUT = 0x100, 0x104
MAX_POOLING, AVERAGE_POOLING = 0x1FF, 0x3FF  # the average without padding
BY_OUTPUT = (RELU_BY_OUTPUT, LOGISTIC_BY_OUTPUT)  # their gradients are computed from their outputs
ADD, MULTIPLY = 0x1FFF0, 0x1FFF1
NEAREST, BILINEAR = 0x2FFF0, 0x2FFF1
GLOBAL_STATISTICS, SCALE_FLAG, SHIFT_FLAG, FUSED_RELU = 1, 2, 4, 8  # flags of batch normalization

SRC, SRC_1, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE = 1, 2, 17, 33, 41, 49, 50, 51, 52, 64
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT, SOURCES = 129, 145, 161, 169, 255, 256, 1024

QUERY_IMPLEMENTATION = 8
QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_WORKSPACE = 131, 132, 135
OUT_OF_MEMORY, UNIMPLEMENTED = 1, 3
ISA_BF16 = 0xE7  # AVX-512 with VNNI and BF16


class OneDNNError(RuntimeError):
    """oneDNN refused a call."""


class Unsupported(OneDNNError):
    """oneDNN has no implementation for what was asked, on this processor."""


class _Version(ctypes.Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class ExecArgument(ctypes.Structure):
    _fields_ = [("argument", c_int), ("memory", c_void_p)]


@cache
def library() -> Optional[ctypes.CDLL]:
    """The oneDNN of the installed Paddle, or None: this Paddle has none, or one with another API."""
    path = Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"
    if not path.is_file():
        return None
    loaded = ctypes.CDLL(str(path))
    loaded.dnnl_version.restype = POINTER(_Version)
    if loaded.dnnl_version().contents.major != MAJOR:
        return None
    loaded.dnnl_primitive_desc_query_md.restype = c_void_p
    loaded.dnnl_memory_desc_get_size.restype = c_size_t
    loaded.dnnl_memory_set_data_handle.argtypes = [c_void_p, c_void_p]
    loaded.dnnl_primitive_execute.argtypes = [c_void_p, c_void_p, c_int, c_void_p]
    return loaded


def version() -> Tuple[int, int, int]:
    """The version of `library()`, which must not be None."""
    found = call_library().dnnl_version().contents
    return found.major, found.minor, found.patch


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 (AVX-512 BF16 or AMX)."""
    return library() is not None and bool(call_library().dnnl_get_effective_cpu_isa() & ISA_BF16 == ISA_BF16)


def call_library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise OneDNNError("the installed Paddle has no oneDNN 3")
    return found


def check(status: int, what: str) -> None:
    """Raise an OneDNNError unless `status` is success."""
    if status == UNIMPLEMENTED:
        raise Unsupported(f"oneDNN cannot compute {what}")
    if status == OUT_OF_MEMORY:
        raise MemoryError(f"no memory for {what}")
    if status:
        raise OneDNNError(f"{what}: oneDNN returned status {status}")


@cache
def engine() -> c_void_p:
    """The CPU."""
    made = c_void_p()
    check(call_library().dnnl_engine_create(byref(made), 1, c_size_t(0)), "the engine")
    return made


@cache
def stream() -> c_void_p:
    """The queue of the CPU. A call returns when its work is done."""
    made = c_void_p()
    check(call_library().dnnl_stream_create(byref(made), engine(), c_uint(1)), "the stream")
    return made


def dims(values: Sequence[int]) -> ctypes.Array:
    return Dims(*values)


@cache
def descriptor(shape: Tuple[int, ...], dtype: int = F32, strides: Optional[Tuple[int, ...]] = None) -> c_void_p:
    """The memory descriptor of an array; `strides` count elements, by default those of a dense array in C order.

    It is never destroyed: a training has few different ones.
    """
    made, steps = c_void_p(), strides or dense(shape)
    status = call_library().dnnl_memory_desc_create_with_strides(
        byref(made), len(shape), dims(shape), dtype, dims(steps)
    )
    check(status, f"the descriptor of {shape}")
    return made


def dense(shape: Tuple[int, ...]) -> Tuple[int, ...]:
    """The strides of a dense array in C order."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def channels_last(shape: Tuple[int, ...], dtype: int = F32) -> c_void_p:
    """The descriptor of a map [N, C, H, W] whose channels lie next to each other."""
    _, channels, height, width = shape
    return descriptor(shape, dtype, (height * width * channels, 1, width * channels, channels))


@cache
def any_layout(shape: Tuple[int, ...], dtype: int = F32) -> c_void_p:
    """The descriptor of an array whose layout a primitive chooses."""
    made = c_void_p()
    check(
        call_library().dnnl_memory_desc_create_with_tag(byref(made), len(shape), dims(shape), dtype, ANY),
        f"the descriptor of {shape}",
    )
    return made


def size_of(memory: c_void_p) -> int:
    """The bytes of the array that a descriptor describes."""
    return int(call_library().dnnl_memory_desc_get_size(memory))
