"""Replacements of what needs a GPU: CUDA whose memory is this process's, TensorRT that computes with ONNX Runtime, and
an ONNX Runtime whose GPU is the CPU.

Pointers are real addresses, so a wrong one gives wrong numbers, and a leak is a pointer that is left in `allocated`.
"""

from __future__ import annotations

import ctypes
import json
import time
from types import SimpleNamespace

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class FakeCuda:
    """`cuda.bindings.runtime` with one GPU, "Made-up 1 GB" of compute capability 8.9."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, gpus=1):
        self.gpus, self.allocated, self.copied = gpus, {}, 0

    def cudaGetErrorString(self, error):
        return 0, b"driver is too old" if error == 35 else b"out of memory"

    def cudaGetDeviceCount(self):
        return (35, None) if self.gpus is None else (0, self.gpus)

    def cudaGetDeviceProperties(self, device):
        return 0, SimpleNamespace(name=b"Made-up 1 GB\0\0", major=8, minor=9)

    def cudaStreamCreate(self):
        return 0, 7

    def cudaStreamSynchronize(self, stream):
        assert stream == 7
        return (0,)

    def cudaEventCreate(self):
        return 0, {}

    def cudaEventRecord(self, event, stream):
        assert stream == 7
        event["time"] = time.perf_counter()
        return (0,)

    def cudaEventSynchronize(self, event):
        assert "time" in event
        return (0,)

    def cudaEventElapsedTime(self, start, end):
        return 0, 1000 * (end["time"] - start["time"])

    def cudaMalloc(self, size):
        if size > 1 << 30:
            return 2, None
        memory = ctypes.create_string_buffer(size)
        self.allocated[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, pointer):
        del self.allocated[pointer]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 7
        device = target if kind == 1 else source
        assert device in self.allocated
        ctypes.memmove(target, source, size)
        self.copied += size
        return (0,)


class FakeTensorRt:
    """The module `tensorrt`. Its engines hold the path of the ONNX file and the limits of its inputs' shapes."""

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        ERROR = 1

    def __init__(self, version="10.13.0", failure=None):
        self.__version__, self.failure = version, failure  # what the parser complains about
        self.built, self.flags = 0, {"tf32"}

    def nptype(self, kind):
        return kind

    def Builder(self, log):
        return FakeBuilder(self)

    def OnnxParser(self, network, log):
        return FakeParser(self, network)

    def Runtime(self, log):
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: FakeEngine(plan))


class FakeParser:
    def __init__(self, module, network):
        self.module, self.network, self.num_errors = module, network, int(module.failure is not None)

    def parse_from_file(self, path):
        if self.module.failure is not None:
            return False
        self.network.load(path)
        return True

    def get_error(self, i):
        return SimpleNamespace(desc=lambda: self.module.failure)


class FakeNetwork:
    def load(self, path):
        self.path = path
        self.inputs = [
            SimpleNamespace(name=entry.name, shape=[size if isinstance(size, int) else -1 for size in entry.shape])
            for entry in session_of(path).get_inputs()
        ]
        self.num_inputs = len(self.inputs)

    def get_input(self, i):
        return self.inputs[i]


class FakeBuilder:
    def __init__(self, module):
        self.module = module

    def create_network(self, flags):
        assert flags == 1 << 1  # strongly typed
        return FakeNetwork()

    def create_builder_config(self):
        profiles = []
        return SimpleNamespace(
            clear_flag=self.module.flags.discard, add_optimization_profile=profiles.append, profiles=profiles
        )

    def create_optimization_profile(self):
        limits = {}
        return SimpleNamespace(limits=limits, set_shape=lambda name, *shapes: limits.update({name: shapes}))

    def build_serialized_network(self, network, config):
        self.module.built += 1
        limits = config.profiles[0].limits if config.profiles else {}
        return json.dumps({"limits": limits, "path": network.path}).encode()


class FakeEngine:
    """An engine, and its context."""

    def __init__(self, plan):
        content = json.loads(plan)
        self.limits = content["limits"]
        self.session = session_of(content["path"])
        self.entries = {entry.name: entry for entry in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.given = [entry.name for entry in self.session.get_inputs()]
        self.num_io_tensors, self.shapes, self.addresses = len(self.entries), {}, {}

    def get_tensor_name(self, i):
        return list(self.entries)[i]

    def get_tensor_mode(self, name):
        return "input" if name in self.given else "output"

    def get_tensor_dtype(self, name):
        return TYPES[self.entries[name].type]

    def get_tensor_profile_shape(self, name, profile):
        return self.limits[name]

    def create_execution_context(self):
        return FakeContext(self)

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else -1 for size in self.entries[name].shape]


class FakeContext:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.found = engine, {}, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape

    def get_tensor_shape(self, name):
        """What a network makes of the inputs' shapes, found by a run on zeros."""
        key = (name, tuple(self.shapes.values()))
        if key not in self.found:
            zeros = {given: np.zeros(self.shapes[given], np.float32) for given in self.engine.given}
            self.found[key] = self.engine.session.run([name], zeros)[0].shape
        return self.found[key]

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def execute_async_v3(self, stream):
        assert stream == 7
        inputs = {}
        for name in self.engine.given:
            size = int(np.prod(self.shapes[name]))
            inputs[name] = np.frombuffer((ctypes.c_float * size).from_address(self.addresses[name]), np.float32)
            inputs[name] = inputs[name].reshape(self.shapes[name])
        outputs = [entry.name for entry in self.engine.session.get_outputs()]
        for name, array in zip(outputs, self.engine.session.run(outputs, inputs)):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True


class FakeOrt:
    """The module `onnxruntime` with a provider for CUDA. `asked` are the providers of its sessions."""

    SessionOptions = onnxruntime.SessionOptions

    def __init__(self):
        self.asked = []
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=lambda array, device, i: (device, array))

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):
        self.asked.append(providers)
        return FakeOrtSession(session_of(path))


class FakeOrtSession:
    def __init__(self, real):
        self.real, self.get_inputs, self.get_outputs = real, real.get_inputs, real.get_outputs

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self):
        given, wanted, found = {}, [], []
        return SimpleNamespace(
            given=given,
            wanted=wanted,
            found=found,
            bind_ortvalue_input=lambda name, value: given.update({name: value}),
            bind_output=lambda name, device, i: wanted.append(name),
            copy_outputs_to_cpu=lambda: found,
        )

    def run_with_iobinding(self, binding):
        assert {device for device, _ in binding.given.values()} == {"cuda"}
        inputs = {name: array for name, (_, array) in binding.given.items()}
        binding.found[:] = self.real.run(binding.wanted, inputs)
