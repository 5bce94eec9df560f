"""Detect objects on pictures with trained weights, and draw them.

python tools/infer.py -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH --infer_img photo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_slim_config, add_switch, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    add_slim_config(parser)
    parser.add_argument("--infer_img", metavar="FILE", help="an image; beats --infer_dir")
    parser.add_argument("--infer_dir", metavar="DIR", help="all images of a folder")
    parser.add_argument("--infer_list", metavar="FILE", help="a text file: only these images of --infer_dir")
    parser.add_argument("--output_dir", metavar="DIR", default="output", help="where pictures and files go")
    parser.add_argument("--draw_threshold", type=float, default=0.5, help="lowest score of a box that is drawn")
    parser.add_argument("--save_threshold", type=float, default=0.5, help="lowest score of a row in bbox.json")
    add_switch(parser, "--save_results", False, "write bbox.json, rows as in COCO's result files")
    add_switch(parser, "--visualize", True, "draw the boxes")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, arguments.opt, arguments.slim_config)

    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.infer import choose_images, infer
    from ppdet_repro.engine.models import load_trained

    files = choose_images(arguments.infer_img, arguments.infer_dir, arguments.infer_list)
    start(cfg.run.use_gpu)
    infer(
        load_trained(cfg, arguments.offline),
        cfg,
        files,
        arguments.output_dir,
        arguments.draw_threshold,
        arguments.visualize,
        arguments.save_results,
        arguments.save_threshold,
    )


if __name__ == "__main__":
    run_command(main)
