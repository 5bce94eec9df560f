"""The command `ppdet-repro tune`, runnable from a checkout: see ppdet_repro/cli/tune.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("tune")
