"""Parameters and multiply-adds of a config's model, by part, at a stated input size.

python tools/model_info.py -c configs/yolof/yolof_r50_c5_1x_coco.yml
python tools/model_info.py -c CONFIG --size 640 640
python tools/model_info.py -c CONFIG --anno dataset/coco/annotations/instances_val2017.json --first 100
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.utils.cli import at_least_one, config_parser  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402


def picture_sizes(path: str, first: Optional[int]) -> List[Tuple[int, int]]:
    """Height and width of the images of a COCO json, the lowest image ids first, at most `first`.

    Raises:
        UserError: the file is missing or is not COCO's.
    """
    try:
        images = json.loads(Path(path).read_text(encoding="utf-8"))["images"]
        sizes = [(int(i["height"]), int(i["width"])) for i in sorted(images, key=lambda i: i["id"])[:first]]
    except OSError as error:
        raise UserError(f"--anno {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--anno {path}: not a COCO json with 'images' of 'id', 'height', 'width'") from error
    if not sizes:
        raise UserError(f"--anno {path}: no images")
    return sizes


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--size", nargs=2, type=at_least_one, metavar=("H", "W"), help="count at this size")
    group.add_argument("--anno", help="count the mean over the images of this COCO json")
    parser.add_argument("--first", type=at_least_one, help="only this many of them, by image id")
    arguments = parser.parse_args()
    pictures = picture_sizes(arguments.anno, arguments.first) if arguments.anno else ()

    from ppdet_repro.engine.analysis.model_info import model_info  # Paddle: not before the arguments are right

    size = tuple(arguments.size) if arguments.size else None
    print(model_info(arguments.config, arguments.opt, size, pictures))


if __name__ == "__main__":
    run_command(main)
