"""TensorRT for programs of Paddle 3 (.json): `paddle.tensorrt.convert` builds engines, and writes a program with them.

The engines take inputs from the smallest to the largest that are named when they are built. A converted program, its
parameters and its engines stay where they were written: the program holds the absolute paths of its engines.

Written after the source of Paddle 3.2, and tested against a recorder of its calls. It was never run on a GPU.
"""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from paddle import device, inference

from ppdet_repro.paddle_private.pir_program import pir_inputs, read_pir
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import first_line
from ppdet_repro.runtime.paddle_options import PaddleOptions
from ppdet_repro.runtime.paddle_program import is_quantized
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger

PRECISION = {"trt_fp32": "FP32", "trt_fp16": "FP16", "trt_int8": "INT8"}  # names in Paddle's PrecisionMode
STRIDE = 32  # feature pyramids need sides that are multiples of it
WORKSPACE = 1 << 30  # bytes of GPU memory that TensorRT may use while it builds, Paddle's default
NO_MEANING = "has no meaning for a .json model, because Paddle 3"


class Sizes(NamedTuple):
    """The smallest, the usual and the largest value of what is free in the shapes of a model's inputs."""

    batch: Tuple[int, int, int]
    side: Tuple[int, int, int]

    def __str__(self) -> str:
        return f"batch{'-'.join(map(str, self.batch))}-side{'-'.join(map(str, self.side))}"


def check_flags(options: PaddleOptions, operators: Sequence[str], folder: Path) -> None:
    """UserError if a flag has no meaning for programs of Paddle 3, or if int8 is asked for and the model in `folder`
    is not quantized."""
    unused = PaddleOptions()
    if options.collect_trt_shape_info or options.tuned_trt_shape_file != unused.tuned_trt_shape_file:
        flag = "collect_trt_shape_info" if options.collect_trt_shape_info else "tuned_trt_shape_file"
        raise UserError(
            f"--{flag} {NO_MEANING} takes the range of sizes from --trt_min_shape, --trt_opt_shape and "
            "--trt_max_shape; leave the flag out"
        )
    if options.trt_calib_mode:
        raise UserError(f"--trt_calib_mode {NO_MEANING} does not calibrate; leave the flag out")
    if options.run_mode == "trt_int8" and not is_quantized(operators):
        raise UserError(f"--run_mode=trt_int8: {folder} is not a quantized model; ppdet-repro quantize writes one")


