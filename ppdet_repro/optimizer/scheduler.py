"""The scheduler that Paddle's optimizers get their learning rate from."""

from __future__ import annotations

from typing import Callable

from paddle.optimizer.lr import LRScheduler


class Schedule(LRScheduler):
    """A learning rate as a function of the number of updates, which is the only state."""

    def __init__(self, rate: Callable[[int], float]):
        self.rate = rate
        super().__init__(rate(0))

    def get_lr(self) -> float:
        return self.rate(self.last_epoch)
