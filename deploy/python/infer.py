"""The command `ppdet-repro infer --model_dir ...`, runnable from a checkout: see ppdet_repro/cli/infer_exported.py."""

import _checkout

from ppdet_repro.cli.main import run_script

if __name__ == "__main__":
    run_script("infer_exported")
