"""Export a config's model with random weights twice: the network alone, and whole with boxes.

    python deploy/benchmark/export_random.py CONFIG FOLDER    # FOLDER/network/NAME and FOLDER/whole/NAME

Speed hardly depends on the weights; accuracy is not measured with these.
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ppdet_repro import build_model, load_config  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402

SEED = 0


def main() -> None:
    if len(sys.argv) != 3:
        raise UserError("usage: export_random.py CONFIG FOLDER")
    config, folder = sys.argv[1:]

    import paddle

    from ppdet_repro.engine.export import export_model

    paddle.set_device("cpu")
    for part, benchmark in (("network", "true"), ("whole", "false")):
        paddle.seed(SEED)
        cfg = load_config(config, [f"export.benchmark={benchmark}", "pretrain_weights=null"])
        export_model(build_model(cfg), cfg, Path(folder) / part)


if __name__ == "__main__":
    run_command(main)
