"""Tune values of a config: train it with values from a space, and print the best.

    ppdet-repro tune -c configs/yolof/yolof_r18vd_bccd.yml --space space.yml --trials 20

space.yml names values as -o does, and for each a range or choices:

    LearningRate.base_lr: {low: 0.001, high: 0.1, log: true}
    TrainReader.batch_size: {low: 4, high: 16, step: 4}
    use_ema: {choices: [true, false]}

The same command goes on where it was interrupted; with a larger --trials it adds trials.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add_slim_config(parser)
    add("--space", required=True, metavar="FILE", help="YAML file with the values to tune and their ranges")
    add("--trials", type=at_least_one, default=20, metavar="N", help="trainings of the whole study (default: 20)")
    add("--seed", type=int, default=0, help="seed of the choice of values (default: 0)")
    add("--output_dir", metavar="DIR", help="folder of the study (default: tune/NAME)")
    add_offline(parser)


def run(arguments: Namespace) -> None:
    cfg = read_config(arguments)

    from ppdet_repro.engine.tuning.tune import Task, report, tune
    from ppdet_repro.utils.files import make_output_dir

    folder = Path(arguments.output_dir or Path("tune") / cfg.name)
    make_output_dir(folder)
    task = Task(arguments.config, arguments.opt, arguments.slim_config, folder, arguments.offline)
    print(report(tune(task, Path(arguments.space), arguments.trials, arguments.seed), task))
