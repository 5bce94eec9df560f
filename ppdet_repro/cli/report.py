"""Evaluate trained weights and write an HTML report.

    ppdet-repro report -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH

This is `ppdet-repro eval` with --report output/report as the default: curves, confused classes, the worst images.
"""

from argparse import ArgumentParser

from ppdet_repro.cli import eval as evaluation

run = evaluation.run


def add_arguments(parser: ArgumentParser) -> None:
    evaluation.add_arguments(parser, report="output/report")
