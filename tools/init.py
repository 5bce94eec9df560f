"""The command `ppdet-repro init`, runnable from a checkout: see ppdet_repro/cli/init.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("init")
