"""The command `ppdet-repro anchors`, runnable from a checkout: see ppdet_repro/cli/anchors.py."""

import _checkout

from ppdet_repro.cli.main import script
from ppdet_repro.utils.errors import run_command

main = script("anchors")

if __name__ == "__main__":
    run_command(main)
