"""The command `ppdet-repro infer --model_dir ...`, runnable from a checkout: see ppdet_repro/cli/infer_exported.py."""

import _checkout

from ppdet_repro.cli.main import script
from ppdet_repro.utils.errors import run_command

main = script("infer_exported")

if __name__ == "__main__":
    run_command(main)
