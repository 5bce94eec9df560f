"""Convert an exported Paddle model to Paddle-Lite: model_arm.nb and model_x86.nb, beside a copy of its infer_cfg.yml.

    python deploy/lite/convert.py --model_dir output_inference/pafnet_lite --output_dir lite/pafnet_lite

The model must have a fixed input size and no NMS in it (-o export.nms=false); a quantised one of PaddleSlim's
(onnx_format=True) will do. From weights, `tools/export_model.py --target lite` is one step, and can verify.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ppdet_repro.engine.export.converters import LITE_PRECISIONS, to_lite
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.files import atomic_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", type=Path, required=True, help="a folder that tools/export_model.py wrote")
    parser.add_argument("--output_dir", type=Path, required=True, help="becomes the Paddle-Lite model's folder")
    parser.add_argument("--precision", choices=LITE_PRECISIONS, default="fp32", help="int*: of the weights alone")
    flags = parser.parse_args()
    files = [flags.model_dir / name for name in ("model.pdmodel", "model.pdiparams", "infer_cfg.yml")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(f"{flags.model_dir} lacks {', '.join(missing)}; tools/export_model.py writes them")
    program, parameters, config = files
    try:
        with atomic_folder(flags.output_dir) as folder:
            to_lite(program, parameters, folder / "model_arm.nb", "arm", flags.precision)
            x86 = "fp32" if flags.precision == "fp16" else flags.precision
            to_lite(program, parameters, folder / "model_x86.nb", "x86", x86)
            shutil.copy(config, folder)
    except OSError as error:
        raise UserError(f"cannot write {flags.output_dir}: {error.strerror or error}") from error
    print(f"model_arm.nb and model_x86.nb in {flags.output_dir}")


if __name__ == "__main__":
    run_command(main)
