"""An exponential moving average of a model's weights.

The average starts from zero and covers the whole state dict, BN statistics included. When it is used it
is divided by 1 - d**t with d the LAST decay: exact if the decay had been constant, nearly 1 late in
training. Both are PaddleDetection's, whose released weights come from it.

t updates done
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Dict, Iterator, Mapping, Sequence

import numpy as np
import paddle
from paddle import nn

RUNNING_STATISTICS = ("._mean", "._variance")


class ModelEMA:
    """The average of a model's weights.

    decay_type      threshold: min(decay, (1+t)/(10+t)); exponential: decay * (1 - exp(-(t+1)/2000)), and no
                    division when used; normal: decay
    black_list      weights whose names contain one of these are copied, not averaged; so are integers
    filter_no_grad  so are frozen weights, except BN statistics
    cycle_epoch     start again from zero after so many `end_cycle`; -1: never
    """

    def __init__(
        self,
        model: nn.Layer,
        decay: float = 0.9998,
        decay_type: str = "threshold",
        black_list: Sequence[str] = (),
        filter_no_grad: bool = False,
        cycle_epoch: int = -1,
    ):
        self.decay = decay
        self.decay_type = decay_type
        self.cycle_epoch = cycle_epoch
        self.weights: Dict[str, paddle.Tensor] = model.state_dict()
        self.copied = {
            name
            for name, value in self.weights.items()
            if any(key in name for key in black_list)
            or not paddle.is_floating_point(value)
            or (filter_no_grad and value.stop_gradient and not name.endswith(RUNNING_STATISTICS))
        }
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.step = 0
        self.cycle = 0
        self.average = {
            name: paddle.zeros(value.shape, dtype="float32")
            for name, value in self.weights.items()
            if name not in self.copied
        }

    def decay_at(self, t: int) -> float:
        """The decay of the update after t updates."""
        if self.decay_type == "threshold":
            return min(self.decay, (1 + t) / (10 + t))
        if self.decay_type == "exponential":
            return self.decay * (1 - math.exp(-(t + 1) / 2000))
        return self.decay

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        decay = self.decay_at(self.step)
        for name, average in self.average.items():
            value = self.weights[name]
            value = value if value.dtype == paddle.float32 else value.astype("float32")
            average.scale_(decay)
            average.add_(value * (1 - decay))
        self.step += 1

    @paddle.no_grad()
    def applied_weights(self) -> Dict[str, paddle.Tensor]:
        """The weights to evaluate and to publish; the model's own before the first update."""
        if self.step == 0:
            return dict(self.weights)
        divisor = 1.0
        if self.decay_type != "exponential":
            divisor = 1 - self.decay_at(self.step - 1) ** self.step
        return {
            name: value if name in self.copied else (self.average[name] / divisor).astype(value.dtype)
            for name, value in self.weights.items()
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within the block, its own again after it."""
        raw = {name: value.clone() for name, value in self.weights.items()}
        self._set(self.applied_weights())
        try:
            yield
        finally:
            self._set(raw)

    def end_cycle(self) -> None:
        """Count a snapshot, and start again after `cycle_epoch` of them."""
        self.cycle += 1
        if self.cycle == self.cycle_epoch:
            self.reset()

    def state(self) -> Dict[str, np.ndarray]:
        """The average itself, without division."""
        return {name: value.numpy() for name, value in self.average.items()}

    def restore(self, state: Mapping[str, np.ndarray], step: int, cycle: int) -> None:
        """Go on from a saved `state()`. ValueError: it is of other weights."""
        if set(state) != set(self.average):
            differing = sorted(set(state) ^ set(self.average))
            raise ValueError(f"the saved average covers other weights; they differ in {', '.join(differing[:4])}")
        for name, value in self.average.items():
            value.set_value(state[name])
        self.step = step
        self.cycle = cycle

    def _set(self, weights: Mapping[str, paddle.Tensor]) -> None:
        for name, value in self.weights.items():
            value.set_value(weights[name])
