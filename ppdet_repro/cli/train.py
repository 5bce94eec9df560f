"""Train a detector.

    ppdet-repro train -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval
    ppdet-repro train -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval --resume auto
    ppdet-repro train -c CONFIG --eval --processes 2

Several GPUs, or several machines:

    python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c CONFIG --eval
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ppdet_repro.cli import overrides_of
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch, at_least_one
from ppdet_repro.utils.errors import UserError

if TYPE_CHECKING:
    from ppdet_repro.core.config import Config


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    text = (
        "continue from this checkpoint folder, or from this one of PaddleDetection, such as out/0; without a value, or "
        "with 'auto', from the newest one of this run"
    )
    add("-r", "--resume", nargs="?", const="auto", metavar="CHECKPOINT", help=text)
    add_switch(parser, "--eval", False, "evaluate at every snapshot and keep the best weights (default: False)")
    add_switch(parser, "--amp", False, "mixed precision on a GPU, in the config's amp_dtype (default: False)")
    add_switch(parser, "--fp16", False, "mixed precision on a GPU, in float16 (default: False)")
    add_switch(parser, "--use_vdl", False, "write training curves for VisualDL (default: False)")
    add("--vdl_log_dir", metavar="DIR", help="folder for VisualDL's files (default: vdl_log_dir/scalar)")
    add("--logger", nargs="+", choices=("tensorboard", "mlflow"), metavar="NAME",
        help="write training curves for tensorboard (into the folder of the run), mlflow, or both")  # fmt: skip
    add_switch(parser, "--to_static", False, "run backbone and neck as static graphs (default: False)")
    add(
        "--profiler_options",
        metavar="TEXT",
        help="profile some updates: batch_range=[10,20]; timer_only=False; exit_on_finished=False (default: none)",
    )
    add_switch(parser, "--enable_ce", False, "the same as --seed 0, if that is not given (default: False)")
    add("--seed", type=int, help="random seed (default: the config's, which is 0 unless set)")
    add("--processes", type=at_least_one, default=1, metavar="N",
        help="number of processes that train on this machine's CPU (default: 1)")  # fmt: skip
    text = "use the largest batch that fits into the memory, and scale the learning rate (default: False)"
    add_switch(parser, "--auto_batch", False, text)
    add_offline(parser)


def run(arguments: Namespace) -> Optional[int]:
    from ppdet_repro.core.config import load_config
    from ppdet_repro.utils.launch import end_with_launcher, rerun_arguments, run_processes

    amp, dtype = arguments.amp or arguments.fp16, "float16" if arguments.fp16 else None
    seed = 0 if arguments.enable_ce and arguments.seed is None else arguments.seed
    logger = arguments.logger and f"[{','.join(arguments.logger)}]"
    names = ("use_vdl", "vdl_log_dir", "to_static", "profiler_options")
    values = {name: getattr(arguments, name) for name in names}
    overrides = overrides_of(arguments, amp=amp, amp_dtype=dtype, seed=seed, logger=logger, **values)
    cfg = load_config(arguments.config, overrides, arguments.slim_config)
    more: List[str] = []
    if arguments.auto_batch:
        more = chosen_batch(arguments, cfg, overrides)
        cfg = load_config(arguments.config, [*overrides, *more], arguments.slim_config)
    if arguments.processes > 1 and "PADDLE_TRAINER_ID" not in os.environ:
        chosen = ["--auto_batch=False", "-o", *more] if more else []
        return run_processes(arguments.processes, [*rerun_arguments(), *sys.argv[1:], *chosen])
    end_with_launcher()

    from ppdet_repro.engine.training.train import train

    train(cfg, resume=arguments.resume, evaluate=arguments.eval, offline=arguments.offline)
    return None


def chosen_batch(arguments: Namespace, cfg: Config, overrides: List[str]) -> List[str]:
    """The values for -o of --auto_batch. UserError: there is another process per GPU, or nothing fits."""
    if "PADDLE_TRAINER_ID" in os.environ:
        raise UserError(
            "--auto_batch measures one process: start it without the launcher and stop it when it names the batch "
            "size, then give that with -o TrainReader.batch_size"
        )
    from ppdet_repro.engine.training.checkpoint import list_checkpoints
    from ppdet_repro.engine.tuning.auto_batch import auto_batch
    from ppdet_repro.engine.tuning.batch_memory import Request

    resumed = arguments.resume is not None and bool(list_checkpoints(Path(cfg.run.save_dir) / cfg.name))
    request = Request(arguments.config, overrides, arguments.slim_config, arguments.offline)
    return auto_batch(cfg, request, arguments.processes, resumed)
