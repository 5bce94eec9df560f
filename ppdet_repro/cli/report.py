"""Evaluate trained weights and write an HTML report.

    ppdet-repro report -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH

This is `ppdet-repro eval` with --report output/report as the default: curves, confused classes, the worst images.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import eval as evaluation
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    evaluation.add_arguments(parser, report="output/report")


def run(arguments: Namespace) -> None:
    if arguments.save_prediction_only:
        raise UserError("--save_prediction_only evaluates nothing, so there is no report; use ppdet-repro eval")
    evaluation.run(arguments)
