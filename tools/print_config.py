"""Print a config after merging: every value with the file and line it came from, or "default".

python tools/print_config.py -c configs/yolof/yolof_r50_c5_1x_coco.yml -o epoch=24
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config, show  # noqa: E402
from ppdet_repro.utils.cli import config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    options = config_parser(__doc__.splitlines()[0]).parse_args()
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(show(load_config(options.config, options.opt), colour))


if __name__ == "__main__":
    run_command(main)
