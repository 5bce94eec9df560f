"""Make, check, look at and convert data sets.

python tools/dataset.py synth dataset/synthetic --train 400 --val 100
python tools/dataset.py check dataset/voc/ImageSets/Main/train.txt
python tools/dataset.py show -c configs/yolof/yolof_r50_c5_1x_coco.yml --transforms
python tools/dataset.py convert dataset/voc/ImageSets/Main/train.txt dataset/voc/train.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.cli import data as datasets  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers = []
    for run in (datasets.synth, datasets.check, datasets.show, datasets.convert):
        parsers.append(subparsers.add_parser(run.__name__, help=run.__doc__.split("\n")[0].split(";")[0]))
        parsers[-1].set_defaults(run=run)
    synth, check, show, convert = parsers
    synth.add_argument("root", help="folder to make")
    synth.add_argument("--train", type=int, default=400, help="training images (default: 400)")
    synth.add_argument("--val", type=int, default=100, help="validation images (default: 100)")
    synth.add_argument("--size", default="256", help="px: 256, 240x320 (height x width) or 192-320x256")
    synth.add_argument("--classes", default="6", help="how many, or names: disk,ring,star (default: 6)")
    synth.add_argument("--objects", default="1-8", help="tried for in an image, from-to (default: 1-8)")
    synth.add_argument("--scales", default="0.3,0.3,0.4", help="shares of small, medium, large objects")
    synth.add_argument("--noise", type=float, default=10.0, help="largest deviation of pixels (default: 10)")
    synth.add_argument("--clutter", type=float, default=0.5, help="unlabelled things, 0 to 1 (default: 0.5)")
    synth.add_argument("--contrast", type=float, default=0.5, help="of textures, 0 to 1 (default: 0.5)")
    synth.add_argument("--likeness", type=float, default=0.8, help="objects in their class's hue (0.8)")
    synth.add_argument("--format", default="jpg", choices=("jpg", "png"))
    synth.add_argument("--seed", type=int, default=0)
    check.add_argument("--json", dest="json_file", metavar="FILE", help="write the report there as well")
    check.add_argument("--decode", action="store_true", help="decode every image to find damaged ones (slow)")
    show.add_argument("--out", default="output/samples", help="folder for the pictures")
    show.add_argument("-n", "--num", type=int, default=16, help="how many (default: 16)")
    show.add_argument("--seed", type=int, default=0, help="which")
    show.add_argument("--transforms", action="store_true", help="as the config's training sees them")
    convert.add_argument("anno_file", help="COCO json or VOC set file")
    convert.add_argument("target", help="the json or folder to write")
    convert.add_argument("--force", action="store_true", help="overwrite")
    for sub in (check, show):
        sub.add_argument("anno_file", nargs="?", help="COCO json or VOC set file; or give -c")
        sub.add_argument("-c", "--config", help="take the data set that a config names")
        sub.add_argument("-o", "--opt", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
        sub.add_argument("--split", default="train", choices=("train", "eval"), help="which of the config's")
    for sub in (check, show, convert):
        sub.add_argument("--image_dir", help="what the images' names are relative to")
        sub.add_argument("--label_list", help="VOC: class names, one a line")
    options = vars(parser.parse_args())
    return options.pop("run")(**options)


if __name__ == "__main__":
    run_command(main)
