"""CUDA on the first GPU, through NVIDIA's package cuda-bindings: calls, and memory that both sides can reach."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Callable, Sequence

import numpy as np

from ppdet_repro.runtime.networks import first_line, missing
from ppdet_repro.utils.errors import UserError

CHUNK = 1 << 20  # bytes to which buffers are rounded up, so that few sizes need a new one


class Cuda:
    """CUDA's runtime on the first GPU. Calling it with the name of a function and its arguments returns the result."""

    def __init__(self) -> None:
        """UserError if the package is not installed, or there is no GPU."""
        try:
            from cuda.bindings import runtime
        except ModuleNotFoundError:
            raise missing("cuda-bindings", "tensorrt") from None
        except (ImportError, OSError, RuntimeError) as error:
            raise UserError(f"cuda-bindings cannot be imported: {first_line(error)}; install it again") from error
        self.runtime: Any = runtime
        try:
            count = self("cudaGetDeviceCount")
        except UserError as error:
            raise UserError(f"--engine=tensorrt needs an NVIDIA GPU and its driver: {error}") from error
        if not count:
            raise UserError("--engine=tensorrt needs an NVIDIA GPU; CUDA finds none")
        properties = self("cudaGetDeviceProperties", 0)
        self.gpu = bytes(properties.name).split(b"\0")[0].decode(errors="replace")
        self.capability = f"{properties.major}.{properties.minor}"
        self.stream = self("cudaStreamCreate")

    def __call__(self, function: str, *arguments: Any) -> Any:
        """The result of a function of CUDA's runtime; None if it has none. UserError if it fails."""
        error, *results = getattr(self.runtime, function)(*arguments)
        if int(error) != 0:
            _, text = self.runtime.cudaGetErrorString(error)
            raise UserError(f"{function} fails: {text.decode(errors='replace')}")
        return results[0] if results else None

    def wait(self) -> None:
        """Wait until the GPU has done what was asked for."""
        self("cudaStreamSynchronize", self.stream)


class Buffer:
    """An array in the GPU's memory, and its copy in memory of this process that the GPU can read directly."""

    def __init__(self, cuda: Cuda):
        self.cuda, self.room, self.pointer = cuda, 0, 0
        self.array: np.ndarray = np.empty(0, np.uint8)
        self._bytes: Any = None
        self._release: Callable[[], object] = list

    def reserve(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Make `array`, which is also returned, have this shape and type. Its content is not defined, and what was
        returned before may no longer be used. UserError if memory is short."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if size > self.room or not self.room:
            self._release()
            self.room = 0
            room = -(-max(size, 1) // CHUNK) * CHUNK
            host = int(self.cuda("cudaMallocHost", room))
            self.pointer = int(self.cuda("cudaMalloc", room))
            self._release = weakref.finalize(self, release, self.cuda.runtime, self.pointer, host)
            self.room, self._bytes = room, (ctypes.c_ubyte * room).from_address(host)
        self.array = np.frombuffer(self._bytes, np.uint8, size).view(dtype).reshape(tuple(shape))
        return self.array

    def upload(self) -> None:
        """Copy the array to the GPU, in the order of the stream."""
        kind = self.cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.pointer, self.array.ctypes.data, kind)

    def download(self) -> None:
        """Copy the array from the GPU, in the order of the stream."""
        kind = self.cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(self.array.ctypes.data, self.pointer, kind)

    def _copy(self, target: int, source: int, kind: Any) -> None:
        self.cuda("cudaMemcpyAsync", target, source, self.array.nbytes, kind, self.cuda.stream)


def release(runtime: Any, pointer: int, host: int) -> None:
    """Give a buffer's memory back. At the end of a process CUDA may be gone already, which is no error."""
    runtime.cudaFree(pointer)
    runtime.cudaFreeHost(host)
