"""Exported networks: arrays by name in, a list of arrays out. Here those in ONNX Runtime and OpenVINO; see also
`lite_network` and `paddle_network`. An engine is imported when a network is opened in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, Protocol

import numpy as np

from ppdet_repro.utils.cpu_env import has_vnni
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

INPUTS = {"image", "im_shape", "scale_factor"}
FILES = {  # engine -> the files that it runs, of which a folder has one
    "paddle": ("model.pdmodel", "model.json"),  # written by Paddle 2 and Paddle 3
    "onnxruntime": ("model.onnx",),
    "openvino": ("model.onnx",),
    "lite": ("model_x86.nb",),
    "tensorrt": ("model.onnx",),
}
GPU_PROVIDERS = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}  # by preference
WRONG_IN_ONNX_RUNTIME = ["QDQS8ToU8Transformer"]  # it ruined the boxes of int8 models in version 1.23.2
SATURATES = (
    "this processor has no VNNI: OpenVINO's int8 adds pairs of products in 16 bits, which saturate, so boxes may be "
    "wrong; --engine=onnxruntime simulates int8 in float32"
)


def network_file(folder: Path, engine: str, stem: str = "model") -> Path:
    """The file in a folder that an engine runs: the one that exists, otherwise the first in `FILES`. FastDeploy's files
    have the stem "inference"."""
    paths = [folder / name.replace("model", stem, 1) for name in FILES[engine]]
    return next((path for path in paths if path.is_file()), paths[0])


class Network(Protocol):
    """An exported network, loaded and ready."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """The outputs for a batch: `image` [B, 3, H, W], `im_shape` and `scale_factor` [B, 2], all float32, of which a
        network may ignore some. UserError if the inputs do not fit the network."""


def missing(package: str, extra: str) -> UserError:
    """The error for a package that is not installed; `extra` is the extra of ppdet-repro that brings it."""
    return UserError(f"{package} is not installed; install it with: pip install 'ppdet-repro[{extra}]'")


def first_line(error: Exception) -> str:
    """The first line of an exception's message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_quantized(path: Path) -> bool:
    """Whether an ONNX file has operators that round to int8."""
    return b"QuantizeLinear" in path.read_bytes()


def gpu_session(onnxruntime: Any, path: Path, options: Any) -> Any:
    """A session with the first of `GPU_PROVIDERS` that starts; None if none does. A line says why one does not.

    Behind the first provider are the others that exist, for the operators that it lacks. Never run on a GPU.
    """
    names = list(GPU_PROVIDERS)
    exist = [name for name in names if name in onnxruntime.get_available_providers()]
    for i, name in enumerate(names):
        reason = "the installed onnxruntime does not have it; onnxruntime-gpu does"
        if name in exist:
            providers = [*(other for other in names[i:] if other in exist), "CPUExecutionProvider"]
            try:
                session = onnxruntime.InferenceSession(
                    str(path), options, providers=providers, disabled_optimizers=WRONG_IN_ONNX_RUNTIME
                )
                if name in session.get_providers():
                    return session
                reason = "its libraries, or a GPU, are missing"
            except Exception as error:  # as in `OnnxNetwork`
                reason = first_line(error)
        following = GPU_PROVIDERS[names[i + 1]] if i + 1 < len(names) else "the CPU"
        get_logger().warning(f"ONNX Runtime cannot use {GPU_PROVIDERS[name]}: {reason}; {following} is next")
    return None


class OnnxNetwork:
    """A .onnx file in ONNX Runtime, on the CPU, or on a GPU if there is one and `device` is "gpu"."""

    def __init__(self, path: Path, threads: int = 1, device: str = "cpu"):
        """Load a file. UserError if ONNX Runtime is not installed or cannot load it."""
        try:
            import onnxruntime
        except ImportError:
            raise missing("onnxruntime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised as exceptions
        try:
            session = gpu_session(onnxruntime, path, options) if device == "gpu" else None
            self.session = session or onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=WRONG_IN_ONNX_RUNTIME
            )
        except Exception as error:  # RuntimeError, and classes of an extension module
            raise UserError(f"ONNX Runtime cannot load {path}: {first_line(error)}; export it again") from error
        if is_quantized(path):
            get_logger().warning(
                f"ONNX Runtime simulates the int8 of {path} in float32; Paddle Inference computes in it"
            )
        self.path = path
        self.names = [entry.name for entry in self.session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`."""
        try:
            return self.session.run(None, {name: inputs[name] for name in self.names})
        except Exception as error:  # as above
            raise UserError(f"ONNX Runtime cannot run {self.path}: {first_line(error)}") from error


class OpenVinoNetwork:
    """A .onnx file in OpenVINO, on the CPU, in float32."""

    def __init__(self, path: Path, threads: int = 1):
        """Load a file. UserError if OpenVINO is not installed or cannot load it."""
        try:
            import openvino
        except ModuleNotFoundError:
            raise missing("openvino", "openvino") from None
        except ImportError as error:  # Paddle 3.2 loads another version of OpenVINO's libraries
            apart = "with Paddle 3 it works only in a process that does not import paddle, such as ppdet-repro infer"
            raise UserError(f"OpenVINO cannot be imported ({first_line(error)}); {apart}") from error
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self.model = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot load {path}: {first_line(error)}; export it again") from error
        if not has_vnni() and is_quantized(path):
            get_logger().warning(SATURATES)
        self.path = path
        # an input of an FP16 model has a second name, that of the conversion behind it
        self.names = [next(iter(entry.names & INPUTS), entry.any_name) for entry in self.model.inputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`."""
        try:
            outputs = self.model({name: inputs[name] for name in self.names})
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot run {self.path}: {first_line(error)}") from error
        return [np.array(outputs[i]) for i in range(len(self.model.outputs))]
