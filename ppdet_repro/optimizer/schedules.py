"""Learning rate schedules, as functions of the number of updates.

A schedule is a decay, configured in epochs, and an optional warmup, configured in updates. The warmup determines the
rate until it ends, then the decay does. Names, defaults and results are those of PaddleDetection.

Epochs and updates are counted from the start of training, whatever its length; `fitted` returns the same schedule for a
run of another length. This module does not import Paddle.

t updates so far, n updates of warmup, s updates per epoch
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence, Union

from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError

if TYPE_CHECKING:
    from ppdet_repro.optimizer.scheduler import Schedule

Epochs = Union[int, float]
MAX_WARMUP = 0.1  # of the updates of a run, if its schedule is fitted to it


class RunLength(NamedTuple):
    """The length of a run, to which a schedule that is written for `written_for` epochs is fitted."""

    epochs: int
    steps: int  # updates per epoch
    written_for: int

    @property
    def factor(self) -> float:
        """The factor on numbers of epochs."""
        return self.epochs / self.written_for


def stretched(milestones: Sequence[Epochs], run: RunLength) -> List[Epochs]:
    """Ascending epochs times the run's factor, rounded to whole epochs if all stay different and within the run."""
    exact = [milestone * run.epochs / run.written_for for milestone in milestones]
    whole: List[Epochs] = [math.floor(epoch + 0.5) for epoch in exact]
    order = [0, *whole, run.epochs]
    return whole if all(a < b for a, b in zip(order, order[1:])) else list(exact)


@register
class PiecewiseDecay:
    """Multiply the base rate by a factor from each milestone on.

    Args:
        gamma: a factor per milestone, each relative to the base rate. A number g stands for g, g / 10, g / 100, ...
        milestones: epochs, in ascending order; 0.5 is the middle of the first epoch
        values: learning rates instead of factors: one more than milestones
        use_warmup: whether to apply the warmup, if there is one
    """

    def __init__(
        self,
        gamma: Optional[Union[float, List[float]]] = None,
        milestones: Optional[List[Union[int, float]]] = None,
        values: Optional[List[float]] = None,
        use_warmup: bool = True,
    ):
        self.milestones: List[Epochs] = [8, 11] if milestones is None else list(milestones)
        if gamma is None:
            gamma = [0.1, 0.01]
        if not isinstance(gamma, (list, tuple)):
            gamma = [gamma / 10**i for i in range(len(self.milestones))]
        if self.milestones != sorted(self.milestones):
            raise UserError(f"PiecewiseDecay: milestones {self.milestones} are not in ascending order")
        count = len(self.milestones)
        if values is None and len(gamma) != count:
            raise UserError(f"PiecewiseDecay: {len(gamma)} factors in gamma for {count} milestones")
        if values is not None and len(values) != count + 1:
            raise UserError(f"PiecewiseDecay: {count} milestones need {count + 1} values, not {len(values)}")
        self.gamma, self.values, self.use_warmup = list(gamma), values, use_warmup

    def rate(self, t: int, s: int, n: int, base_lr: float) -> float:
        """The learning rate after t updates."""
        passed = sum(t >= milestone * s for milestone in self.milestones)
        if self.values is not None:
            return self.values[passed]
        return base_lr * self.gamma[passed - 1] if passed else base_lr

    def fitted(self, run: RunLength) -> PiecewiseDecay:
        """This decay with its milestones at the same fractions of the run."""
        return changed(self, milestones=stretched(self.milestones, run))


@register
class CosineDecay:
    """Decrease the rate from the base rate along half a cosine wave, which starts at the end of the warmup.

    The wave ends `last_plateau_epochs` before `max_epochs`, the length of training, at `min_lr_ratio` times the base
    rate. `use_warmup` says whether to apply the warmup, if there is one.
    """

    def __init__(
        self, max_epochs: int = 1000, use_warmup: bool = True, min_lr_ratio: float = 0.0, last_plateau_epochs: int = 0
    ):
        self.max_epochs = max_epochs
        self.last_plateau_epochs: Epochs = last_plateau_epochs
        self.use_warmup, self.min_lr_ratio = use_warmup, min_lr_ratio

    def rate(self, t: int, s: int, n: int, base_lr: float) -> float:
        """The learning rate after t updates; it stays constant after `max_epochs`."""
        lowest = base_lr * self.min_lr_ratio
        last, end = self.max_epochs * s - 1, (self.max_epochs - self.last_plateau_epochs) * s
        t = max(min(t, last), n)
        if n < end <= t:
            return lowest
        return lowest + (base_lr - lowest) * 0.5 * (math.cos((t - n) * math.pi / max(end - n, 1)) + 1)

    def fitted(self, run: RunLength) -> CosineDecay:
        """This decay with a wave that ends with the run, or with its plateau."""
        plateau = self.last_plateau_epochs * run.epochs / self.max_epochs
        return changed(self, max_epochs=run.epochs, last_plateau_epochs=plateau)


