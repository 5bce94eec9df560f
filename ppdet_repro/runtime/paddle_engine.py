"""Paddle Inference: oneDNN on the CPU, CUDA and TensorRT on GPUs.

B images, M boxes of all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from paddle import device, inference

from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.networks import INT8_OPERATORS
from ppdet_repro.runtime.paddle_program import CONVOLUTIONS, is_quantised, multiplies_only_outside, read_operators
from ppdet_repro.runtime.paddle_tensorrt import (
    PRECISION,
    cache_folder,
    configure_tensorrt,
    left_out,
    shape_file,
    version,
)
from ppdet_repro.utils.errors import UserError

ONEDNN_SHAPES = 10  # input sizes whose kernels stay cached
GPU_MEMORY_MB = 200  # first allocation
FUSED = {"fused_conv2d", "fused_matmul", "fused_transpose", "fc"}  # what Paddle makes of a program's operators


class EngineOptions(NamedTuple):
    """How to run a model; see the flags of the same names in `options`."""

    device: str = "cpu"
    run_mode: str = "paddle"
    batch_size: int = 1
    cpu_threads: int = 1
    enable_mkldnn: bool = True
    enable_mkldnn_bfloat16: bool = False
    enable_mkldnn_int8: Optional[bool] = None
    trt_min_shape: int = 1
    trt_max_shape: int = 1280
    trt_opt_shape: int = 640
    trt_calib_mode: bool = False
    collect_trt_shape_info: bool = False
    tuned_trt_shape_file: str = "shape_range_info.pbtxt"
    trt_cache_dir: Optional[str] = None


class Build(NamedTuple):
    """What the installed Paddle and this machine can do; `bfloat16`: the CPU has AVX-512, which oneDNN needs
    for it."""

    devices: Tuple[str, ...]
    tensorrt: bool
    bfloat16: bool = True

    def modes(self) -> str:
        """What can be asked for, in flags."""
        modes = ["paddle"] + (list(PRECISION) if self.tensorrt and "gpu" in self.devices else [])
        return f"--device={'|'.join(self.devices)} --run_mode={'|'.join(modes)}"


def installed_build() -> Build:
    """The abilities of the Paddle that is installed, and of the machine."""
    present = {
        "cpu": True,
        "gpu": device.is_compiled_with_cuda() and device.cuda.device_count() > 0,
        "xpu": device.is_compiled_with_xpu(),
        "npu": device.is_compiled_with_custom_device("npu"),
    }
    devices = tuple(name for name, there in present.items() if there)
    return Build(devices, version() != (0, 0, 0), "avx512bw" in cpu_flags())


def cpu_flags() -> Sequence[str]:
    """The CPU's abilities as Linux names them; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ()
    return next((line.split() for line in lines if line.startswith("flags")), ())


def check_options(options: EngineOptions, build: Build) -> None:
    """UserError if the options contradict each other or ask for what the installed Paddle cannot do."""
    here = f"here are {build.modes()}"
    if options.device not in build.devices:
        raise UserError(f"--device={options.device}: the installed Paddle or this machine has none; {here}")
    if options.run_mode != "paddle" and options.device != "gpu":
        raise UserError(f"--run_mode={options.run_mode} needs --device=gpu, not {options.device}; {here}")
    if options.run_mode != "paddle" and not build.tensorrt:
        raise UserError(f"--run_mode={options.run_mode}: the installed Paddle has no TensorRT; {here}")
    if options.enable_mkldnn_bfloat16 and not (options.enable_mkldnn and options.device == "cpu"):
        raise UserError("--enable_mkldnn_bfloat16 needs --enable_mkldnn and --device=cpu")
    if options.enable_mkldnn_bfloat16 and not build.bfloat16:
        raise UserError("--enable_mkldnn_bfloat16: this CPU has no AVX-512, which oneDNN needs; leave it out")
    if options.enable_mkldnn_int8 and not (options.enable_mkldnn and options.device == "cpu"):
        raise UserError("--enable_mkldnn_int8 needs --enable_mkldnn and --device=cpu")
    if not options.trt_min_shape <= options.trt_opt_shape <= options.trt_max_shape:
        raise UserError("--trt_min_shape, --trt_opt_shape and --trt_max_shape must not fall in this order")


def check_precision(options: EngineOptions, operators: Sequence[str], folder: Path) -> None:
    """UserError if the options ask for int8 or bfloat16 of a model that is not made for it."""
    quantised = is_quantised(operators)
    if options.enable_mkldnn_int8 and not quantised:
        raise UserError(f"--enable_mkldnn_int8: {folder} is not a quantised model; tools/post_quant.py makes one")
    if options.enable_mkldnn_bfloat16 and quantised:
        raise UserError(f"--enable_mkldnn_bfloat16: {folder} is quantised and computes in int8; leave it out")


