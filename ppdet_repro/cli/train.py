"""Train a detector.

    ppdet-repro train -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval
    ppdet-repro train -c configs/yolof/yolof_r50_c5_1x_coco.yml --eval --resume auto
    ppdet-repro train -c CONFIG --eval --processes 2

Several GPUs, or several machines:

    python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c CONFIG --eval
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from typing import Optional

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch, at_least_one


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
    add_offline(parser)


def run(arguments: Namespace) -> Optional[int]:
    from ppdet_repro.utils.launch import end_with_launcher, rerun_arguments, run_processes

    amp, dtype = arguments.amp or arguments.fp16, "float16" if arguments.fp16 else None
    seed = 0 if arguments.enable_ce and arguments.seed is None else arguments.seed
    logger = arguments.logger and f"[{','.join(arguments.logger)}]"
    names = ("use_vdl", "vdl_log_dir", "to_static", "profiler_options")
    values = {name: getattr(arguments, name) for name in names}
    cfg = read_config(arguments, amp=amp, amp_dtype=dtype, seed=seed, logger=logger, **values)
    if arguments.processes > 1 and "PADDLE_TRAINER_ID" not in os.environ:
        return run_processes(arguments.processes, [*rerun_arguments(), *sys.argv[1:]])
    end_with_launcher()

    from ppdet_repro.engine.training.train import train

    train(cfg, resume=arguments.resume, evaluate=arguments.eval, offline=arguments.offline)
    return None
