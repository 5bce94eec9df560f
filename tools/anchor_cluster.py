"""The command `ppdet-repro anchors`, runnable from a checkout: see ppdet_repro/cli/anchors.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("anchors")
