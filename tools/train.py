"""Train a config's detector.

python tools/train.py -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval
python tools/train.py -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval --resume auto
python tools/train.py -c CONFIG --eval --processes 2
python -m paddle.distributed.launch --nproc_per_node=2 tools/train.py -c CONFIG --eval
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_slim_config, add_switch, at_least_one, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402
from ppdet_repro.utils.launch import run_processes  # noqa: E402


def main() -> Optional[int]:
    parser = config_parser(__doc__.splitlines()[0])
    add_slim_config(parser)
    parser.add_argument(
        "-r", "--resume", nargs="?", const="auto", metavar="CHECKPOINT",
        help="go on from a checkpoint's folder, or with 'auto' from the newest of this run",
    )  # fmt: skip
    add_switch(parser, "--eval", False, "evaluate every snapshot and keep the best")
    add_switch(parser, "--amp", False, "mixed precision on a GPU (float16, or what amp_dtype says)")
    add_switch(parser, "--fp16", False, "the same with float16")
    add_switch(parser, "--use_vdl", False, "write curves for VisualDL")
    parser.add_argument("--vdl_log_dir", metavar="DIR", help="where the curves go")
    parser.add_argument("--seed", type=int, help="of everything random")
    parser.add_argument("--processes", type=at_least_one, default=1, metavar="N", help="on the CPU, to share the work")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()

    overrides = ["amp=true"] if arguments.amp or arguments.fp16 else []
    overrides += ["amp_dtype=float16"] if arguments.fp16 else []
    overrides += ["use_vdl=true"] if arguments.use_vdl else []
    overrides += [f"vdl_log_dir={arguments.vdl_log_dir}"] if arguments.vdl_log_dir else []
    overrides += [f"seed={arguments.seed}"] if arguments.seed is not None else []
    cfg = load_config(arguments.config, [*arguments.opt, *overrides], arguments.slim_config)

    if arguments.processes > 1 and "PADDLE_TRAINER_ID" not in os.environ:
        return run_processes(arguments.processes, sys.argv)

    from ppdet_repro.engine.training.train import train

    train(cfg, resume=arguments.resume, evaluate=arguments.eval, offline=arguments.offline)
    return 0


if __name__ == "__main__":
    run_command(main)
