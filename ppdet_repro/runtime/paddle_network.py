"""Exported networks in Paddle Inference: with oneDNN on the CPU, with CUDA on a GPU. See also `paddle_tensorrt`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

import numpy as np
from paddle import inference

from ppdet_repro.paddle_private.onednn import (
    convolve_in_bfloat16,
    convolve_in_int8,
    keep_axes_of_sums,
    multiply_outside,
)
from ppdet_repro.paddle_private.onednn_check import onednn_failure, onednn_note
from ppdet_repro.paddle_private.saved_program import inference_config, is_pir, read_operators
from ppdet_repro.runtime import paddle_program as program_facts
from ppdet_repro.runtime.paddle_options import PaddleOptions, check_options, check_precision, installed_build
from ppdet_repro.utils.cpu_env import has_vnni
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

ONEDNN_SHAPES = 10  # input sizes whose kernels stay cached
GPU_MEMORY_MB = 200  # first allocation
SATURATES = (
    "this processor has no VNNI: oneDNN's int8 adds pairs of products in 16 bits, which saturate, so scores and boxes "
    "may differ more from float32 than on others; --enable_mkldnn_int8=False simulates int8, slowly"
)


class PaddleNetwork:
    """A program, .pdmodel or .json, with its parameters beside it, in Paddle Inference."""

    def __init__(self, program: Path, options: Optional[PaddleOptions] = None):
        """Load a model. UserError if the installed Paddle cannot run it as the options say, or a file is damaged."""
        options = options or PaddleOptions()
        check_options(options, installed_build())
        operators = read_operators(program)
        check_precision(options, operators, program.parent)
        self.predictor = create_predictor(make_config(program, options, operators), program.parent)
        self.program = program

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`."""
        try:
            return run_predictor(self.predictor, inputs)
        except Exception as error:  # Paddle raises many types
            raise UserError(f"Paddle cannot run {self.program}: {reason_of(error)}; export it again") from error


def make_config(program: Path, options: PaddleOptions, operators: Sequence[str]) -> inference.Config:
    """The settings of Paddle Inference for a program, without TensorRT."""
    config = inference_config(program)
    configure(config, without_failing_onednn(program, options, operators), operators, is_pir(program))
    return config


def without_failing_onednn(program: Path, options: PaddleOptions, operators: Sequence[str]) -> PaddleOptions:
    """The options, but without oneDNN if the installed Paddle fails with it on this program; a log line says so then.
    UserError if the options ask for bfloat16, which only oneDNN has."""
    wanted = options.device == "cpu" and options.enable_mkldnn and not wants_int8(options, operators)
    failure = onednn_failure(program, operators) if wanted else None
    if failure is None:
        if wanted and (note := onednn_note(program)):
            get_logger().info(f"{note}; it runs with oneDNN")
        return options
    if options.enable_mkldnn_bfloat16:
        raise UserError(f"--enable_mkldnn_bfloat16 needs oneDNN, but {failure}; leave the flag out")
    get_logger().warning(f"{failure}; the network runs without it, slower")
    return options._replace(enable_mkldnn=False)


def wants_int8(options: PaddleOptions, operators: Sequence[str]) -> bool:
    """Whether oneDNN should compute in int8, which nothing replaces."""
    return program_facts.is_quantized(operators) and options.enable_mkldnn_int8 is not False


def configure(
    config: inference.Config, options: PaddleOptions, operators: Sequence[str] = (), pir: bool = False
) -> None:
    """Apply the options to a configuration. `operators` are those of the program; `pir` tells whether Paddle 3 wrote
    it."""
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
            configure_onednn(config, options, operators, pir)
        else:
            config.disable_mkldnn()  # Paddle 2.6 enables it by default
    config.switch_ir_optim(True)
    config.enable_memory_optim()
    config.disable_glog_info()


def configure_onednn(config: inference.Config, options: PaddleOptions, operators: Sequence[str], pir: bool) -> None:
    """Enable oneDNN in the precision that the options name."""
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(ONEDNN_SHAPES)
    if options.enable_mkldnn_bfloat16:
        convolve_in_bfloat16(config, pir)
    elif wants_int8(options, operators):
        convolve_in_int8(config, pir)
        if not has_vnni():
            get_logger().warning(SATURATES)
    simulated = program_facts.is_quantized(operators) and not wants_int8(options, operators)
    keep_axes_of_sums(config, operators, pir, simulated)
    if program_facts.multiplies_only_before_convolutions(operators):
        # The image is normalized by a broadcast product, for which oneDNN has only a slow reference kernel: a tenth of
        # YOLOF's time. Paddle's own kernel is fast.
        multiply_outside(config, operators, pir)


def create_predictor(config: inference.Config, folder: Path) -> inference.Predictor:
    """Load the model of a configuration. UserError, which names the `folder`, if Paddle cannot."""
    try:
        return inference.create_predictor(config)
    except Exception as error:  # Paddle raises many types
        raise UserError(f"Paddle cannot load {folder}: {reason_of(error)}; export it again") from error


def reason_of(error: Exception) -> str:
    """The line of Paddle's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if re.match(r"\w*Error: |\(\w+\) ", line)), lines[0])[:300]


def run_predictor(predictor: inference.Predictor, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
    """All outputs of a predictor. Inputs that it does not know are ignored."""
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
