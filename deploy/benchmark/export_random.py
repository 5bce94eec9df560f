"""Export a config's model with random weights twice: the network alone, and with final boxes.

    python deploy/benchmark/export_random.py CONFIG FOLDER TARGET    # FOLDER/network/NAME and FOLDER/whole/NAME

TARGET is paddle, onnx or lite. NAME ends in _onnx or _lite for the last two, as with tools/export_model.py. For lite,
a free input size becomes the size to which images are resized.

The weights hardly affect the speed. They have no useful accuracy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _checkout

from ppdet_repro import build_model, load_config
from ppdet_repro.utils.errors import UserError, run_command


def main() -> None:
    if len(sys.argv) != 4:
        raise UserError("usage: export_random.py CONFIG FOLDER TARGET")
    config, folder, target = sys.argv[1:]

    import paddle

    from ppdet_repro.engine.export.export_model import export_model
    from ppdet_repro.engine.export.infer_cfg import read_input

    paddle.set_device("cpu")
    for part, benchmark in (("network", "true"), ("whole", "false")):
        paddle.seed(0)
        overrides = [f"export.benchmark={benchmark}", "pretrain_weights=null"]
        cfg = load_config(config, overrides)
        network_input = read_input(cfg)
        if target == "lite" and network_input.shape[2] is None:
            size = next((step["target_size"] for step in network_input.steps if step["type"] == "Resize"), [-1, -1])
            cfg = load_config(config, [*overrides, f"TestReader.inputs_def.image_shape={[3, *size]}"])
        export_model(build_model(cfg), cfg, Path(folder) / part, target)


if __name__ == "__main__":
    run_command(main)
