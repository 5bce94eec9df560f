"""Learning rates as functions of the number of updates done.

A schedule is a decay, written in epochs, under a warmup, written in updates: the warmup rules while it
lasts, the decay after it. Names, defaults and numbers are PaddleDetection's.

t updates done, n updates of warmup, s updates an epoch
"""

from __future__ import annotations

import math
from typing import Any, Callable, List, Optional, Union

from paddle.optimizer.lr import LRScheduler

from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError


@register
class PiecewiseDecay:
    """base_lr, times the next factor of `gamma` from each of `milestones` (epochs) on.

    A single `gamma` g with m milestones gives g, g / 10, ...; `values` are the rates themselves, one more
    than milestones. `use_warmup` false ignores the warmup.
    """

    def __init__(
        self,
        gamma: Optional[Union[float, List[float]]] = None,
        milestones: Optional[List[int]] = None,
        values: Optional[List[float]] = None,
        use_warmup: bool = True,
    ):
        self.milestones = [8, 11] if milestones is None else list(milestones)
        if gamma is None:
            gamma = [0.1, 0.01]
        if not isinstance(gamma, (list, tuple)):
            gamma = [gamma / 10**i for i in range(len(self.milestones))]
        if self.milestones != sorted(self.milestones):
            raise UserError(f"PiecewiseDecay: milestones {self.milestones} do not ascend")
        if values is None and len(gamma) != len(self.milestones):
            raise UserError(f"PiecewiseDecay: {len(gamma)} factors in gamma for {len(self.milestones)} milestones")
        if values is not None and len(values) != len(self.milestones) + 1:
            raise UserError(
                f"PiecewiseDecay: {len(self.milestones)} milestones want {len(self.milestones) + 1} values, "
                f"not {len(values)}"
            )
        self.gamma = list(gamma)
        self.values = values
        self.use_warmup = use_warmup

    def rate(self, t: int, s: int, n: int, base_lr: float, scale: float) -> float:
        """The learning rate after t updates; `base_lr` is scaled already, `values` are not."""
        passed = sum(t >= milestone * s for milestone in self.milestones)
        if self.values is not None:
            return self.values[passed] * scale
        return base_lr * self.gamma[passed - 1] if passed else base_lr


@register
class CosineDecay:
    """From base_lr to `min_lr_ratio` of it along half a cosine wave that ends `last_plateau_epochs` before
    `max_epochs`; the wave begins where the warmup ends. `use_warmup` false ignores the warmup."""

    def __init__(
        self, max_epochs: int = 1000, use_warmup: bool = True, min_lr_ratio: float = 0.0, last_plateau_epochs: int = 0
    ):
        self.max_epochs = max_epochs
        self.use_warmup = use_warmup
        self.min_lr_ratio = min_lr_ratio
        self.last_plateau_epochs = last_plateau_epochs

    def rate(self, t: int, s: int, n: int, base_lr: float, scale: float) -> float:
        """The learning rate after t updates; after `max_epochs` it stays what it was last."""
        lowest = base_lr * self.min_lr_ratio
        last, end = self.max_epochs * s - 1, (self.max_epochs - self.last_plateau_epochs) * s
        t = max(min(t, last), n)
        if n < end <= t:
            return lowest
        return lowest + (base_lr - lowest) * 0.5 * (math.cos((t - n) * math.pi / max(end - n, 1)) + 1)


