"""The command of ppdet_repro/cli/box_distribution.py, runnable from a checkout; also `ppdet-repro data boxes`."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("box_distribution")
