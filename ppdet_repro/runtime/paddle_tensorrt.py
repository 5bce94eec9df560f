"""TensorRT inside Paddle Inference: precision, shape ranges, and engines that are kept between runs.

Programs of Paddle 2 (.pdmodel) get their engines when they are loaded. Programs of Paddle 3 (.json) are converted
before, see `paddle_tensorrt_convert`.

Written for Paddle 2.6's interface, and tested against a recorder of its calls. It was never run on a GPU.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

import numpy as np
from paddle import inference

from ppdet_repro.paddle_private.saved_program import is_pir, read_operators
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.paddle_network import create_predictor, make_config, run_predictor
from ppdet_repro.runtime.paddle_options import PaddleOptions, check_options, check_precision, installed_build
from ppdet_repro.runtime.paddle_tensorrt_convert import check_flags, check_size, converted_program
from ppdet_repro.utils.user_cache import user_cache

PRECISION = {
    "trt_fp32": inference.PrecisionType.Float32,
    "trt_fp16": inference.PrecisionType.Half,
    "trt_int8": inference.PrecisionType.Int8,
}
LEFT_TO_PADDLE = {  # operators that TensorRT cannot run; each of them splits the network into two engines
    "deformable_conv": "DCN, where the input size is free",
    "matrix_nms": "suppression",
    "multiclass_nms3": "suppression, unless TensorRT's plugin fits",
}


class TensorRtNetwork:
    """A Paddle inference model with subgraphs that TensorRT runs. It is loaded at the first run."""

    def __init__(self, model: ModelFolder, options: PaddleOptions):
        """UserError if the installed Paddle cannot run the model as the options say, or its program is damaged."""
        check_options(options, installed_build())
        self.operators = read_operators(model.network_file)
        check_precision(options, self.operators, model.folder)
        self.converted = is_pir(model.network_file)
        if self.converted:
            check_flags(options, self.operators, model.folder)
        self.model, self.options = model, options
        self._predictor: Optional[inference.Predictor] = None
        if sentence := describe_left_out(self.operators):
            print(sentence)

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`. Also raises UserError for a size for which a program of Paddle 3 was not converted."""
        if self.converted and self.model.dynamic_shape:
            check_size(inputs["image"].shape, self.options)
        if self._predictor is None:
            self._predictor = self._load(inputs)
        return run_predictor(self._predictor, inputs)

    def _load(self, inputs: Mapping[str, np.ndarray]) -> inference.Predictor:
        """A predictor with TensorRT, or, with --collect_trt_shape_info, one that collects shape ranges. Missing ranges
        are collected first, by a run without TensorRT on these inputs."""
        options, model = self.options, self.model
        if options.collect_trt_shape_info:
            return self._collector(options.tuned_trt_shape_file)
        cache = cache_folder(options.trt_cache_dir, model, options.run_mode, options.batch_size)
        if self.converted:
            program = converted_program(model, options, inputs, list(LEFT_TO_PADDLE), cache)
            return create_predictor(make_config(program, options, self.operators), program.parent)
        shapes = shape_file(options.tuned_trt_shape_file, cache, model)
        if shapes is not None and not shapes.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            run_predictor(self._collector(str(shapes)), inputs)  # the file is written when the predictor is deleted
        config = make_config(model.network_file, options, self.operators)
        configure_tensorrt(config, options, model, cache, shapes)
        return create_predictor(config, model.folder)

    def _collector(self, path: str) -> inference.Predictor:
        """A predictor without TensorRT that writes the shape ranges of its runs to a file."""
        config = make_config(self.model.network_file, self.options, self.operators)
        config.collect_shape_range_info(path)
        return create_predictor(config, self.model.folder)


def describe_left_out(operators: Sequence[str]) -> Optional[str]:
    """A sentence that names the operators that TensorRT leaves to Paddle; None if there are none."""
    counts = Counter(operators)
    found = [f"{counts[name]} {name} ({remark})" for name, remark in LEFT_TO_PADDLE.items() if counts[name]]
    return f"TensorRT cannot run these operators, Paddle runs them on the GPU: {'; '.join(found)}" if found else None


def cache_folder(root: Optional[str], model: ModelFolder, run_mode: str, batch_size: int) -> Path:
    """The folder for this model's engines: one per content of the model, TensorRT version, precision and batch size, so
    that an outdated engine is never loaded."""
    base = Path(root) if root else user_cache("tensorrt")
    version = ".".join(map(str, inference.get_trt_compile_version()))
    content = hashlib.sha256(model.network_file.read_bytes())
    content.update(model.network_file.with_suffix(".pdiparams").read_bytes())
    precision = run_mode.removeprefix("trt_")
    return base / f"{content.hexdigest()[:16]}-tensorrt{version}-{precision}-batch{batch_size}"


def shape_file(given: str, cache: Path, model: ModelFolder) -> Optional[Path]:
    """The file of shape ranges: `given` if it exists, otherwise one in the cache, which may not exist yet. None for a
    model with a fixed input size, which needs no ranges."""
    if Path(given).is_file():
        return Path(given)
    return cache / "shape_ranges.pbtxt" if model.dynamic_shape else None


def configure_tensorrt(
    config: inference.Config, options: PaddleOptions, model: ModelFolder, cache: Path, shapes: Optional[Path]
) -> None:
    """Enable TensorRT in a configuration."""
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
        config.enable_tuned_tensorrt_dynamic_shape(str(shapes), True)  # True: rebuild for sizes outside the ranges
    elif model.dynamic_shape:
        n = options.batch_size
        sides = (options.trt_min_shape, options.trt_max_shape, options.trt_opt_shape)
        shapes_per_side = ({"image": [n, 3, s, s], "im_shape": [n, 2], "scale_factor": [n, 2]} for s in sides)
        config.set_trt_dynamic_shape_info(*shapes_per_side)
