"""Exported networks in the runtimes that run them: arrays by name in, a list of arrays out.

A runtime is imported when its network is opened; without it there is one line that says what to install.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Protocol

import numpy as np

from ppdet_repro.utils.errors import UserError

# What computes in int8 in a quantised Paddle model; the last is what oneDNN makes of a convolution. Without the list it
# also rounds pooling, reshapes and transposes whose ranges are known, those of decoded boxes among them.
INT8_OPERATORS = {"conv2d", "depthwise_conv2d", "fused_conv2d"}


class Network(Protocol):
    """An exported network."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """image [B, 3, H, W], im_shape and scale_factor [B, 2] -> its outputs. UserError if they do not fit it."""


def missing(package: str, extra: str) -> UserError:
    """What to say where a runtime is not installed."""
    return UserError(f"{package} is not installed; install it with: pip install -c requirements.lock -e '.[{extra}]'")


class OnnxNetwork:
    """A .onnx file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int = 1):
        """UserError if ONNX Runtime is not installed or refuses the file."""
        try:
            import onnxruntime
        except ImportError:
            raise missing("onnxruntime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors come as exceptions
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of a module of its own, and RuntimeError
            raise UserError(f"ONNX Runtime cannot load {path}: {first_line(error)}; export it again") from error
        self.path = path
        self.names = [entry.name for entry in self.session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        try:
            return self.session.run(None, {name: inputs[name] for name in self.names})
        except Exception as error:  # as above
            raise UserError(f"ONNX Runtime cannot run {self.path}: {first_line(error)}") from error


class OpenVinoNetwork:
    """A .onnx file in OpenVINO, on the CPU, in float32."""

    def __init__(self, path: Path, threads: int = 1):
        """UserError if OpenVINO is not installed or refuses the file."""
        try:
            import openvino
        except ImportError:
            raise missing("openvino", "openvino") from None
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self.model = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot load {path}: {first_line(error)}; export it again") from error
        self.path = path
        self.names = [entry.any_name for entry in self.model.inputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        try:
            outputs = self.model({name: inputs[name] for name in self.names})
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot run {self.path}: {first_line(error)}") from error
        return [np.array(outputs[i]) for i in range(len(self.model.outputs))]


class LiteNetwork:
    """A .nb file in Paddle-Lite's Python package, on an x86 CPU. The package offers no choice of threads."""

    def __init__(self, path: Path, threads: int = 1):
        """UserError if paddlelite is not installed or the file is not one of its."""
        import zlib  # noqa: F401  before paddlelite: with Paddle in the same process both crash otherwise

        try:
            from paddlelite.lite import MobileConfig, create_paddle_predictor
        except ImportError:
            raise missing("paddlelite", "lite") from None
        if not path.is_file() or not path.stat().st_size:  # Paddle-Lite would abort the process
            raise UserError(f"{path} is missing or empty; export it again")
        config = MobileConfig()
        config.set_model_from_file(str(path))
        self.predictor: Any = create_paddle_predictor(config)
        self.names = self.predictor.get_input_names()

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        for name in self.names:
            self.predictor.get_input_by_name(name).from_numpy(np.ascontiguousarray(inputs[name], np.float32))
        self.predictor.run()
        outputs = [self.predictor.get_output_by_name(name) for name in self.predictor.get_output_names()]
        return [np.array(output.numpy()) for output in outputs]  # copies: these arrays die with the predictor


def first_line(error: Exception) -> str:
    """An exception's first line that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


NETWORKS: Dict[str, Callable[[Path, int], Network]] = {
    "onnxruntime": OnnxNetwork,
    "openvino": OpenVinoNetwork,
    "lite": LiteNetwork,
}
FILES = {"onnxruntime": "model.onnx", "openvino": "model.onnx", "lite": "model_x86.nb"}
