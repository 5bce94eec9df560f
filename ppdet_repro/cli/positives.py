"""Count the positive anchors per object, by object size, under the matcher of each config (YOLOF, figure 6).

ppdet-repro positives -c configs/yolof/{table5e_max_iou,table8_atss_15,table5d_top1,yolof_r50_c5}_1x_coco.yml
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ppdet_repro.utils.cli import add_overrides, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--config", nargs="+", required=True, metavar="FILE",
        help="YAML configs; the images are those of the first one's TrainDataset")  # fmt: skip
    add("-n", "--number", type=at_least_one, default=500, metavar="N", help="number of images (default: 500)")
    add("--plot", metavar="FILE.png", default="output/positives.png",
        help="plot to write (default: output/positives.png)")  # fmt: skip
    add_overrides(parser)


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import load_config

    configs = [load_config(path, arguments.opt) for path in arguments.config]

    from ppdet_repro.engine.analysis.positive_anchors import count_positives, counts_table, write_plot

    counts = count_positives(configs, arguments.number)
    print(counts_table(counts))
    write_plot(counts, Path(arguments.plot))
    print(f"plot: {arguments.plot}")
