"""TensorRT inside Paddle Inference: precision, shape ranges, and engines kept between runs.

Written for Paddle 2.6's interface and tested against a recorder of its calls; not run, for want of a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from paddle import inference

from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.paddle_program import count_of, digest

PRECISION = {
    "trt_fp32": inference.PrecisionType.Float32,
    "trt_fp16": inference.PrecisionType.Half,
    "trt_int8": inference.PrecisionType.Int8,
}
LEFT_TO_PADDLE = {  # operators that TensorRT does not take; each parts the network into two engines
    "deformable_conv": "DCN, where the input size is free",
    "matrix_nms": "suppression",
    "multiclass_nms3": "suppression, unless TensorRT's plugin fits",
}


def left_out(operators: Sequence[str]) -> Optional[str]:
    """A sentence that names the operators which TensorRT leaves to Paddle; None if it takes all."""
    found = count_of(operators, LEFT_TO_PADDLE)
    if not found:
        return None
    names = "; ".join(f"{count} {name} ({remark})" for name, count, remark in found)
    return f"TensorRT cannot take these operators, Paddle runs them on the GPU: {names}"


def cache_folder(root: Optional[str], model: ModelFolder, run_mode: str, batch_size: int) -> Path:
    """Where this model's engines live: a folder of its own for each content of the model, TensorRT version,
    precision and batch size, so that an old engine is never loaded."""
    base = Path(root) if root else _default_root()
    version = ".".join(map(str, inference.get_trt_compile_version()))
    model_hash = digest([model.program, model.parameters])
    return base / f"{model_hash}-tensorrt{version}-{run_mode.removeprefix('trt_')}-batch{batch_size}"


def _default_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppdet_repro" / "tensorrt"


def shape_file(given: str, cache: Path, model: ModelFolder) -> Optional[Path]:
    """The file of shape ranges: the one given if it exists, else the cache's (which may not exist yet); None for
    a model of fixed input size, which needs none."""
    if Path(given).is_file():
        return Path(given)
    return cache / "shape_ranges.pbtxt" if model.dynamic_shape else None


def configure_tensorrt(config: Any, options: Any, model: ModelFolder, cache: Path, shapes: Optional[Path]) -> None:
    """Set a `paddle.inference.Config` for TensorRT; `options` is an EngineOptions."""
    cache.mkdir(parents=True, exist_ok=True)
    config.set_optim_cache_dir(str(cache))
    config.enable_tensorrt_engine(
        workspace_size=(1 << 25) * options.batch_size,
        max_batch_size=options.batch_size,
        min_subgraph_size=model.min_subgraph_size,
        precision_mode=PRECISION[options.run_mode],
        use_static=True,  # engines are written to the cache and read from it
        use_calib_mode=options.trt_calib_mode,
    )
    if shapes is not None and shapes.is_file():
        config.enable_tuned_tensorrt_dynamic_shape(str(shapes), True)  # True: rebuild for sizes beyond
    elif model.dynamic_shape:
        sides = (options.trt_min_shape, options.trt_max_shape, options.trt_opt_shape)
        config.set_trt_dynamic_shape_info(*(input_shapes(options.batch_size, side) for side in sides))


def input_shapes(batch_size: int, side: int) -> Dict[str, List[int]]:
    """The inputs' shapes for images of side x side pixels."""
    return {"image": [batch_size, 3, side, side], "im_shape": [batch_size, 2], "scale_factor": [batch_size, 2]}


def version() -> Tuple[int, ...]:
    """TensorRT's version in the installed Paddle, (0, 0, 0) if it has none."""
    return tuple(inference.get_trt_compile_version())
