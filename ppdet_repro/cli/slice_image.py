"""Cut the images of a COCO dataset into overlapping slices, with their boxes.

    ppdet-repro data slice --image_dir train --json_path annotations/train.json --output_dir sliced --slice_size 640

The flags, and the names of the files that are written, are those of PaddleDetection's tools/slice_image.py, which needs
the package sahi.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.runtime.options import fraction
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.printable import printable


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--image_dir", required=True, metavar="DIR", help="folder of the images")
    add("--json_path", required=True, metavar="FILE", help="COCO JSON file")
    add("--output_dir", required=True, metavar="DIR", help="folder for the slices and their JSON file")
    add("--slice_size", type=at_least_one, default=500, metavar="N", help="sides of a slice in pixels (default: 500)")
    add("--overlap_ratio", type=fraction, default=0.25, metavar="RATIO",
        help="overlap of neighboring slices, as a fraction of a side (default: 0.25)")  # fmt: skip


def run(arguments: Namespace) -> None:
    from ppdet_repro.data.source.slice_coco import slice_dataset

    flags = arguments.json_path, arguments.image_dir, arguments.output_dir
    print(printable(slice_dataset(*flags, arguments.slice_size, arguments.overlap_ratio)))
