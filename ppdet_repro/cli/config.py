"""Print a merged config: every value with the file and line it comes from, or "default".

    ppdet-repro config -c configs/yolof/yolof_r50_c5_1x_coco.yml -o epoch=24

The last lines say how the learning rate goes, and whether it fits the number of epochs.

The model is built, too, where Paddle is installed: what it warns about or refuses in training is said here.

Set NO_COLOR to print without colors.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import build_model, show

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    cfg = read_config(arguments)
    if find_spec("paddle"):
        for one in filter(None, (cfg, cfg.teacher)):
            if one.run.architecture is not None:
                build_model(one)
    print(show(cfg, color))
    if cfg.run.epoch > 0:
        from ppdet_repro.engine.training.run_length import describe_config

        print("\n".join(f"# {line}" for line in describe_config(cfg)))
