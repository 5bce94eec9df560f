"""What a config counts in epochs, fitted to the length of the run: `scale_schedule`. And what does not fit, in a line.

R epochs that the schedule is written for (`schedule_epochs`), E epochs of the run (`epoch`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Optional, Sequence

from ppdet_repro.core.config import Config, RunSettings, build
from ppdet_repro.optimizer.course import UNKNOWN, counted, course, misfits
from ppdet_repro.optimizer.schedules import LearningRate, RunLength
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

if TYPE_CHECKING:  # these import Paddle, or this module
    from ppdet_repro.engine.training.checkpoint import RunState
    from ppdet_repro.optimizer.phases import TrainPhases
    from ppdet_repro.optimizer.scheduler import Schedule

MIXING = ("mixup_epoch", "cutmix_epoch", "mosaic_epoch")  # of TrainReader


def written_for(settings: RunSettings) -> Optional[int]:
    """R, if the schedule is to be scaled from R to E; None if it is used as it is. UserError: R is not known."""
    if not settings.scale_schedule or settings.epoch == 0:
        return None
    if settings.schedule_epochs is None:
        raise UserError("scale_schedule: set schedule_epochs, the number of epochs that the schedule is written for")
    return settings.schedule_epochs


def scaled_mixing(cfg: Config) -> Dict[str, int]:
    """The parameters of TrainReader that count epochs and are to be scaled: x E / R, at least 1."""
    epochs = written_for(cfg.run)
    if epochs is None:
        return {}
    settings = cfg.tree()["TrainReader"].value.settings
    values = {name: settings[name].plain() for name in MIXING}
    return {name: max(1, round(value * cfg.run.epoch / epochs)) for name, value in values.items() if value > 0}


def scaled_phases(phases: TrainPhases, settings: RunSettings) -> TrainPhases:
    """The phases, scaled if they are to be."""
    epochs = written_for(settings)
    return phases if epochs is None else phases.fitted(settings.epoch, epochs)


def scaled_rate(lr: LearningRate, settings: RunSettings, steps: int) -> LearningRate:
    """The learning rate for a number of updates per epoch, scaled if it is to be."""
    epochs = written_for(settings)
    return lr if epochs is None else lr.fitted(RunLength(settings.epoch, steps, epochs))


def run_schedule(
    lr: LearningRate, phases: TrainPhases, settings: RunSettings, steps: int, scale: float, verbose: bool
) -> Schedule:
    """The schedule of a run with `steps` updates per epoch, whose rates are `scale` times those of `lr`; `verbose` logs
    its course, and a warning if it does not fit the run."""
    lr = scaled_rate(lr, settings, steps).scaled(scale)
    if verbose and settings.epoch > 0:
        line, *warnings = describe(lr, [phase.start for phase in phases.phases], settings, steps)
        get_logger().info(line)
        for warning in warnings:
            get_logger().warning(warning)
    return lr.schedule(steps)


def describe_config(cfg: Config) -> List[str]:
    """The lines of `describe` for the run of a config, before its batch size scales the rates, and without the updates
    per epoch, which depend on the dataset."""
    lines = describe(scaled_rate(build(cfg, "LearningRate"), cfg.run, UNKNOWN), [], cfg.run)
    if cfg.run.base_batch_size is not None:
        lines[0] += f", for {cfg.run.base_batch_size} images per update"
    return lines


def describe(lr: LearningRate, starts: Sequence[int], settings: RunSettings, steps: Optional[int] = None) -> List[str]:
    """The course of the learning rate that a run uses, and, if it or a phase does not fit the run, a line that says so.

    `starts` are the epochs in which phases start. Without the updates per epoch, `steps`, a warmup in updates is taken
    for shorter than the run.
    """
    epochs, scaled = settings.epoch, settings.scale_schedule
    wrong = misfits(lr, epochs, steps, epochs if scaled else settings.schedule_epochs)
    late = [start for start in starts if start >= epochs]
    if late:
        wrong.append(f"TrainPhases has a phase that starts after {counted(late[0])}, which is not reached")
    if not wrong:
        return [course(lr, epochs, steps)]
    if scaled:
        cure = "the run is too short for scale_schedule; raise epoch, or change LearningRate.schedulers"
    elif settings.schedule_epochs == epochs and "PiecewiseDecay" in wrong[0]:
        cure = "if it is written for another number of epochs, N, -o scale_schedule=true schedule_epochs=N fits it"
    else:
        cure = "-o scale_schedule=true fits it"
    updates = "" if steps is None else f", {epochs * steps:,} updates"
    line = f"the schedule does not fit the run ({counted(epochs)}{updates}): {'; '.join(wrong)}; {cure}"
    return [course(lr, epochs, steps), line]


def resumed_otherwise(state: RunState, epochs: int, rate: float) -> Optional[str]:
    """What is different, in words, if a run is resumed with another number of epochs or another schedule than it had.

    `state` is that of the checkpoint, `rate` the learning rate of the next update.
    """
    changed = state.epochs not in (0, epochs)
    if changed and state.epoch >= epochs:
        return f"epoch is {epochs} instead of {state.epochs}, and {state.epoch} are done: nothing is left to train"
    what = f"epoch is {epochs} instead of {state.epochs}" if changed else "the schedule is another one than before"
    if state.rate is not None and abs(rate - state.rate) > 1e-6 * abs(state.rate):
        return f"{what}: the learning rate jumps from {state.rate:.3g} to {rate:.3g}"
    return f"{what}: the learning rate goes on with {rate:.3g}" if changed else None
