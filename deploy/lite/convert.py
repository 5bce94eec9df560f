"""Convert an exported Paddle model to Paddle-Lite.

This writes model_arm.nb and model_x86.nb, a copy of infer_cfg.yml, and a manifest:

    python deploy/lite/convert.py --model_dir output_inference/pafnet_lite --output_dir lite/pafnet_lite

The model must have a fixed input size and must not contain the suppression (-o export.nms=false). It may be quantized
by PaddleSlim with onnx_format=True. To convert weights, use `tools/export_model.py --target lite`, which can also
verify the result.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import _checkout

from ppdet_repro.engine.export.converters import LITE_PRECISIONS, to_lite_files
from ppdet_repro.paddle_private.saved_program import signature
from ppdet_repro.runtime.manifest import check_files, read_manifest, write_manifest
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.files import atomic_folder

TOOLS = ("paddlepaddle", "paddlepaddle-gpu", "paddlelite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", type=Path, required=True, metavar="DIR", help="exported Paddle model")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="folder to write")
    text = "int8 and int16 are the precisions of the stored weights (default: fp32)"
    parser.add_argument("--precision", choices=LITE_PRECISIONS, default="fp32", help=text)
    flags = parser.parse_args()
    files = [
        network_file(flags.model_dir, "paddle"),
        *(flags.model_dir / n for n in ("model.pdiparams", "infer_cfg.yml")),
    ]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{flags.model_dir} lacks {', '.join(missing)}; tools/export_model.py writes them")
    program, parameters, config = files
    check_files([program, parameters], config)
    source = read_manifest(flags.model_dir) or {"name": flags.model_dir.resolve().name, "config": None}
    try:
        with atomic_folder(flags.output_dir) as folder:
            to_lite_files(program, parameters, folder, flags.precision)
            shutil.copy(config, folder)
            write_manifest(folder, str(source.get("name")), source.get("config"), signature(program), TOOLS)
    except OSError as error:
        raise UserError(f"cannot write {flags.output_dir}: {error.strerror or error}") from error
    print(f"model_arm.nb and model_x86.nb in {flags.output_dir}")


if __name__ == "__main__":
    run_command(main)
