"""One weight file from many checkpoints, averaged (SWA), with batch norm statistics of its own.

    python tools/average_checkpoints.py output/NAME/checkpoints/epoch_00* --output output/NAME/swa.pdparams \
      -c configs/yolof/NAME.yml
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
    parser.add_argument("checkpoints", nargs="+", help="checkpoint folders or weight files")
    parser.add_argument("--output", required=True, metavar="FILE.pdparams", help="where the average goes")
    parser.add_argument("-c", "--config", help="measures batch norm statistics on this config's training images")
    parser.add_argument("--batches", type=at_least_one, default=200, help="how many of them (default 200)")
    parser.add_argument("-o", "--opt", nargs="+", action="extend", default=[], metavar="a.b.c=value")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, arguments.opt) if arguments.config else None

    from ppdet_repro.engine.training.average_checkpoints import average_checkpoints

    average_checkpoints(arguments.checkpoints, arguments.output, cfg, arguments.batches)


if __name__ == "__main__":
    run_command(main)
