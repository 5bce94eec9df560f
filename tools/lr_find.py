"""The command `ppdet-repro lr_find`, runnable from a checkout: see ppdet_repro/cli/lr_find.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("lr_find")
