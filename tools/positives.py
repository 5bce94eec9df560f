"""How many positive anchors an object gets, by its size, under each config's matcher (YOLOF's figure 6).

python tools/positives.py -c configs/yolof/{table5e_max_iou,table8_atss_15,table5d_top1,yolof_r50_c5}_1x_coco.yml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import at_least_one  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", nargs="+", required=True, help="YAML files; the first one's TrainDataset")
    parser.add_argument("-n", "--number", type=at_least_one, default=500, help="images (default 500)")
    parser.add_argument("--plot", metavar="FILE.png", default="output/positives.png", help="where the picture goes")
    parser.add_argument("-o", "--opt", nargs="+", action="extend", default=[], metavar="a.b.c=value")
    arguments = parser.parse_args()
    configs = [load_config(path, arguments.opt) for path in arguments.config]

    from ppdet_repro.engine.analysis.positive_counts import draw, positives_by_size, table

    counts = positives_by_size(configs, arguments.number)
    print(table(counts))
    draw(counts, Path(arguments.plot))
    print(f"picture in {arguments.plot}")


if __name__ == "__main__":
    run_command(main)
