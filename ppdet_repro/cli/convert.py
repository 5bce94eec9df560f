"""Convert a weight file to safetensors, a format that can contain no code, or back to Paddle's.

ppdet-repro convert output/NAME/best_model.pdparams NAME.safetensors
ppdet-repro convert NAME.safetensors NAME.pdparams
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="weight file, checkpoint folder or URL")
    add("output", metavar="OUTPUT", help="file to write, ending in .safetensors or .pdparams")


def run(arguments: Namespace) -> None:
    from ppdet_repro.utils.weights import convert_weights

    convert_weights(arguments.weights, Path(arguments.output))
