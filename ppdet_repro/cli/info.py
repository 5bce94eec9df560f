"""Count the parameters and multiply-adds of a config's model, per part.

ppdet-repro info -c configs/yolof/yolof_r50_c5_1x_coco.yml
ppdet-repro info -c CONFIG --size 640 640
ppdet-repro info -c CONFIG --anno dataset/coco/annotations/instances_val2017.json --first 100
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import List, Optional, Tuple

from ppdet_repro.utils.cli import add_config, at_least_one
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    group = parser.add_mutually_exclusive_group()
    text = "size of the network's input in pixels (default: two typical images after the config's EvalReader)"
    group.add_argument("--size", nargs=2, type=at_least_one, metavar=("H", "W"), help=text)
    group.add_argument("--anno", metavar="FILE", help="average over the image sizes of this COCO JSON file instead")
    text = "only the N lowest image ids of --anno (default: all)"
    parser.add_argument("--first", type=at_least_one, metavar="N", help=text)


def run(arguments: Namespace) -> None:
    sizes = image_sizes(arguments.anno, arguments.first) if arguments.anno else []

    from ppdet_repro.engine.analysis.model_info import model_info

    size = tuple(arguments.size) if arguments.size else None
    print(model_info(arguments.config, arguments.opt, size, sizes))


def image_sizes(path: str, first: Optional[int]) -> List[Tuple[int, int]]:
    """The height and width, in pixels, of the `first` images of a COCO JSON file by id; None for all images.

    Raises UserError if the file is missing, is not in COCO's format, or has no images.
    """
    try:
        images = json.loads(Path(path).read_text(encoding="utf-8"))["images"]
        sizes = [(int(i["height"]), int(i["width"])) for i in sorted(images, key=lambda i: i["id"])[:first]]
    except OSError as error:
        raise UserError(f"--anno {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"--anno {path}: not a COCO JSON file with 'images' of 'id', 'height', 'width'") from error
    if not sizes:
        raise UserError(f"--anno {path}: no images")
    return sizes
