"""Quantize trained weights to int8 without training, and export them.

    ppdet-repro quantize -c configs/yolof/yolof_r50_c5_1x_coco.yml --slim_config configs/slim/post_quant/ptq.yml \\
      -o weights=PATH --eval
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser, required=True)
    add("--output_dir", metavar="DIR", default="output_inference",
        help="the model goes to DIR/NAME or DIR/NAME_onnx (default: output_inference)")  # fmt: skip
    add("--target", choices=["paddle", "onnx"], default="paddle", help="file format (default: paddle)")
    add("--image_dir", metavar="DIR", help="folder of images for calibration (default: those of TrainDataset)")
    add_switch(parser, "--eval", False, "evaluate on EvalDataset before and after quantization (default: False)")
    add_offline(parser)


def run(arguments: Namespace) -> None:
    if arguments.eval and arguments.target != "paddle":
        raise UserError("--eval evaluates the Paddle model; leave out either --eval or --target")

    cfg = read_config(arguments)

    import paddle

    from ppdet_repro.engine.export.post_quantization import post_quant, without_slim
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.utils.launch import end_on_sigterm

    end_on_sigterm()
    paddle.set_device("cpu")
    model = load_trained(without_slim(cfg), arguments.offline)
    post_quant(model, cfg, arguments.output_dir, arguments.target, arguments.image_dir, arguments.eval)
