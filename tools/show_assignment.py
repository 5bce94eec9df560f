"""Draw what training makes of images: positives, ignored boxes, weights.

python tools/show_assignment.py -c configs/ttfnet/pafnet_r18vd_224_synthetic.yml --number 4
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_switch, at_least_one, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--image", nargs="+", default=[], help="file names or ids from TrainDataset (default: its first)"
    )
    parser.add_argument("-n", "--number", type=at_least_one, default=4, help="how many without --image")
    parser.add_argument("--weights", metavar="PATH_OR_URL", help="a checkpoint; without it the network is untrained")
    parser.add_argument("--seed", type=int, default=0, help="of the training transforms")
    parser.add_argument(
        "--progress", type=float, default=1.0, help="how far the training is meant to be, 0 to 1 (default 1)"
    )
    parser.add_argument("--output_dir", metavar="DIR", default="output/assignment", help="where pictures go")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, arguments.opt)

    from ppdet_repro.engine.analysis.show_assignment import show_assignment

    lines = show_assignment(
        cfg,
        arguments.output_dir,
        arguments.image,
        arguments.number,
        arguments.weights,
        arguments.seed,
        arguments.offline,
        arguments.progress,
    )
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(main)
