"""Average the weights of several checkpoints into one file (stochastic weight averaging).

ppdet-repro average output/NAME/checkpoints/epoch_00* --output output/NAME/swa.pdparams -c configs/yolof/NAME.yml
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ppdet_repro.utils.cli import add_overrides, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoint folder or weight file")
    parser.add_argument("--output", required=True, metavar="FILE.pdparams", help="file to write")
    parser.add_argument(
        "-c", "--config", metavar="FILE",
        help="compute the batch norm statistics anew on training images of this config (default: average them)",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=at_least_one, default=200, metavar="N", help="number of training batches (default: 200)"
    )
    add_overrides(parser)


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import load_config

    cfg = load_config(arguments.config, arguments.opt) if arguments.config else None

    from ppdet_repro.engine.training.average_checkpoints import average_checkpoints

    average_checkpoints(arguments.checkpoints, arguments.output, cfg, arguments.batches)
