"""Print how large the boxes of a COCO file are relative to their images, and draw their distribution.

    ppdet-repro data boxes --json_path annotations/instances_train2017.json --out_img boxes.jpg

The flags are those of PaddleDetection's tools/box_distribution.py. No image is read.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ppdet_repro.utils.cli import at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--json_path", required=True, metavar="FILE", help="COCO JSON file")
    add("--eval_size", type=at_least_one, default=640, metavar="N", help="input size in pixels (default: 640)")
    add("--small_stride", type=at_least_one, default=8, metavar="N", help="smallest stride of the model (default: 8)")
    add("--out_img", default="box_distribution.jpg", metavar="FILE",
        help="image file for the histograms (default: box_distribution.jpg)")  # fmt: skip


def run(arguments: Namespace) -> None:
    from ppdet_repro.engine.analysis.box_distribution import read_distribution

    found = read_distribution(arguments.json_path)
    found.plot(Path(arguments.out_img))
    print(found.text(arguments.eval_size, arguments.small_stride))
    print(f"histograms in {arguments.out_img}")
