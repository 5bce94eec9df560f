"""The command `ppdet-repro eval`, runnable from a checkout: see ppdet_repro/cli/eval.py."""

import _checkout

from ppdet_repro.cli.main import script
from ppdet_repro.utils.errors import run_command

main = script("eval")

if __name__ == "__main__":
    run_command(main)
