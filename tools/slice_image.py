"""The command of ppdet_repro/cli/slice_image.py, runnable from a checkout; also `ppdet-repro data slice`."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("slice_image")
