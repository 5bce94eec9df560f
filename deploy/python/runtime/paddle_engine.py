"""Paddle Inference: oneDNN on the CPU, CUDA and TensorRT on GPUs.

B images, M boxes of all of them.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
from google.protobuf.message import DecodeError
from paddle import device, inference
from paddle.base.proto import framework_pb2

from ppdet_repro.utils.errors import UserError
from runtime.model_folder import ModelFolder

ONEDNN_SHAPES = 10  # input sizes whose kernels stay cached
GPU_MEMORY_MB = 200  # first allocation
TENSORRT_PRECISION = {
    "trt_fp32": inference.PrecisionType.Float32,
    "trt_fp16": inference.PrecisionType.Half,
    "trt_int8": inference.PrecisionType.Int8,
}


class EngineOptions(NamedTuple):
    """How to run a model; see the flags of the same names in `options`."""

    device: str = "cpu"
    run_mode: str = "paddle"
    batch_size: int = 1
    cpu_threads: int = 1
    enable_mkldnn: bool = True
    enable_mkldnn_bfloat16: bool = False
    trt_min_shape: int = 1
    trt_max_shape: int = 1280
    trt_opt_shape: int = 640
    trt_calib_mode: bool = False
    collect_trt_shape_info: bool = False
    tuned_trt_shape_file: str = "shape_range_info.pbtxt"


class Build(NamedTuple):
    """What the installed Paddle can do."""

    devices: Tuple[str, ...]
    tensorrt: bool


def installed_build() -> Build:
    """The abilities of the Paddle that is installed."""
    present = {
        "cpu": True,
        "gpu": device.is_compiled_with_cuda(),
        "xpu": device.is_compiled_with_xpu(),
        "npu": device.is_compiled_with_custom_device("npu"),
    }
    devices = tuple(name for name, there in present.items() if there)
    return Build(devices, inference.get_trt_compile_version() != (0, 0, 0))


def check_options(options: EngineOptions, build: Build) -> None:
    """UserError if the options contradict each other or ask for what the installed Paddle cannot do."""
    if options.device not in build.devices:
        raise UserError(
            f"--device={options.device}: the installed Paddle is built for {', '.join(build.devices)} alone"
        )
    if options.run_mode != "paddle" and options.device != "gpu":
        raise UserError(f"--run_mode={options.run_mode} needs --device=gpu, not {options.device}")
    if options.run_mode != "paddle" and not build.tensorrt:
        raise UserError(
            f"--run_mode={options.run_mode}: the installed Paddle has no TensorRT; use --run_mode=paddle"
        )
    if options.enable_mkldnn_bfloat16 and not (options.enable_mkldnn and options.device == "cpu"):
        raise UserError("--enable_mkldnn_bfloat16 needs --enable_mkldnn and --device=cpu")
    if not options.trt_min_shape <= options.trt_opt_shape <= options.trt_max_shape:
        raise UserError("--trt_min_shape, --trt_opt_shape and --trt_max_shape must not fall in this order")


def configure(config: Any, options: EngineOptions, model: ModelFolder) -> None:
    """Set a `paddle.inference.Config` as the options say."""
    if options.device == "gpu":
        config.enable_use_gpu(GPU_MEMORY_MB, 0)
    elif options.device == "xpu":
        config.enable_xpu()
    elif options.device == "npu":
        config.enable_custom_device("npu")
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(options.cpu_threads)
        if options.enable_mkldnn:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(ONEDNN_SHAPES)
        else:
            config.disable_mkldnn()  # Paddle 2.6 has it on by default
        if options.enable_mkldnn_bfloat16:
            config.enable_mkldnn_bfloat16()
    if options.run_mode in TENSORRT_PRECISION:
        _configure_tensorrt(config, options, model)
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    config.disable_glog_info()


def _configure_tensorrt(config: Any, options: EngineOptions, model: ModelFolder) -> None:
    """TensorRT with shape ranges: collected ones where there are, else from the flags."""
    config.enable_tensorrt_engine(
        workspace_size=(1 << 25) * options.batch_size,
        max_batch_size=options.batch_size,
        min_subgraph_size=model.min_subgraph_size,
        precision_mode=TENSORRT_PRECISION[options.run_mode],
        use_static=False,
        use_calib_mode=options.trt_calib_mode,
    )
    if options.collect_trt_shape_info:
        config.collect_shape_range_info(options.tuned_trt_shape_file)
    elif Path(options.tuned_trt_shape_file).is_file():
        config.enable_tuned_tensorrt_dynamic_shape(options.tuned_trt_shape_file, True)
    elif model.dynamic_shape:
        sides = (options.trt_min_shape, options.trt_max_shape, options.trt_opt_shape)
        config.set_trt_dynamic_shape_info(*(_input_shapes(options.batch_size, side) for side in sides))


def _input_shapes(batch_size: int, side: int) -> Dict[str, List[int]]:
    """The inputs' shapes for images of side x side pixels."""
    return {
        "image": [batch_size, 3, side, side],
        "im_shape": [batch_size, 2],
        "scale_factor": [batch_size, 2],
    }


def check_program(path: Path) -> None:
    """UserError if the file is not a Paddle program; Paddle itself would crash on some that are not."""
    program = framework_pb2.ProgramDesc()
    try:
        program.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is not a Paddle model, or is damaged ({error}); export it again") from error
    if not program.blocks:
        raise UserError(f"{path} is an empty Paddle model; export it again")


class PaddleEngine:
    """An exported model, loaded and ready."""

    def __init__(self, model: ModelFolder, options: EngineOptions):
        """UserError if the installed Paddle cannot run it so, or the files are damaged."""
        check_options(options, installed_build())
        check_program(model.program)
        config = inference.Config(str(model.program), str(model.parameters))
        configure(config, options, model)
        try:
            self.predictor = inference.create_predictor(config)
        except (RuntimeError, OSError, ValueError) as error:
            reason = next((line for line in str(error).splitlines() if "(" in line), str(error)).strip()
            raise UserError(
                f"Paddle cannot load {model.program.parent}: {reason}; export it again"
            ) from error
        self.folder = model.program.parent
        self.input_names = self.predictor.get_input_names()
        self.output_names = self.predictor.get_output_names()

    def run(self, inputs: Dict[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """`image` [B, 3, H, W], `im_shape` and `scale_factor` [B, 2] -> boxes [M, 6], their number per
        image [B]. UserError if the model does not end in these."""
        for name in self.input_names:
            self.predictor.get_input_handle(name).copy_from_cpu(inputs[name])
        self.predictor.run()
        outputs = [self.predictor.get_output_handle(name).copy_to_cpu() for name in self.output_names]
        if len(outputs) != 2 or outputs[0].shape[1:] != (6,) or outputs[1].dtype.kind != "i":
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise UserError(
                f"{self.folder} ends in outputs of shape {shapes}, not in boxes [M, 6] and their number; "
                "export it with export.post_process and export.nms on and export.benchmark off"
            )
        return outputs[0], outputs[1]
