"""Print a merged config: every value with the file and line it comes from, or "default".

    ppdet-repro config -c configs/yolof/yolof_r50_c5_1x_coco.yml -o epoch=24

Set NO_COLOR to print without colors.
"""

import os
import sys
from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import show

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(show(read_config(arguments), color))
