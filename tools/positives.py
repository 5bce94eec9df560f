"""The command `ppdet-repro positives`, runnable from a checkout: see ppdet_repro/cli/positives.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("positives")
