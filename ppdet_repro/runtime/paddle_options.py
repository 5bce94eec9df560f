"""How Paddle Inference should run a model, and whether the installed Paddle and this machine can."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Optional, Sequence, Tuple

from paddle import device, inference

from ppdet_repro.runtime.options import RUN_MODES
from ppdet_repro.runtime.paddle_program import is_quantized
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

SIMULATE = "--enable_mkldnn_int8=False simulates it in float32"


class PaddleOptions(NamedTuple):
    """How to run a model. The fields are the flags of the same names, see `options.add_engine_flags`."""

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
    """What the installed Paddle and this machine can do."""

    devices: Tuple[str, ...]  # values of --device
    tensorrt: bool  # Paddle was built with it
    bfloat16: bool = True  # the CPU has AVX-512, which oneDNN needs for bfloat16

    def flags(self) -> str:
        """The possible values of --device and --run_mode."""
        modes = RUN_MODES if self.tensorrt and "gpu" in self.devices else ("paddle",)
        return f"--device={'|'.join(self.devices)} --run_mode={'|'.join(modes)}"


def installed_build() -> Build:
    """Look up what the installed Paddle and this machine can do."""
    present = {
        "cpu": True,
        "gpu": device.is_compiled_with_cuda() and device.cuda.device_count() > 0,
        "xpu": device.is_compiled_with_xpu(),
        "npu": device.is_compiled_with_custom_device("npu"),
    }
    devices = tuple(name for name, there in present.items() if there)
    has_tensorrt = tuple(inference.get_trt_compile_version()) != (0, 0, 0)
    return Build(devices, has_tensorrt, has_avx512())


def has_avx512() -> bool:
    """Whether Linux lists this instruction set of the CPU; False on other systems."""
    try:
        return "avx512bw" in Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return False


def check_options(options: PaddleOptions, build: Build) -> None:
    """UserError if the options contradict each other, or if the installed Paddle or this machine lacks something."""
    device, mode, possible = options.device, options.run_mode, f"possible here: {build.flags()}"
    if device not in build.devices:
        raise UserError(
            f"--device={device}: this Paddle does not support it, or it is not present in this machine; {possible}"
        )
    if mode != "paddle" and device != "gpu":
        raise UserError(f"--run_mode={mode} needs --device=gpu, not {device}; {possible}")
    if mode != "paddle" and not build.tensorrt:
        raise UserError(f"--run_mode={mode}: the installed Paddle has no TensorRT; {possible}")
    for name in ("enable_mkldnn_bfloat16", "enable_mkldnn_int8"):
        if getattr(options, name) and not (options.enable_mkldnn and device == "cpu"):
            raise UserError(f"--{name} needs --enable_mkldnn and --device=cpu")
    if options.enable_mkldnn_bfloat16 and not build.bfloat16:
        raise UserError("--enable_mkldnn_bfloat16: this CPU has no AVX-512, which oneDNN needs; leave the flag out")
    if not options.trt_min_shape <= options.trt_opt_shape <= options.trt_max_shape:
        raise UserError("--trt_min_shape, --trt_opt_shape and --trt_max_shape must be in ascending order")


def check_precision(options: PaddleOptions, operators: Sequence[str], folder: Path) -> None:
    """UserError if the options ask for int8 or bfloat16, and the model in `folder` was not exported for it; or if the
    model is quantized, and Paddle would simulate int8 without being asked to. Asked, a log line says so."""
    if not is_quantized(operators):
        if options.enable_mkldnn_int8:
            raise UserError(f"--enable_mkldnn_int8: {folder} is not a quantized model; ppdet-repro quantize writes one")
        return
    if options.enable_mkldnn_bfloat16:
        raise UserError(f"--enable_mkldnn_bfloat16: {folder} is quantized and computes in int8; leave the flag out")
    if options.run_mode == "trt_int8":
        return
    if options.enable_mkldnn_int8 is False:
        get_logger().warning(f"{folder} is quantized; its int8 is simulated in float32, slowly")
    elif options.device == "gpu":
        hint = "only TensorRT computes int8 on a GPU: --run_mode=trt_int8"
        raise UserError(f"--run_mode={options.run_mode}: {folder} is quantized, and {hint}; {SIMULATE}")
    elif options.device != "cpu":
        raise UserError(f"--device={options.device}: {folder} is quantized; compute it with --device=cpu; {SIMULATE}")
    elif not options.enable_mkldnn:
        hint = "only oneDNN computes int8 on the CPU; leave the flag out"
        raise UserError(f"--enable_mkldnn=False: {folder} is quantized, and {hint}; {SIMULATE}")
