"""Average the weights of several checkpoints into one file (stochastic weight averaging).

ppdet-repro average output/NAME/checkpoints/epoch_00* --output output/NAME/swa.pdparams -c configs/yolof/NAME.yml
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_overrides, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoint folder or weight file")
    add("--output", required=True, metavar="FILE.pdparams", help="file to write")
    text = "compute the batch norm statistics anew on training images of this config (default: average them)"
    add("-c", "--config", metavar="FILE", help=text)
    add("--batches", type=at_least_one, default=200, metavar="N", help="number of training batches (default: 200)")
    add_overrides(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments) if arguments.config else None

    from ppdet_repro.engine.training.average_checkpoints import average_checkpoints

    average_checkpoints(arguments.checkpoints, arguments.output, cfg, arguments.batches)
