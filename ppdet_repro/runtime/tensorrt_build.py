"""Engines of TensorRT, built from ONNX files and kept between runs.

Works with NVIDIA's packages `tensorrt` (version 10 or newer) and `tensorrt_rtx`. Networks are strongly typed: an engine
computes in the types of the ONNX file, so FP16 and int8 are chosen when a model is exported. TensorRT-RTX also builds
engines on a machine without a GPU.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from filelock import FileLock

from ppdet_repro.runtime.manifest import AGAIN, sha256
from ppdet_repro.runtime.networks import first_line
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.user_cache import user_cache

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}  # module -> product, by preference
OLDEST = {"tensorrt": 10, "tensorrt_rtx": 1}  # major versions
INSTALL = (
    "install it with: pip install 'ppdet-repro[tensorrt]', or, for GeForce RTX and RTX PRO GPUs, "
    "'ppdet-repro[tensorrt-rtx]'"
)
STRIDE = 32  # feature pyramids need sides that are multiples of it

Shape = Tuple[int, ...]


class Library(NamedTuple):
    """The installed TensorRT or TensorRT-RTX."""

    module: Any
    product: str
    version: str

    @property
    def for_rtx(self) -> bool:
        return self.product == MODULES["tensorrt_rtx"]


class Sizes(NamedTuple):
    """The smallest, the usual and the largest of what is free in the shapes of a network's inputs."""

    batch: Shape
    height: Shape
    width: Shape

    def shapes(self, declared: Sequence[int]) -> List[Shape]:
        """The three shapes of an input whose free sizes are -1: [-1, 3, -1, -1] is an image, [-1, 2] something else."""
        free = zip(self.batch, (3, 3, 3), self.height, self.width)
        return [tuple(value if size == -1 else size for size, value in zip(declared, values)) for values in free]

    def __str__(self) -> str:
        return "-".join(["x".join(map(str, values)) for values in self])


def open_library() -> Library:
    """The first of `MODULES` that is installed. UserError if none is, or if it is too old or cannot be loaded."""
    for name, product in MODULES.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise UserError(f"{product} cannot be imported ({first_line(error)}); install {error.name}") from error
            continue
        except (ImportError, OSError, RuntimeError) as error:  # a library of its own is missing
            raise UserError(f"{product} cannot be imported: {first_line(error)}; install it again") from error
        version = str(module.__version__)
        if int(version.partition(".")[0]) < OLDEST[name]:
            raise UserError(f"{product} {version} is too old for --engine=tensorrt; install {name}>={OLDEST[name]}")
        return Library(module, product, version)
    raise UserError(f"--engine=tensorrt: TensorRT is not installed; {INSTALL}")


def usual_sizes(preprocess: Sequence[Mapping[str, Any]], batch_size: int, sides: Shape) -> Sizes:
    """The sizes for which an engine is built.

    Args:
        preprocess: The model's steps. The usual size is that to which they resize.
        batch_size: The largest number of images.
        sides: The smallest, the usual and the largest side in pixels that the flags name. The largest one is raised to
            what the steps produce, the usual one counts if they do not resize.
    """
    steps = {step["type"]: step for step in preprocess}
    stride = max(STRIDE, steps.get("PadStride", {}).get("stride", 0))

    def padded(side: int) -> int:
        return -(-side // stride) * stride

    low, usual, high = sides
    height, width = map(padded, steps.get("Resize", {}).get("target_size", (usual, usual)))
    low, high = max(stride, low // stride * stride), max(padded(high), height, width)
    low = min(low, height, width)
    return Sizes((1, batch_size, batch_size), (low, height, high), (low, width, high))


def engine_file(root: Optional[str], onnx: Path, library: Library, sizes: Sizes, gpu: str, tf32: bool) -> Path:
    """The file in the cache for all that an engine depends on: the content of the ONNX file, its sizes, the precision,
    the version of TensorRT, and the GPU."""
    facts = [sha256(onnx), library.product, library.version, str(sizes), gpu, "tf32" if tf32 else "exact"]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    readable = re.sub("[^0-9A-Za-z.]+", "_", f"{library.product}{library.version}-{gpu}")
    return (Path(root) if root else user_cache("tensorrt")) / f"{readable}-{name}.engine"


def cached_engine(path: Path, onnx: Path, library: Library, sizes: Sizes, tf32: bool) -> bytes:
    """The engine in `path`, or one that is built for this machine's GPU now and written there.

    Two processes that need the same engine build it once. UserError if TensorRT cannot build it, or the file cannot be
    read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.is_file():
                return path.read_bytes()
            get_logger().info(f"{library.product} builds an engine for {onnx}, which can take minutes: {path}")
            engine = build_engine(library, onnx, sizes, tf32, ["CURRENT"] if library.for_rtx else [])
            write_output(path, engine)
            return engine
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot keep the engine there: {reason}; --trt_cache_dir names a folder") from error


def build_engine(
    library: Library, onnx: Path, sizes: Sizes, tf32: bool = False, capabilities: Sequence[str] = ()
) -> bytes:
    """Build an engine.

    Args:
        library: What builds it.
        onnx: The file of the network.
        sizes: For what is free in the shapes of its inputs.
        tf32: Whether products of float32 numbers may be computed in TF32, with 10 bits behind the point.
        capabilities: TensorRT-RTX only: the compute capabilities of the GPUs, such as "SM86", or "CURRENT".

    Raises:
        UserError: TensorRT does not support the model, or fails.
    """
    module, log = library.module, make_logger(library)
    what = f"{library.product} {library.version}"
    builder = module.Builder(log)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        reason = first_line(Exception(parser.get_error(0).desc() if parser.num_errors else "no reason is given"))
        raise UserError(f"{what} cannot read {onnx}: {reason}; {AGAIN}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(module.BuilderFlag.TF32)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for i, name in enumerate(capabilities):
            config.set_compute_capability(getattr(module.ComputeCapability, name), i)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        profile.set_shape(tensor.name, *sizes.shapes(tuple(tensor.shape)))
    if any(-1 in tuple(tensor.shape) for tensor in inputs):
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(f"{what} cannot build an engine for {onnx}: {log.reason()}")
    return bytes(engine)


def make_logger(library: Library) -> Any:
    """A logger for TensorRT, which keeps its error messages instead of printing them."""

    class Log(library.module.ILogger):  # type: ignore[name-defined]  # the base is a class of the library
        def __init__(self) -> None:
            library.module.ILogger.__init__(self)
            self.errors: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.module.ILogger.ERROR:
                self.errors.append(message)

        def reason(self) -> str:
            """The first error, without the place in TensorRT's source; what TensorRT logs first is the cause."""
            text = self.errors[0] if self.errors else "no reason is given"
            return first_line(Exception(text))[:300]

    return Log()
