"""Find anchors for a config's TrainDataset and say how well they and the config's own fit.

    python tools/anchor_cluster.py -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml
    python tools/anchor_cluster.py -c CONFIG -n 9 --size 256 256

The new ones are printed as a config has them. No file is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.utils.cli import at_least_one, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument("-n", "--n", type=at_least_one, help="how many (default: as many as the config has)")
    parser.add_argument(
        "--size", nargs=2, type=at_least_one, metavar=("H", "W"), help="of the input (default: TestReader's)"
    )
    parser.add_argument("--generations", type=int, default=1000, help="of evolution after k-means (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from ppdet_repro.core.config import load_config
    from ppdet_repro.engine.analysis.anchor_cluster import report

    cfg = load_config(arguments.config, arguments.opt)
    print(report(cfg, arguments.size, arguments.n, arguments.generations, arguments.seed))


if __name__ == "__main__":
    run_command(main)
