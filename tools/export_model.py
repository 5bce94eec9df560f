"""Export trained weights for deployment: for Paddle Inference, as ONNX, or for Paddle-Lite.

python tools/export_model.py -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH
python tools/export_model.py -c CONFIG -o weights=PATH --target lite --input_size 320 320 --verify 20
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_slim_config, add_switch, at_least_one, config_parser  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    add_slim_config(parser)
    parser.add_argument(
        "--output_dir", metavar="DIR", default="output_inference", help="the model goes to DIR/NAME, _onnx or _lite"
    )
    parser.add_argument("--target", choices=["paddle", "onnx", "lite"], default="paddle", help="what to run it with")
    parser.add_argument(
        "--precision", choices=["fp32", "fp16", "int8", "int16"], default="fp32", help="lite; int*: of the weights"
    )
    parser.add_argument(
        "--input_size", type=int, nargs=2, metavar=("H", "W"), help="a fixed size in pixels; -1 -1: any size"
    )
    parser.add_argument(
        "--verify", type=at_least_one, metavar="N", help="compare with the eager model on N images of EvalDataset"
    )
    parser.add_argument("--verify_images", metavar="DIR", help="take these images instead")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()
    if arguments.precision != "fp32" and arguments.target != "lite":
        raise UserError(f"--precision {arguments.precision} is for --target lite")
    if arguments.verify_images and not arguments.verify:
        raise UserError("--verify_images needs --verify N, the number of images to compare")
    size = [] if arguments.input_size is None else [3, *arguments.input_size]
    overrides = [*arguments.opt, *([f"TestReader.inputs_def.image_shape={size}"] if size else [])]
    cfg = load_config(arguments.config, overrides, arguments.slim_config)

    import paddle

    from ppdet_repro.engine.export.export_model import export_model
    from ppdet_repro.engine.export.verify import choose_files
    from ppdet_repro.engine.models import load_trained

    paddle.set_device("cpu")
    files = choose_files(cfg, arguments.verify, arguments.verify_images) if arguments.verify else []
    model = load_trained(cfg, arguments.offline)
    export_model(model, cfg, arguments.output_dir, arguments.target, arguments.precision, files)


if __name__ == "__main__":
    run_command(main)
