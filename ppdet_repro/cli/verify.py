"""Check that an exported model finds what the eager model finds, and print the largest differences.

    ppdet-repro verify -c CONFIG -o weights=PATH --model_dir output_inference/NAME --verify_images photos

Give the same -c, -o and --input_size as for `ppdet-repro export`; its flag --verify makes the same comparison before
it writes the model. Exits with code 2 if the models disagree.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ppdet_repro.cli import read_config
from ppdet_repro.cli.export import add_input_size, add_precision, input_size_value
from ppdet_repro.utils.cli import add_config, add_offline, at_least_one
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, metavar="DIR", help="folder of the exported model")
    add("--verify", type=at_least_one, default=20, metavar="N", help="number of images to compare (default: 20)")
    add("--verify_images", metavar="DIR", help="folder of images (default: those of EvalDataset)")
    add_precision(parser)
    add_input_size(parser)
    add_offline(parser)


def run(arguments: Namespace) -> None:
    folder = arguments.model_dir
    target = target_of(folder)
    cfg = read_config(arguments, **input_size_value(arguments.input_size))

    import paddle

    from ppdet_repro.engine.export.infer_cfg import read_input
    from ppdet_repro.engine.export.verify import choose_files, verify
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.utils.launch import end_on_sigterm

    end_on_sigterm()
    paddle.set_device("cpu")
    files = choose_files(cfg, arguments.verify, arguments.verify_images)
    model = load_trained(cfg, arguments.offline)
    print(verify(model, folder, target, arguments.precision, read_input(cfg).eager, files).table())


def target_of(folder: Path) -> str:
    """The `--target` with which a folder was exported, from the files in it. UserError if it is no export."""
    from ppdet_repro.runtime.networks import network_file

    engines = {"paddle": "paddle", "onnx": "onnxruntime", "lite": "lite"}
    found = [target for target, engine in engines.items() if network_file(folder, engine).is_file()]
    if not found or not (folder / "infer_cfg.yml").is_file():
        raise UserError(f"--model_dir {folder} is not a folder that `ppdet-repro export` wrote")
    return found[0]
