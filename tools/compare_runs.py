"""The last evaluations of training runs side by side, as a Markdown table.

python tools/compare_runs.py output/mini_table4_{neither,dilated,uniform,both}
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.utils.errors import run_command  # noqa: E402
from ppdet_repro.utils.runs import runs_table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="folders that tools/train.py --eval wrote")
    print(runs_table(parser.parse_args().runs))


if __name__ == "__main__":
    run_command(main)
