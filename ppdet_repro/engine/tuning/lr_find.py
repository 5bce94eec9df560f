"""The learning rate finder: train for some updates with a rate that grows exponentially, and look at the loss.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3. The smoothing and the
rule for the suggestion are those of fastai's `lr_find`.

t updates so far, n updates of the sweep
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from tqdm import tqdm

from ppdet_repro.core.config import Config, build
from ppdet_repro.core.contract import Batch
from ppdet_repro.engine import distributed
from ppdet_repro.engine.model_weights import load_pretrained
from ppdet_repro.engine.pruning import pruner_of
from ppdet_repro.engine.training.assembly import assemble, learning_rate_scale
from ppdet_repro.engine.training.loop import Run, seed_everything
from ppdet_repro.engine.training.step import NanGuard, TrainStep
from ppdet_repro.optimizer.scheduler import Schedule
from ppdet_repro.optimizer.schedules import PiecewiseDecay
from ppdet_repro.utils.analysis_plots import figure, png
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger

SMOOTHING = 0.9  # share of the earlier losses in the smoothed loss
DIVERGED = 4.0  # times the lowest smoothed loss: the sweep ends
WARMUP = 0.1  # of the sweep, in which the smoothed loss of few updates is no lowest one
TENTH = 10.0  # the suggestion is the rate of the lowest smoothed loss over this
JSON, PLOT = "lr_find.json", "lr_find.png"


class Diverged(Exception):
    """A loss or a gradient is not finite."""


class EndOfSweep(NanGuard):
    """Ends the sweep where a training would stop."""

    def caught(self, step: int, culprits: Sequence[str], batches: Sequence[Batch]) -> None:
        raise Diverged


@dataclass(frozen=True)
class Sweep:
    """What a sweep found. The rates are those of the optimizer; the lists have one entry per update."""

    rates: List[float]
    losses: List[float]
    smoothed: List[float]
    diverged: bool  # whether the loss grew without limit, or was not finite
    scale: float  # the factor between base_lr and the rates, see `base_batch_size`

    @property
    def lowest(self) -> int:
        """The update with the lowest smoothed loss."""
        start = min(int(WARMUP * len(self.smoothed)), len(self.smoothed) - 1)
        return min(range(start, len(self.smoothed)), key=lambda t: self.smoothed[t])

    @property
    def suggestion(self) -> Optional[float]:
        """The base_lr to train with; None if no rate lowered the loss."""
        if self.lowest == 0 or self.smoothed[self.lowest] >= self.smoothed[0]:
            return None
        return float(f"{self.rates[self.lowest] / TENTH / self.scale:.2g}")


def lr_find(cfg: Config, low: float, high: float, updates: int, offline: bool = False) -> Sweep:
    """Train the model of a config for up to `updates` updates, with rates that grow exponentially from `low` to `high`.

    The run's folder, its checkpoints and its weights are not read and not changed. The weights, the data, the frozen
    layers and the optimizer are those with which training starts. UserError: training could not start.
    """
    if not 0 < low < high or updates < 2:
        raise UserError(f"lr_find: the rates must grow, from more than 0, in 2 updates or more: {low:g}, {high:g}")
    world = distributed.start(cfg.run.use_gpu)
    if world.size > 1:
        raise UserError("lr_find runs in one process: start it without the launcher")
    run = assemble(cfg, world, None, offline)
    if cfg.run.pretrain_weights and not pruner_of(cfg):
        load_pretrained(run.detector, resolve(cfg.run.pretrain_weights, offline))
    scale = learning_rate_scale(cfg.run, run.data.readers[0].batch_size, 1)
    schedule = Schedule(lambda t: low * (high / low) ** (t / (updates - 1)))
    optimizer = run.optimizer_builder.build(schedule, run.model)
    guard = EndOfSweep("stop", run.folder)
    step = TrainStep(run.model, optimizer, schedule, guard, world, None, run.precision)
    return sweep(step, islice(batches_of(run), updates), updates, scale)


def batches_of(run: Run) -> Iterator[List[Batch]]:
    """The batches of the run's updates, epoch after epoch without an end."""
    epoch = 0
    run.model.train()
    while True:
        seed_everything(run.seed, epoch + 1, 0)
        yield from run.data.batches(min(epoch, max(run.data.epochs - 1, 0)), run.seed)
        epoch += 1


