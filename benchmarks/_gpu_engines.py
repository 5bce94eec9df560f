"""The engines of benchmarks/gpu.py: a network that is loaded, started and fetched step by step. Needs no Paddle."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.runtime.cuda import Cuda
from ppdet_repro.runtime.networks import first_line
from ppdet_repro.runtime.tensorrt_build import Sizes, cached_engine, engine_file, open_library
from ppdet_repro.runtime.tensorrt_network import load_engine
from ppdet_repro.utils.errors import UserError

PROVIDERS = {"ONNX Runtime CUDA": "CUDAExecutionProvider", "ONNX Runtime TensorRT": "TensorrtExecutionProvider"}
ON_GPU = ("TensorRT", *PROVIDERS)
ON_CPU = ("ONNX Runtime CPU",)
PRECISIONS = {"gpu": ("fp16", "tf32", "fp32"), "cpu": ("fp32", "fp16")}  # the most interesting first


class Variant(NamedTuple):
    """A graph to open, and how."""

    path: Path
    size: Sequence[int]  # height and width
    batch: int
    precision: str  # fp32 and tf32 of a graph in float32, fp16 of one in FP16
    threads: int = 1


def why_not(engine: str) -> Optional[str]:
    """The reason why an engine cannot run here, as far as the installed packages tell; None if there is none."""
    if engine == "TensorRT":
        found = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))
        return None if found else "neither tensorrt nor tensorrt_rtx is installed"
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    import onnxruntime

    wanted = PROVIDERS.get(engine, "CPUExecutionProvider")
    available = onnxruntime.get_available_providers()
    return None if wanted in available else f"the installed onnxruntime has no {wanted}; onnxruntime-gpu has it"


def prepare_process(precision: str) -> None:
    """Forbid TF32 to the libraries that this process will load, unless it is what is measured."""
    if precision != "tf32":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"


def open_runner(engine: str, variant: Variant, cache: Path) -> Any:
    """A network with load, launch, fetch, run and cuda, as `TensorRtEngine` has them. `cache` is a folder for engines
    of TensorRT. UserError if the engine cannot run it."""
    if engine != "TensorRT":
        return OrtRunner(engine, variant)
    library, cuda = open_library(), Cuda()
    height, width = variant.size
    sizes = Sizes((variant.batch,) * 3, (height,) * 3, (width,) * 3)
    tf32 = variant.precision == "tf32"
    path = engine_file(str(cache), variant.path, library, sizes, f"{cuda.gpu}-{cuda.capability}", tf32)
    plan = cached_engine(path, variant.path, library, sizes, tf32)
    return load_engine(plan, str(path), library, cuda)


class OrtRunner:
    """ONNX Runtime on a GPU or on the CPU. On a GPU, inputs and outputs stay there between `load` and `fetch`."""

    def __init__(self, engine: str, variant: Variant):
        """UserError if ONNX Runtime cannot use the engine, or load the graph."""
        import onnxruntime

        self.ort, self.provider = onnxruntime, PROVIDERS.get(engine)
        self.cuda = Cuda() if self.provider else None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = variant.threads
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(str(variant.path), options, providers=self._providers(variant))
        except Exception as error:  # classes of an extension module
            raise UserError(f"{engine} cannot load the graph: {first_line(error)}") from error
        if self.provider and self.provider not in self.session.get_providers():
            raise UserError(f"{engine} does not start: its libraries, or a GPU, are missing")
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.binding: Any = None
        self.given: Dict[str, np.ndarray] = {}
        self.found: List[np.ndarray] = []

    def _providers(self, variant: Variant) -> List[Any]:
        """The provider with its options, and those behind it. All compute on the stream whose events are timed."""
        if self.cuda is None or self.provider is None:
            return ["CPUExecutionProvider"]
        stream = {"user_compute_stream": str(int(self.cuda.stream))}
        cuda = ("CUDAExecutionProvider", {**stream, "use_tf32": str(int(variant.precision == "tf32"))})
        own = [cuda] if self.provider == cuda[0] else [(self.provider, stream), cuda]
        return [*own, "CPUExecutionProvider"]

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """The outputs for a batch, from arrays to arrays of this process."""
        self.load(inputs)
        self.launch()
        return self.fetch()

    def load(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copy inputs to the GPU."""
        self.given = {name: np.ascontiguousarray(inputs[name]) for name in self.inputs}
        if self.cuda is not None:
            self.binding = self.session.io_binding()
            for name, array in self.given.items():
                self.binding.bind_ortvalue_input(name, self.ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
            for name in self.outputs:
                self.binding.bind_output(name, "cuda", 0)

    def launch(self) -> None:
        """Run the network on what was loaded. UserError if it fails."""
        try:
            if self.cuda is not None:
                self.session.run_with_iobinding(self.binding)
            else:
                self.found = self.session.run(self.outputs, self.given)
        except Exception as error:  # as above
            raise UserError(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error

    def fetch(self) -> List[np.ndarray]:
        """The outputs of the last run."""
        return self.binding.copy_outputs_to_cpu() if self.cuda is not None else self.found
