"""The command `ppdet-repro assignment`, runnable from a checkout: see ppdet_repro/cli/assignment.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("assignment")