def sizes(options: PaddleOptions) -> Sizes:
    """What the flags say. Sides are widened to multiples of `STRIDE`."""
    low = max(STRIDE, options.trt_min_shape // STRIDE * STRIDE)
    usual, high = (-(-side // STRIDE) * STRIDE for side in (options.trt_opt_shape, options.trt_max_shape))
    return Sizes((1, options.batch_size, options.batch_size), (low, usual, high))


def check_size(shape: Sequence[int], options: PaddleOptions) -> None:
    """UserError if engines for inputs of free size do not take images [B, 3, H, W] of this shape."""
    low, _, high = sizes(options).side
    if shape[0] > options.batch_size:
        raise UserError(
            f"the model was converted to TensorRT for up to {options.batch_size} images at once, not {shape[0]}; "
            "change --batch_size"
        )
    if not all(low <= side <= high for side in shape[2:]):
        raise UserError(
            f"the model was converted to TensorRT for inputs with sides from {low} to {high} pixels, not "
            f"{shape[2]} x {shape[3]}; change --trt_min_shape or --trt_max_shape"
        )


def examples(
    declared: Mapping[str, Sequence[int]], limits: Sizes, inputs: Mapping[str, np.ndarray]
) -> Dict[str, Tuple[np.ndarray, ...]]:
    """Arrays for each input of a program, of the smallest, the usual and the largest shape.

    Paddle runs the program on them and notes the shapes of all values. The images are made of the pixels of `inputs`,
    so that the network finds something.

    Args:
        declared: The shape of each input by name, with -1 for free sizes.
        limits: The values of the free sizes.
        inputs: A batch of the network.
    """
    found: Dict[str, List[np.ndarray]] = {name: [] for name in declared}
    for batch, side in zip(*limits):
        free = (batch, 3, side, side)
        shapes = {
            name: [free[axis] if size == -1 else size for axis, size in enumerate(shape)]
            for name, shape in declared.items()
        }
        for name, shape in shapes.items():
            example = np.resize(np.asarray(inputs[name], np.float32), shape)
            found[name].append(np.full(shape, shapes["image"][2:], np.float32) if name == "im_shape" else example)
    return {name: tuple(arrays) for name, arrays in found.items()}


def converted_program(
    model: ModelFolder, options: PaddleOptions, inputs: Mapping[str, np.ndarray], left_out: Sequence[str], cache: Path
) -> Path:
    """The model's program with engines of TensorRT, from the cache, or converted now.

    Args:
        model, options: What to convert, and how.
        inputs: The network's first batch.
        left_out: The operators that Paddle runs.
        cache: The folder for this model, its precision, and the version of TensorRT.

    Raises:
        UserError: Paddle or TensorRT lacks something, the conversion fails, or the cache cannot be written.
    """
    place = cache / f"{sizes(options)}-{re.sub('[^0-9A-Za-z]+', '_', device.cuda.get_device_name())}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / "lock"):
            found = published(place)
            return found if found is not None else convert(model, options, inputs, left_out, place)
    except OSError as error:
        raise UserError(f"cannot write TensorRT's engines to {place}: {error.strerror or error}") from error


def published(place: Path) -> Optional[Path]:
    """The converted program of a folder of the cache; None if there is none, or if it was moved."""
    try:
        program = Path((place / "program.txt").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return program if program.is_file() and program.parent.parent == place.resolve() else None


def convert(
    model: ModelFolder, options: PaddleOptions, inputs: Mapping[str, np.ndarray], left_out: Sequence[str], place: Path
) -> Path:
    """Convert into a new folder of `place`, and publish the program when it is complete."""
    tensorrt = import_tensorrt()
    declared = pir_inputs(read_pir(model.network_file))
    warmup = examples(declared, sizes(options), inputs)
    folder = Path(tempfile.mkdtemp(prefix="converted-", dir=place)).resolve()
    get_logger().info(f"TensorRT converts {model.folder}, which takes minutes; the result is kept in {folder}")
    try:
        config = tensorrt.TensorRTConfig(
            inputs=[tensorrt.Input(warmup_data=warmup[name], input_data_type=None, name=name) for name in declared],
            min_subgraph_size=model.min_subgraph_size,
            save_model_dir=str(folder / "model"),
            disable_ops=[f"pd_op.{name}" for name in left_out],
            precision_mode=tensorrt.PrecisionMode[PRECISION[options.run_mode]],
            workspace_size=WORKSPACE,
        )
        run_conversion(tensorrt, model, config)
        program = folder / "model.json"
        write_output(place / "program.txt", str(program).encode())
        return program
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def run_conversion(tensorrt: Any, model: ModelFolder, config: Any) -> None:
    """Call `paddle.tensorrt.convert`. UserError if it fails."""
    try:
        tensorrt.convert(str(model.network_file.with_suffix("")), config)
        if not Path(f"{config.save_model_dir}.json").is_file():
            raise RuntimeError("it wrote no program")
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError) as error:  # OSError: libraries of TensorRT
        reason = first_line(error)
        raise UserError(f"TensorRT cannot convert {model.folder}: {reason}; run it with --run_mode=paddle") from error


def import_tensorrt() -> Any:
    """The module `paddle.tensorrt`. UserError if it, or TensorRT's Python package, is not installed."""
    try:
        return importlib.import_module("paddle.tensorrt")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "tensorrt":
            version = ".".join(map(str, inference.get_trt_compile_version()))
            raise UserError(
                f"TensorRT's Python package cannot be imported ({error}); install it with: pip install "
                f"tensorrt=={version}"
            ) from error
        raise UserError(
            "the installed Paddle has no paddle.tensorrt, which converts .json models and is in GPU builds only; "
            "install paddlepaddle-gpu, or leave --run_mode out"
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same file. Does nothing on Windows."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "ab") as file:
        with suppress(OSError):  # a file system without locks: two processes may convert at once, each in its folder
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
