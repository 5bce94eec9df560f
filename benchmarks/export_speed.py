"""Time the export of untrained models: traced as they are written, and with Paddle's translation of their source.

    python benchmarks/export_speed.py
    python benchmarks/export_speed.py -c configs/yolof/yolof_r50_c5_1x_coco.yml --rounds 5

Each export has a process of its own, as `ppdet-repro export` has, because Paddle keeps what it has translated. Building
the model is not timed. The two kinds take turns. The table has the medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from typing import Dict, List

import _checkout

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command
from ppdet_repro.utils.table import text_table

CONFIGS = [
    "yolof/yolof_r50_c5_1x_coco.yml",
    "ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml",
    "ttfnet/pafnet_10x_coco.yml",
    "ttfnet/pafnet_lite_mobilenet_v3_20x_coco.yml",
    "sapd/sapd_r50_1x_coco.yml",
    "bifpn/table5_b0_voc12.yml",
]
KINDS = ("translated", "as written")


def seconds(config: str, kind: str) -> float:
    """The duration of one export, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", kind, "-c", config, "--output_dir", folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{config}: the export failed: {result.stderr[-500:]}")
    return float(result.stdout.splitlines()[-1])


def child(config: str, kind: str, output_dir: str) -> None:
    """Export once, and print the seconds."""
    import time

    from ppdet_repro import build_model, load_config
    from ppdet_repro.engine.export import export_model

    cfg = load_config(config, ["pretrain_weights=null"])
    model = build_model(cfg)
    if kind == "translated":
        export_model.quick_to_trace = lambda network: network
    start = time.perf_counter()
    export_model.export_model(model, cfg, output_dir)
    print(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", action="append", help="YAML config; may be repeated (default: six published)")
    parser.add_argument("--rounds", type=at_least_one, default=3, help="exports of each kind (default: 3)")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--output_dir", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    configs = arguments.config or CONFIGS
    if arguments.child:
        child(configs[0], arguments.child, arguments.output_dir)
        return
    rows = []
    for config in configs:
        times: Dict[str, List[float]] = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind in KINDS:
                times[kind].append(seconds(config, kind))
        slow, quick = (statistics.median(times[kind]) for kind in KINDS)
        rows.append([config, f"{slow:.1f}", f"{quick:.1f}", f"{slow / quick:.1f}"])
        print(*rows[-1], file=sys.stderr)
    print(text_table(["config", *(f"{kind}, s" for kind in KINDS), "ratio"], rows, "github"))


if __name__ == "__main__":
    run_command(main)
