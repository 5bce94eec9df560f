"""The command of ppdet_repro/cli/x2coco.py, runnable from a checkout."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("x2coco")
