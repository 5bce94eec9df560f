"""Conversion of a Paddle inference model to ONNX, and to Paddle-Lite's .nb files.

Both converters are native code that aborts its process on models that it cannot convert. Both may also end with exit
code 0 without writing a model. So they run in child processes, and success needs the file.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Sequence

from ppdet_repro.engine.export.onnx_int8 import leave_outputs_exact
from ppdet_repro.paddle_private.lite_program import compatible_program, slices_of_weights
from ppdet_repro.paddle_private.program import operator_types, read_program, write_program
from ppdet_repro.paddle_private.saved_program import is_pir, read_operators
from ppdet_repro.paddle_private.targets import NOT_FOR_LITE
from ppdet_repro.runtime.networks import missing
from ppdet_repro.utils.errors import UserError

OPSET = 16  # the first version with grid_sample; paddle2onnx 1.3.1 writes invalid graphs for version 19
LITE_TARGETS = ("arm", "x86")
LITE_PRECISIONS = {
    "fp32": "",
    "fp16": "opt.enable_fp16()",
    "int8": "opt.set_quant_model(True); opt.set_quant_type('QUANT_INT8')",
    "int16": "opt.set_quant_model(True); opt.set_quant_type('QUANT_INT16')",
}
PADDLE2ONNX = """
import inspect, sys
from paddle2onnx import export

program, parameters, out, opset = sys.argv[1:]
given = dict(save_file=out, opset_version=int(opset), auto_upgrade_opset=False)
if "optimize_tool" in inspect.signature(export).parameters:
    given["optimize_tool"] = "None"  # by default it is polygraphy, which installs and replaces packages with pip
export(program, parameters, **given)
"""
LITE_OPT = """
import sys
from paddlelite.lite import Opt

opt = Opt()
model, parameters, out, device = sys.argv[1:]
opt.set_model_file(model)
opt.set_param_file(parameters)
opt.set_model_type("naive_buffer")
opt.set_optimize_out(out)
{precision}
opt.set_valid_places(device)
opt.run()
"""
NOT_IN_ONNX = {"deformable_conv": "writes it with grid_sample", "matrix_nms": "leaves it out"}
SUPPRESSIONS = {"matrix_nms", "multiclass_nms3"}


def to_onnx(program: Path, parameters: Path, target: Path) -> None:
    """Convert a Paddle inference model to the ONNX file `target`. UserError if paddle2onnx is missing or fails."""
    if importlib.util.find_spec("paddle2onnx") is None:
        raise missing("paddle2onnx", "onnx")
    for path in (program, parameters):
        if not path.is_file():  # paddle2onnx would write an empty file and report success
            raise UserError(f"{path} does not exist; export the model again")
    for kind in read_operators(program):
        if kind in NOT_IN_ONNX:
            remedy = f"ppdet-repro export --target onnx {NOT_IN_ONNX[kind]}"
            raise UserError(f"{program} contains {kind}, which paddle2onnx cannot convert; {remedy}")
    run_converter("paddle2onnx", PADDLE2ONNX, [*map(str, (program, parameters, target)), str(OPSET)], target)
    leave_outputs_exact(target)


def to_lite_files(program: Path, parameters: Path, folder: Path, precision: str = "fp32") -> None:
    """Convert a Paddle inference model to model_arm.nb and model_x86.nb in `folder`; see `to_lite`. The x86 file is in
    fp32 if the precision is fp16."""
    to_lite(program, parameters, folder / "model_arm.nb", "arm", precision)
    to_lite(program, parameters, folder / "model_x86.nb", "x86", "fp32" if precision == "fp16" else precision)


def to_lite(program: Path, parameters: Path, target: Path, device: str, precision: str = "fp32") -> None:
    """Convert a Paddle inference model to a Paddle-Lite file. UserError if Paddle-Lite is missing or fails, or does not
    support the model, device or precision.

    Args:
        target: The .nb file to write.
        device: "arm" or "x86".
        precision: "fp32"; "fp16", on arm only, computes in fp16; "int8" and "int16" store the weights in these types
            and compute in float32.
    """
    if is_pir(program):
        raise UserError(f"{program} is a program of Paddle 3, but {NOT_FOR_LITE}")
    if importlib.util.find_spec("paddlelite") is None:
        raise missing("paddlelite", "lite")
    check_lite(program, device, precision)
    compatible = target.with_suffix(".pdmodel")
    write_program(compatible_program(read_program(program), device), compatible)
    arguments = [str(compatible), str(parameters), str(target.with_suffix("")), device]  # opt appends .nb
    code = LITE_OPT.format(precision=LITE_PRECISIONS[precision])
    try:
        run_converter("Paddle-Lite's opt", code, arguments, target, done_when="saved into")
    finally:
        compatible.unlink(missing_ok=True)


def check_lite(program: Path, device: str, precision: str) -> None:
    """UserError if Paddle-Lite does not support the device, the precision or the operators of a .pdmodel file."""
    if device not in LITE_TARGETS or precision not in LITE_PRECISIONS:
        known = f"devices are {', '.join(LITE_TARGETS)}, precisions {', '.join(LITE_PRECISIONS)}"
        raise UserError(f"Paddle-Lite for {device} in {precision}: {known}")
    if precision == "fp16" and device != "arm":
        raise UserError("Paddle-Lite computes in fp16 only on arm; use fp32 for x86")
    description = read_program(program)
    kinds = operator_types(description)
    if slices_of_weights(description):
        raise UserError(
            f"{program} slices tensors that are computed from weights (as BiFPN's fusion does), which crashes "
            "Paddle-Lite when the model runs; ppdet-repro export --target lite writes BiFPN's weights as constants"
        )
    for kind in SUPPRESSIONS.intersection(kinds):
        remedy = "export it with export.nms=false or with --target lite"
        raise UserError(f"{program} contains {kind}, after which Paddle-Lite aborts if nothing is detected; {remedy}")
    if "grid_sampler" in kinds:
        remedy = "export it with --target lite, which keeps deformable_conv"
        raise UserError(f"{program} contains grid_sampler, which crashes Paddle-Lite's opt; {remedy}")


def run_converter(name: str, code: str, arguments: Sequence[str], target: Path, done_when: str = "") -> None:
    """Run the Python code of a converter, which writes the file `target`, in a child process.

    UserError if the exit code is not 0, the output lacks the text `done_when`, or there is no file. It quotes the last
    line of the output that explains the failure.
    """
    target.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, errors="replace")
    log = f"{done.stdout}\n{done.stderr}"
    if done.returncode == 0 and done_when in log and target.is_file() and target.stat().st_size:
        return
    target.unlink(missing_ok=True)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if any(word in line for word in ("rror", "Check failed", "not support"))]
    reason = (errors or lines or ["it printed nothing"])[-1]
    end = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
    raise UserError(f"{name} {end} and wrote no model; its last message: {reason}")