@register
class CyclicCosineDecay:
    """Decrease the rate from the base rate along half a cosine wave, and start again every `cycle_epochs`.

    The last update of a cycle has the lowest rate, `min_lr_ratio` of the base rate. Stochastic weight averaging takes
    its checkpoints there. Source: Zhang et al., "SWA Object Detection", 2020, section 3.
    """

    def __init__(self, cycle_epochs: int = 1, min_lr_ratio: float = 0.01, use_warmup: bool = True):
        if cycle_epochs < 1:
            raise UserError(f"CyclicCosineDecay: cycle_epochs {cycle_epochs} must be at least 1")
        self.cycle_epochs, self.min_lr_ratio, self.use_warmup = cycle_epochs, min_lr_ratio, use_warmup

    def rate(self, t: int, s: int, n: int, base_lr: float) -> float:
        """The learning rate after t updates."""
        length = self.cycle_epochs * s
        done = (t % length) / max(length - 1, 1)
        lowest = base_lr * self.min_lr_ratio
        return lowest + (base_lr - lowest) * 0.5 * (math.cos(done * math.pi) + 1)

    def fitted(self, run: RunLength) -> CyclicCosineDecay:
        """This decay with cycles of the most similar length of which the run has a whole number."""
        lengths = [epochs for epochs in range(1, run.epochs + 1) if run.epochs % epochs == 0]
        return changed(self, cycle_epochs=min(lengths, key=lambda epochs: abs(epochs - self.cycle_epochs)))


class Warmup:
    """The length of a warmup: `steps` updates, or `epochs` if that is given."""

    def __init__(self, steps: int, epochs: Optional[Epochs]):
        self.steps, self.epochs = steps, epochs

    def length(self, s: int) -> int:
        """Number of updates before the full rate, at least 1."""
        return max(self.steps if self.epochs is None else round(self.epochs * s), 1)

    def fitted(self, run: RunLength) -> Warmup:
        """This warmup with `steps` of at most `MAX_WARMUP` of the run; `epochs` keep their fraction of it."""
        if self.epochs is not None:
            return changed(self, epochs=self.epochs * run.factor)
        return changed(self, steps=min(self.steps, int(MAX_WARMUP * run.epochs * run.steps)))

    def factor(self, t: int, n: int) -> float:
        """The factor on the learning rate after t updates, for 0 <= t <= n."""
        raise NotImplementedError


@register
class LinearWarmup(Warmup):
    """Increase the rate linearly from `start_factor` times the base rate.

    It takes `epochs` if they are given and `epochs_first` is true, otherwise `steps` updates.
    """

    def __init__(
        self,
        steps: int = 500,
        start_factor: float = 0.3333333333333333,
        epochs: Union[int, float, None] = None,
        epochs_first: bool = True,
    ):
        super().__init__(steps, epochs if epochs_first else None)
        self.start_factor = start_factor

    def factor(self, t: int, n: int) -> float:
        return self.start_factor * (1 - t / n) + t / n


@register
class ExpWarmup(Warmup):
    """Increase the rate from 0 as (t / n) ** `power`, in `epochs` if they are given, otherwise in `steps` updates."""

    def __init__(self, steps: int = 1000, epochs: Union[int, float, None] = None, power: float = 2):
        super().__init__(steps, epochs)
        self.power = power

    def factor(self, t: int, n: int) -> float:
        return (t / n) ** self.power


DECAYS = (PiecewiseDecay, CosineDecay, CyclicCosineDecay)
Decay = Union[PiecewiseDecay, CosineDecay, CyclicCosineDecay]


def changed(schedule: Any, **values: Any) -> Any:
    """A copy of a decay, a warmup or a `LearningRate` with other values of these attributes."""
    copied = copy.copy(schedule)
    vars(copied).update(values)
    return copied


@register
class LearningRate:
    """The section `LearningRate`: a base rate and its `schedulers`, one decay and at most one warmup.

    Args:
        base_lr: the learning rate after the warmup, for batches of `base_batch_size` images if the config gives that
    """

    def __init__(self, base_lr: float = 0.01, schedulers: Optional[List[Part[Any]]] = None):
        if schedulers is None:
            schedulers = [PiecewiseDecay(), LinearWarmup()]
        decays = [item for item in schedulers if isinstance(item, DECAYS)]
        warmups = [item for item in schedulers if isinstance(item, Warmup)]
        if len(decays) != 1 or len(warmups) > 1 or len(decays) + len(warmups) < len(schedulers):
            names = ", ".join(type(item).__name__ for item in schedulers) or "nothing"
            raise UserError(f"LearningRate: schedulers must have one decay, and at most one warmup, not {names}")
        self.base_lr = base_lr
        self.decay: Decay = decays[0]
        self.warmup: Optional[Warmup] = warmups[0] if warmups and self.decay.use_warmup else None

    def fitted(self, run: RunLength) -> LearningRate:
        """This schedule with its decay and its warmup fitted to the length of a run."""
        return changed(self, decay=self.decay.fitted(run), warmup=self.warmup and self.warmup.fitted(run))

    def scaled(self, factor: float) -> LearningRate:
        """This schedule with every rate multiplied by a factor."""
        decay = self.decay
        if isinstance(decay, PiecewiseDecay) and decay.values is not None:
            decay = changed(decay, values=[value * factor for value in decay.values])
        return changed(self, base_lr=self.base_lr * factor, decay=decay)

    def rate(self, t: int, s: int) -> float:
        """The rate after t updates."""
        n = self.warmup.length(s) if self.warmup else 0
        if self.warmup and t < n:
            return self.base_lr * self.warmup.factor(t, n)
        return self.decay.rate(t, s, n, self.base_lr)

    def schedule(self, steps_per_epoch: int, scale: float = 1.0) -> Schedule:
        """The scheduler for Paddle's optimizers, for a number of updates per epoch; `scale` multiplies every rate."""
        from ppdet_repro.optimizer.scheduler import Schedule

        scaled = self.scaled(scale)
        return Schedule(lambda t: scaled.rate(t, steps_per_epoch))
