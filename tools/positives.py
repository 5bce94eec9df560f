"""The command `ppdet-repro positives`, runnable from a checkout: see ppdet_repro/cli/positives.py."""

import _checkout

from ppdet_repro.cli.main import script
from ppdet_repro.utils.errors import run_command

main = script("positives")

if __name__ == "__main__":
    run_command(main)