def configure(config: Any, options: EngineOptions, model: ModelFolder, operators: Sequence[str] = ()) -> None:
    """Set a `paddle.inference.Config` for Paddle's own kernels, as the options say."""
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
            _configure_onednn(config, options, operators)
        else:
            config.disable_mkldnn()  # Paddle 2.6 has it on by default
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    config.disable_glog_info()


def _configure_onednn(config: Any, options: EngineOptions, operators: Sequence[str]) -> None:
    """oneDNN, in the precision asked for."""
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(ONEDNN_SHAPES)
    if options.enable_mkldnn_bfloat16:
        config.enable_mkldnn_bfloat16()
        config.set_bfloat16_op(CONVOLUTIONS | FUSED)  # box arithmetic in bfloat16 would cost pixels
    elif is_quantised(operators) and options.enable_mkldnn_int8 is not False:
        config.enable_mkldnn_int8(INT8_OPERATORS)
    if multiplies_only_outside(operators):
        # The image is normalised by a broadcast product, for which oneDNN has but a reference kernel: a tenth of
        # YOLOF's time. Paddle's own is fast.
        config.delete_pass("elementwise_act_onednn_fuse_pass")  # it insists on oneDNN's products
        config.set_mkldnn_op((set(operators) | FUSED) - {"elementwise_mul"})


class PaddleEngine:
    """An exported model, loaded and ready."""

    def __init__(self, model: ModelFolder, options: EngineOptions):
        """UserError if the installed Paddle cannot run it so, or the files are damaged."""
        check_options(options, installed_build())
        self.operators = read_operators(model.program)
        self.folder = model.program.parent
        check_precision(options, self.operators, self.folder)
        self.model, self.options = model, options
        self._predictor: Optional[Any] = None
        if options.run_mode == "paddle":
            self._predictor = self._create(self._config())
        elif sentence := left_out(self.operators):
            print(sentence)

    def run(self, inputs: Dict[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """`image` [B, 3, H, W], `im_shape` and `scale_factor` [B, 2] -> boxes [M, 6], their number per
        image [B]. UserError if the model does not end in these."""
        outputs = self.outputs(inputs)
        if len(outputs) != 2 or outputs[0].shape[1:] != (6,) or outputs[1].dtype.kind != "i":
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise UserError(
                f"{self.folder} ends in outputs of shape {shapes}, not in boxes [M, 6] and their number; "
                "export it with export.post_process and export.nms on and export.benchmark off"
            )
        return outputs[0], outputs[1]

    def outputs(self, inputs: Dict[str, np.ndarray]) -> List[np.ndarray]:
        """Whatever the model ends in."""
        if self._predictor is None:
            self._predictor = self._create_tensorrt(inputs)
        return run_predictor(self._predictor, inputs)

    def _config(self) -> Any:
        config = inference.Config(str(self.model.program), str(self.model.parameters))
        configure(config, self.options, self.model, self.operators)
        return config

    def _create(self, config: Any) -> Any:
        """The predictor of a configuration. UserError if Paddle refuses the model."""
        try:
            return inference.create_predictor(config)
        except (RuntimeError, OSError, ValueError) as error:
            reason = next((line for line in str(error).splitlines() if "(" in line), str(error)).strip()
            raise UserError(f"Paddle cannot load {self.folder}: {reason}; export it again") from error

    def _create_tensorrt(self, inputs: Dict[str, np.ndarray]) -> Any:
        """A predictor with TensorRT's engines, or one that collects shape ranges if that is asked for. Ranges that
        are missing are collected first, by a run of these inputs without TensorRT."""
        options, model = self.options, self.model
        if options.collect_trt_shape_info:
            return self._create(self._collecting(options.tuned_trt_shape_file))
        cache = cache_folder(options.trt_cache_dir, model, options.run_mode, options.batch_size)
        shapes = shape_file(options.tuned_trt_shape_file, cache, model)
        if shapes is not None and not shapes.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            run_predictor(self._create(self._collecting(str(shapes))), inputs)  # written when it goes
        config = self._config()
        configure_tensorrt(config, options, model, cache, shapes)
        return self._create(config)

    def _collecting(self, path: str) -> Any:
        config = self._config()
        config.collect_shape_range_info(path)
        return config


def run_predictor(predictor: Any, inputs: Dict[str, np.ndarray]) -> List[np.ndarray]:
    """All outputs of a Paddle predictor; it takes of the inputs those that it knows."""
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(inputs[name])
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
