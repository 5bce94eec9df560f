"""Print the last evaluations of several training runs side by side, as a Markdown table.

A column names the metric. The mean AP of VOC is for an IoU of 0.5, and stands under AP50.

ppdet-repro compare output/mini_table4_{neither,dilated,uniform,both}
"""

from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="output folder of a training run with --eval")


def run(arguments: Namespace) -> None:
    from ppdet_repro.utils.curves import runs_table

    print(runs_table(arguments.runs))
