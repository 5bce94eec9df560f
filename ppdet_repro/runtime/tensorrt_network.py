"""Exported networks (ONNX) in TensorRT or TensorRT-RTX, on the first GPU.

Written after NVIDIA's documentation, and tested against replacements of CUDA and of TensorRT's runtime that compute on
the CPU; engines are built for real in the tests if TensorRT-RTX is installed. It was never run on a GPU.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from ppdet_repro.runtime.cuda import Buffer, Cuda
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.tensorrt_build import (
    Library,
    cached_engine,
    engine_file,
    make_logger,
    open_library,
    usual_sizes,
)
from ppdet_repro.utils.errors import UserError


def open_tensorrt(model: ModelFolder, flags: Namespace) -> TensorRtEngine:
    """The model in TensorRT, built first if the cache does not have the engine.

    UserError if a flag has no meaning for this engine, a package or a GPU is missing, or the engine cannot be built.
    """
    if getattr(flags, "run_mode", "paddle") != "paddle":
        raise UserError(
            f"--run_mode={flags.run_mode} is for --engine=paddle; --engine=tensorrt computes in the precision of the "
            "ONNX file: leave the flag out, and export with --precision fp16, or quantize the model, for a lower one"
        )
    library, cuda = open_library(), Cuda()
    sides = (flags.trt_min_shape, flags.trt_opt_shape, flags.trt_max_shape)
    if not sides[0] <= sides[1] <= sides[2]:
        raise UserError("--trt_min_shape, --trt_opt_shape and --trt_max_shape must be in ascending order")
    sizes = usual_sizes(model.preprocess, getattr(flags, "batch_size", 1), sides)
    gpu = f"{cuda.gpu}-{cuda.capability}"
    path = engine_file(flags.trt_cache_dir, model.network_file, library, sizes, gpu, tf32=False)
    plan = cached_engine(path, model.network_file, library, sizes, tf32=False)
    return load_engine(plan, str(path), library, cuda)


def load_engine(plan: bytes, where: str, library: Library, cuda: Cuda) -> TensorRtEngine:
    """An engine from its bytes. UserError, which says `where` they are from, if it does not fit TensorRT or the GPU."""
    log = make_logger(library)
    runtime = library.module.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UserError(f"{library.product} cannot load {where} on {cuda.gpu}: {log.reason()}; delete the file")
    return TensorRtEngine(runtime, engine, library.module, cuda)


class TensorRtEngine:
    """An engine of TensorRT with buffers for its inputs and outputs."""

    def __init__(self, runtime: Any, engine: Any, module: Any, cuda: Cuda):
        """`module` is the package of TensorRT whose `runtime` loaded the engine."""
        self.cuda, self._engine = cuda, engine
        self._runtime = runtime  # must live as long as the engine
        self.context = engine.create_execution_context()
        if self.context is None:
            raise UserError(f"TensorRT cannot use its engine on {cuda.gpu}: most likely the GPU's memory is short")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == module.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]
        self.types = {name: module.nptype(engine.get_tensor_dtype(name)) for name in names}
        self.buffers: Dict[str, Buffer] = {name: Buffer(cuda) for name in names}

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `networks.Network.run`. More images than the engine takes are run in parts. Also raises UserError for
        sizes for which the engine was not built."""
        count, most = len(inputs["image"]), self._limits("image")[1][0]
        parts = ({name: array[i : i + most] for name, array in inputs.items()} for i in range(0, count, most))
        found = [self._run(part) for part in parts]
        return found[0] if len(found) == 1 else [np.concatenate(outputs) for outputs in zip(*found)]

    def _run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        self.load(inputs)
        self.launch()
        return self.fetch()

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Start to copy inputs to the GPU, and fix the shapes of the outputs."""
        for name in self.inputs:
            given = np.asarray(inputs[name])
            self._check(name, given.shape)
            self.buffers[name].reserve(given.shape, self.types[name])[...] = given
            self.buffers[name].upload()
            self.context.set_input_shape(name, given.shape)
        for name in self.outputs:
            self.buffers[name].reserve(tuple(self.context.get_tensor_shape(name)), self.types[name])
        for name, buffer in self.buffers.items():
            self.context.set_tensor_address(name, buffer.pointer)

    def launch(self) -> None:
        """Start the network on the inputs that were loaded. UserError if TensorRT cannot."""
        if not self.context.execute_async_v3(int(self.cuda.stream)):
            raise UserError("TensorRT cannot run the network on these inputs")

    def fetch(self) -> List[np.ndarray]:
        """The outputs, when the GPU is done."""
        for name in self.outputs:
            self.buffers[name].download()
        self.cuda.wait()
        return [self.buffers[name].array.copy() for name in self.outputs]

    def _limits(self, name: str) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
        """The smallest and the largest shape of an input."""
        declared = tuple(self._engine.get_tensor_shape(name))
        if -1 not in declared:
            return declared, declared
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(low), tuple(high)

    def _check(self, name: str, shape: Tuple[int, ...]) -> None:
        """UserError if the engine was not built for an input of this shape."""
        low, high = self._limits(name)
        if len(shape) != len(low) or not all(a <= size <= b for a, size, b in zip(low, shape, high)):
            raise UserError(
                f"TensorRT's engine takes inputs {name} from {list(low)} to {list(high)}, not {list(shape)}; change "
                "--batch_size, --trt_min_shape or --trt_max_shape, or export the model for this size"
            )
