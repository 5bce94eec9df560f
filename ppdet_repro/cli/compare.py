"""Print the last evaluations of several training runs side by side, as a Markdown table, and show their curves.

A column names the metric. The mean AP of VOC is for an IoU of 0.5, and stands under AP50.

    ppdet-repro compare output/mini_table4_{neither,dilated,uniform,both} --page compare.html

With --page, an HTML page has the curves of all runs in the same axes, and the AP of each class.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="output folder of a training run with --eval")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page with the curves of all runs")


def run(arguments: Namespace) -> None:
    from ppdet_repro.utils.curves import runs_table

    print(runs_table(arguments.runs))
    if arguments.page is not None:
        from ppdet_repro.engine.analysis.compare_page import write_comparison

        write_comparison(arguments.runs, arguments.page)
        print(f"curves in {arguments.page}")