@register
class CyclicCosineDecay:
    """From base_lr to `min_lr_ratio` of it along half a cosine wave, anew every `cycle_epochs`.

    The last update of a cycle has the lowest rate: there lie the checkpoints that stochastic weight averaging wants.
    Source: Zhang et al., "SWA Object Detection", 2020, section 3.
    """

    def __init__(self, cycle_epochs: int = 1, min_lr_ratio: float = 0.01, use_warmup: bool = True):
        if cycle_epochs < 1:
            raise UserError(f"CyclicCosineDecay: cycle_epochs {cycle_epochs} must be at least 1")
        self.cycle_epochs = cycle_epochs
        self.min_lr_ratio = min_lr_ratio
        self.use_warmup = use_warmup

    def rate(self, t: int, s: int, n: int, base_lr: float, scale: float) -> float:
        """The learning rate after t updates."""
        length = self.cycle_epochs * s
        done = (t % length) / max(length - 1, 1)
        lowest = base_lr * self.min_lr_ratio
        return lowest + (base_lr - lowest) * 0.5 * (math.cos(done * math.pi) + 1)


@register
class LinearWarmup:
    """From `start_factor` times the rate to the rate, in `steps` updates, or in `epochs` where that is
    given and `epochs_first` is true.
    """

    def __init__(
        self,
        steps: int = 500,
        start_factor: float = 0.3333333333333333,
        epochs: Optional[int] = None,
        epochs_first: bool = True,
    ):
        self.steps = steps
        self.start_factor = start_factor
        self.epochs = epochs if epochs_first else None

    def length(self, s: int) -> int:
        """Updates until the full rate, at least 1."""
        return max(self.steps if self.epochs is None else self.epochs * s, 1)

    def factor(self, t: int, n: int) -> float:
        """What the rate is multiplied by, for t = 0..n inclusive."""
        done = t / n
        return self.start_factor * (1 - done) + done


@register
class ExpWarmup:
    """From 0 to the rate as (t / n) ** `power`, in `steps` updates, or in `epochs` where that is given."""

    def __init__(self, steps: int = 1000, epochs: Optional[int] = None, power: float = 2):
        self.steps = steps
        self.epochs = epochs
        self.power = power

    def length(self, s: int) -> int:
        """Updates until the full rate, at least 1."""
        return max(self.steps if self.epochs is None else self.epochs * s, 1)

    def factor(self, t: int, n: int) -> float:
        """What the rate is multiplied by, for t = 0..n inclusive."""
        return (t / n) ** self.power


WARMUPS = (LinearWarmup, ExpWarmup)
DECAYS = (PiecewiseDecay, CosineDecay, CyclicCosineDecay)


class Schedule(LRScheduler):
    """The scheduler that a Paddle optimizer asks for its rate; its only state is the number of updates
    done.
    """

    def __init__(self, rate: Callable[[int], float]):
        self.rate = rate
        super().__init__(rate(0))

    def get_lr(self) -> float:
        return self.rate(self.last_epoch)


@register
class LearningRate:
    """A base rate and its `schedulers`: one decay, and a warmup or none."""

    def __init__(self, base_lr: float = 0.01, schedulers: Optional[List[Part[Any]]] = None):
        if schedulers is None:
            schedulers = [PiecewiseDecay(), LinearWarmup()]
        decays = [item for item in schedulers if isinstance(item, DECAYS)]
        warmups = [item for item in schedulers if isinstance(item, WARMUPS)]
        if len(decays) != 1 or len(warmups) > 1 or len(decays) + len(warmups) < len(schedulers):
            names = ", ".join(type(item).__name__ for item in schedulers) or "nothing"
            raise UserError(f"LearningRate: schedulers wants one decay, and one warmup at most, not {names}")
        self.base_lr = base_lr
        self.decay = decays[0]
        self.warmup = warmups[0] if warmups and self.decay.use_warmup else None

    def schedule(self, steps_per_epoch: int, scale: float = 1.0) -> Schedule:
        """The schedule for epochs of so many updates; `scale` multiplies every rate."""
        base_lr = self.base_lr * scale
        length = self.warmup.length(steps_per_epoch) if self.warmup else 0

        def rate(t: int) -> float:
            if t < length:
                return base_lr * self.warmup.factor(t, length)
            return self.decay.rate(t, steps_per_epoch, length, base_lr, scale)

        return Schedule(rate)