def sweep(step: TrainStep, batches: Iterator[List[Batch]], updates: int, scale: float) -> Sweep:
    """Make the updates of a sweep until it diverges."""
    rates: List[float] = []
    losses: List[float] = []
    smoothed: List[float] = []
    mean = 0.0
    for t, group in enumerate(tqdm(batches, total=updates, desc="lr_find", disable=None)):
        try:
            report = step(group)
        except Diverged:
            break
        loss = report.losses["loss"]
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        rates.append(report.learning_rate)
        losses.append(loss)
        smoothed.append(mean / (1 - SMOOTHING ** (t + 1)))  # without the part of the 0 at the start
        if t >= WARMUP * updates and smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not rates:
        raise UserError("lr_find: the loss of the first update is not finite: check the data, or lower --min_lr")
    return Sweep(rates, losses, smoothed, len(rates) < updates, scale)


def describe(found: Sweep, cfg: Config) -> List[str]:
    """The result in words."""
    end = f"from {found.rates[0]:.3g} to {found.rates[-1]:.3g} in {len(found.rates)} updates"
    lines = [f"learning rates {end}{', where the loss diverges' if found.diverged else ''}"]
    if found.suggestion is None:
        return [*lines, "no rate lowered the loss: give a lower --min_lr, or more --updates"]
    rate = found.rates[found.lowest]
    lines.append(f"the smoothed loss is lowest at {rate:.3g}: {found.smoothed[found.lowest]:.4g}")
    if not found.diverged and found.lowest > 0.9 * len(found.rates):
        lines.append("it still falls where the sweep ends: raise --max_lr")
    scaled = f", as base_lr is multiplied by {found.scale:g} in this run" if found.scale != 1 else ""
    lines.append(f"suggestion, a tenth of that{scaled}: -o LearningRate.base_lr={found.suggestion:g}")
    decay = build(cfg, "LearningRate").decay
    if isinstance(decay, PiecewiseDecay) and decay.values is not None:
        lines.append("PiecewiseDecay has values, which base_lr does not change: change the values in its place")
    return lines


def write_results(found: Sweep, cfg: Config, folder: Path) -> None:
    """Write the numbers and the plot. UserError: the folder cannot be written."""
    lowest = found.rates[found.lowest]
    values = {"config": str(cfg.path), "suggestion": found.suggestion, "lowest": lowest, **asdict(found)}
    write_output(folder / JSON, json.dumps(values, indent=1).encode())
    write_output(folder / PLOT, plot(found))
    get_logger().info(f"written: {folder / JSON}, {folder / PLOT}")


def plot(found: Sweep) -> bytes:
    """A PNG file with the losses over the learning rates, and the suggestion."""
    image, (axes,) = figure(1, 7.0, 4.2)
    axes.plot(found.rates, found.losses, color="0.75", linewidth=0.8, label="loss")
    axes.plot(found.rates, found.smoothed, linewidth=1.6, label="smoothed")
    axes.plot(found.rates[found.lowest], found.smoothed[found.lowest], "o", color="C1", label="lowest")
    if found.suggestion is not None:
        rate = found.suggestion * found.scale
        axes.axvline(rate, color="C2", linestyle="--", label=f"suggestion: {rate:.2g}")
    finite = [value for value in found.smoothed if math.isfinite(value)]
    low, high = min(finite), min(max(finite), 2 * found.smoothed[0])
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.9 * low, max(1.1 * high, 1.01 * low)))
    axes.legend()
    axes.grid(alpha=0.3)
    return png(image)
