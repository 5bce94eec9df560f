"""Export trained weights for deployment: for Paddle Inference, as ONNX, or for Paddle-Lite.

ppdet-repro export -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH
ppdet-repro export -c CONFIG -o weights=PATH --target lite --input_size 320 320 --verify 20
"""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Dict, Optional, Sequence

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch, at_least_one
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    add("--output_dir", metavar="DIR", default="output_inference",
        help="the model goes to DIR/NAME, DIR/NAME_onnx or DIR/NAME_lite (default: output_inference)")  # fmt: skip
    add("--target", choices=["paddle", "onnx", "lite"], default="paddle", help="file format (default: paddle)")
    add_precision(parser)
    add_input_size(parser)
    add("--batch", type=at_least_one, metavar="N", help="fixed number of images per batch (default: any number)")
    add("--verify", type=at_least_one, metavar="N", help="compare with the eager model on N images of EvalDataset")
    add("--verify_images", metavar="DIR", help="take the images for --verify from this folder")
    add_switch(
        parser,
        "--for_fd",
        False,
        "write FastDeploy's inference.pdmodel and so on to --output_dir itself (default: False)",
    )
    add_offline(parser)


def add_precision(parser: ArgumentParser) -> None:
    text = (
        "fp16: the network between its convolutions, for --target onnx and lite; "
        "int8 and int16 of the stored weights, for --target lite (default: fp32)"
    )
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8", "int16"], default="fp32", help=text)


def add_input_size(parser: ArgumentParser) -> None:
    text = "fixed input size in pixels; -1 -1 for any size (default: the config's TestReader.inputs_def.image_shape)"
    parser.add_argument("--input_size", type=int, nargs=2, metavar=("H", "W"), help=text)


def input_size_value(size: Optional[Sequence[int]]) -> Dict[str, object]:
    """The config value that `--input_size` sets."""
    return {} if size is None else {"TestReader.inputs_def.image_shape": [3, *size]}


def check_flags(arguments: Namespace) -> None:
    """UserError if the flags contradict each other."""
    precision, target = arguments.precision, arguments.target
    if precision != "fp32" and target != "lite" and (target, precision) != ("onnx", "fp16"):
        raise UserError(f"--precision {precision} is for --target {'onnx or lite' if precision == 'fp16' else 'lite'}")
    if target == "lite" and arguments.batch not in (None, 1):
        raise UserError("--batch: Paddle-Lite's models take one image per batch; leave the flag out")
    if arguments.verify and arguments.batch not in (None, 1):
        raise UserError("--verify runs one image at a time; verify with --batch 1, then export without --verify")
    if arguments.verify_images and not arguments.verify:
        raise UserError("--verify_images needs --verify N, the number of images to compare")
    if arguments.for_fd and target != "paddle":
        raise UserError("--for_fd is for --target paddle")


def run(arguments: Namespace) -> None:
    check_flags(arguments)
    cfg = read_config(arguments, **input_size_value(arguments.input_size))

    import paddle

    from ppdet_repro.engine.export.export_model import export_model
    from ppdet_repro.engine.export.fastdeploy import export_for_fastdeploy
    from ppdet_repro.engine.export.verify import choose_files
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.utils.launch import end_on_sigterm

    end_on_sigterm()
    paddle.set_device("cpu")
    files = choose_files(cfg, arguments.verify, arguments.verify_images) if arguments.verify else []
    model = load_trained(cfg, arguments.offline)
    target, precision, batch = arguments.target, arguments.precision, arguments.batch
    export = partial(export_model, model, cfg, target=target, precision=precision, verify_on=files, batch=batch)
    if arguments.for_fd:
        export_for_fastdeploy(export, arguments.output_dir)
    else:
        export(arguments.output_dir)
