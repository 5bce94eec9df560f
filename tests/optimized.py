"""What Paddle Inference makes of a program before it runs it."""

from __future__ import annotations

from pathlib import Path

from paddle import inference

from ppdet_repro.paddle_private.program import read_program
from ppdet_repro.paddle_private.saved_program import read_operators
from ppdet_repro.runtime.paddle_network import make_config
from ppdet_repro.runtime.paddle_options import PaddleOptions


def int8_convolutions(program: Path, folder: Path, **options: bool) -> int:
    """How many convolutions of a .pdmodel file oneDNN computes in int8. `folder` receives the optimized program."""
    config = make_config(program, PaddleOptions(**options), read_operators(program))
    folder.mkdir()
    config.set_optim_cache_dir(str(folder))
    config.enable_save_optim_model(True)
    inference.create_predictor(config)
    convolutions = [op for op in read_program(folder / "_optimized.pdmodel").blocks[0].ops if "conv2d" in op.type]
    kinds = [attribute.s for op in convolutions for attribute in op.attrs if attribute.name == "mkldnn_data_type"]
    return kinds.count("int8")
