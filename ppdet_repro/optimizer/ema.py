"""Exponential moving average of a model's weights.

The average starts at zero and covers the whole state dict, including batch norm statistics. Before use it is divided by
1 - d**t, where t is the number of updates and d the LAST decay. The division is exact for a constant decay, and has
little effect late in training. PaddleDetection does the same, and its released weights are such averages.
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

    Args:
        decay: the largest decay
        decay_type: the decay of the update after t updates: `threshold` is min(decay, (1 + t) / (10 + t));
            `exponential` is decay * (1 - exp(-(t + 1) / 2000)), and the average is then used without division;
            `normal` is decay
        black_list: weights whose names contain one of these are copied, not averaged. Integers are copied, too.
        filter_no_grad: also copy weights without gradient, except batch norm statistics
        cycle_epoch: restart from zero after this many calls of `end_cycle`; -1: never
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
        self.decay, self.decay_type, self.cycle_epoch = decay, decay_type, cycle_epoch
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
        """Restart from zero."""
        self.step = self.cycle = 0
        averaged = {name: value for name, value in self.weights.items() if name not in self.copied}
        self.average = {name: paddle.zeros(value.shape, dtype="float32") for name, value in averaged.items()}

    def decay_at(self, t: int) -> float:
        """The decay of the update that follows t updates."""
        if self.decay_type == "threshold":
            return min(self.decay, (1 + t) / (10 + t))
        if self.decay_type == "exponential":
            return self.decay * (1 - math.exp(-(t + 1) / 2000))
        return self.decay

    @paddle.no_grad()
    def update(self) -> None:
        """Update the average with the model's current weights."""
        decay = self.decay_at(self.step)
        for name, average in self.average.items():
            value = self.weights[name]
            value = value if value.dtype == paddle.float32 else value.astype("float32")
            average.scale_(decay)
            average.add_(value * (1 - decay))
        self.step += 1

    @paddle.no_grad()
    def applied_weights(self) -> Dict[str, paddle.Tensor]:
        """The averaged weights to evaluate and to publish; before the first update the model's own."""
        if self.step == 0:
            return dict(self.weights)
        divisor = self._divisor(self.step)
        return {
            name: value if name in self.copied else (self.average[name] / divisor).astype(value.dtype)
            for name, value in self.weights.items()
        }

    def _divisor(self, step: int) -> float:
        """What the average after `step` updates is divided by."""
        return 1.0 if self.decay_type == "exponential" else 1 - self.decay_at(step - 1) ** step

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights within the block, and its own afterwards."""
        raw = {name: value.clone() for name, value in self.weights.items()}
        self._set(self.applied_weights())
        try:
            yield
        finally:
            self._set(raw)

    def end_cycle(self) -> None:
        """Count a snapshot; restart from zero after `cycle_epoch` of them."""
        self.cycle += 1
        if self.cycle == self.cycle_epoch:
            self.reset()

    def state(self) -> Dict[str, np.ndarray]:
        """The average, without division."""
        return {name: value.numpy() for name, value in self.average.items()}

    def restore(self, state: Mapping[str, np.ndarray], step: int, cycle: int) -> None:
        """Continue from a saved `state()`. ValueError: it has other weights than this model."""
        if set(state) != set(self.average):
            differing = sorted(set(state) ^ set(self.average))
            raise ValueError(f"the saved average covers other weights; they differ in {', '.join(differing[:4])}")
        for name, value in self.average.items():
            value.set_value(state[name])
        self.step, self.cycle = step, cycle

    def restore_applied(self, weights: Mapping[str, np.ndarray], step: int) -> None:
        """Continue from what `applied_weights` gave after `step` updates, in the first cycle. KeyError: a weight is
        missing. ValueError: one has another shape.

        PaddleDetection resumes from such weights, too, but takes them for the sums before the division, so that with
        few updates and a large decay its average is too large afterwards.
        """
        if step > 0:
            divisor = self._divisor(step)
            for name, value in self.average.items():
                value.set_value(np.asarray(weights[name] * divisor, np.float32))
        self.step, self.cycle = step, 0

    def _set(self, weights: Mapping[str, paddle.Tensor]) -> None:
        for name, value in self.weights.items():
            value.set_value(weights[name])
