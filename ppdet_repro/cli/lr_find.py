"""Find a learning rate: train for some updates with a rate that grows, and look at the loss.

ppdet-repro lr_find -c configs/yolof/yolof_r18vd_bccd.yml
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    add("--min_lr", type=positive, default=1e-6, metavar="RATE", help="first learning rate (default: 1e-6)")
    add("--max_lr", type=positive, default=1.0, metavar="RATE", help="last learning rate (default: 1)")
    add("--updates", type=at_least_one, default=150, metavar="N", help="updates of the sweep (default: 150)")
    text = "folder for lr_find.json and lr_find.png (default: lr_find/NAME)"
    add("--output_dir", metavar="DIR", help=text)
    add_offline(parser)


def positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments)

    from ppdet_repro.engine.tuning import lr_find
    from ppdet_repro.utils.files import make_output_dir

    folder = Path(arguments.output_dir or Path("lr_find") / cfg.name)
    make_output_dir(folder)
    found = lr_find.lr_find(cfg, arguments.min_lr, arguments.max_lr, arguments.updates, arguments.offline)
    lr_find.write_results(found, cfg, folder)
    print("\n".join(lr_find.describe(found, cfg)))
