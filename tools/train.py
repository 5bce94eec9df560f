"""The command `ppdet-repro train`, runnable from a checkout: see ppdet_repro/cli/train.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("train")
