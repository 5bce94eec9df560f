"""Quantise trained weights to int8 without training, and export them.

python tools/post_quant.py -c configs/yolof/yolof_r50_c5_1x_coco.yml --slim_config configs/slim/post_quant/ptq.yml \
    -o weights=PATH --eval
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_slim_config, add_switch, config_parser  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    add_slim_config(parser, required=True)
    parser.add_argument("--output_dir", metavar="DIR", default="output_inference", help="the model goes to DIR/NAME")
    parser.add_argument("--target", choices=["paddle", "onnx"], default="paddle", help="what to run it with")
    parser.add_argument("--image_dir", metavar="DIR", help="images to calibrate with, instead of TrainDataset's")
    add_switch(parser, "--eval", False, "evaluate before and after on EvalDataset")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()
    if arguments.eval and arguments.target != "paddle":
        raise UserError("--eval evaluates the Paddle model; leave it out, or --target")
    cfg = load_config(arguments.config, arguments.opt, arguments.slim_config)

    import paddle

    from ppdet_repro.engine.export.post_quantization import post_quant, without_slim
    from ppdet_repro.engine.models import load_trained

    paddle.set_device("cpu")
    model = load_trained(without_slim(cfg), arguments.offline)
    post_quant(model, cfg, arguments.output_dir, arguments.target, arguments.image_dir, arguments.eval)


if __name__ == "__main__":
    run_command(main)
