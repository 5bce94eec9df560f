"""One update of a model: forward, backward, averaging over processes, guard against NaN, optimizer, EMA.

k micro-batches whose gradients are averaged into one update, L losses
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List, Literal, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.engine import distributed
from ppdet_repro.engine.distributed import World
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.schedules import Schedule
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

Batch = Dict[str, Any]

INITIAL_LOSS_SCALE = 1024.0
SKIPS_IN_A_ROW = 20  # after so many the run is beyond help
BATCHES_KEPT = 3  # offending batches that are written to disk


class StepReport(NamedTuple):
    """What an update did."""

    losses: Dict[str, float]  # means over the micro-batches and processes
    learning_rate: float
    images: int  # of this process
    seconds: float


class Precision:
    """The arithmetic of the forward pass: float32, or mixed with float16 or bfloat16 on a GPU.

    float16 scales the loss so that small gradients do not vanish, and lowers the scale when they overflow.
    """

    def __init__(self, low: Optional[Literal["float16", "bfloat16"]] = None):
        self.low = low
        self.scaler = None
        if low == "float16":
            self.scaler = paddle.amp.GradScaler(init_loss_scaling=INITIAL_LOSS_SCALE)

    def forward(self, model: nn.Layer, batch: Batch) -> Dict[str, paddle.Tensor]:
        if self.low is None:
            return model(batch)
        with paddle.amp.auto_cast(dtype=self.low, level="O1"):
            return model(batch)

    def backward(self, loss: paddle.Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def update(self, optimizer: paddle.optimizer.Optimizer) -> None:
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()


class NanGuard:
    """What happens to an update whose losses or gradients are not finite.

    The batches of the process that they came from are saved in `folder`, then the run stops, or skips the
    update.
    """

    def __init__(self, action: Literal["stop", "skip"], folder: Path, rank: int = 0):
        self.action = action
        self.folder = folder
        self.rank = rank
        self.in_a_row = 0
        self.saved = 0

    def passed(self) -> None:
        """The update was in order."""
        self.in_a_row = 0

    def caught(self, step: int, culprits: Sequence[str], batches: Sequence[Batch]) -> None:
        """The update was not; `culprits` are empty where the fault is another process's.

        UserError: the run is to stop, or skipping does not help.
        """
        self.in_a_row += 1
        message = f"update {step}: not finite: another process's losses or gradients"
        if culprits:
            ids = ", ".join(str(i) for batch in batches for i in np.ravel(batch["im_id"].numpy()))
            message = f"update {step}: not finite: {', '.join(culprits)}; image ids {ids}"
            message += self._save(step, batches)
        if self.action == "stop":
            raise UserError(f"{message}; lower the learning rate, or skip such batches with -o nan_action=skip")
        if self.in_a_row >= SKIPS_IN_A_ROW:
            raise UserError(f"{message}, the {self.in_a_row}th in a row; lower the learning rate")
        get_logger().warning(f"{message}; update skipped")

    def _save(self, step: int, batches: Sequence[Batch]) -> str:
        """Write the batches as arrays, named batch/entry[/image]; words for the message."""
        if self.saved == BATCHES_KEPT:
            return ""
        self.saved += 1
        path = self.folder / f"nan_step{step}_rank{self.rank}.npz"
        arrays = {}
        for i, batch in enumerate(batches):
            for key, value in batch.items():
                if isinstance(value, list):
                    arrays.update({f"{i}/{key}/{j}": item.numpy() for j, item in enumerate(value)})
                else:
                    arrays[f"{i}/{key}"] = value.numpy()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                np.savez(file, **arrays)
        except OSError as error:
            return f" (the batch could not be saved in {path}: {error.strerror})"
        return f", saved in {path}"


class TrainStep:
    """Calling it with k micro-batches does one update of the model."""

    def __init__(
        self,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        schedule: Schedule,
        guard: NanGuard,
        world: World,
        ema: Optional[ModelEMA] = None,
        precision: Optional[Precision] = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.guard = guard
        self.world = world
        self.ema = ema
        self.precision = precision or Precision()
        self.parameters = [p for p in model.parameters() if not p.stop_gradient]
        self.statistics = distributed.running_statistics(model)

    def __call__(self, batches: Sequence[Batch]) -> StepReport:
        started = time.perf_counter()
        statistics = [s.clone() for s in self.statistics] if self.guard.action == "skip" else []
        names, values = self._backward(batches)
        culprits = [name for name, value in zip(names, values.tolist()) if not np.isfinite(value)]
        if self.world.size > 1:
            values = distributed.average_update(self.parameters, self.statistics, values)
        values = values.tolist()
        if np.isfinite(values).all():
            self.guard.passed()
            self.precision.update(self.optimizer)
            if self.ema is not None:
                self.ema.update()
        else:
            self.guard.caught(self.schedule.last_epoch + 1, culprits, batches)
            for statistic, value in zip(self.statistics, statistics):
                paddle.assign(value, output=statistic)
        self.optimizer.clear_grad(set_to_zero=False)  # a parameter without gradient is left alone
        rate = self.schedule.last_lr
        self.schedule.step()
        images = sum(len(batch["image"]) for batch in batches)
        losses = dict(zip(names[:-1], values))
        return StepReport(losses, rate, images, time.perf_counter() - started)

    def _backward(self, batches: Sequence[Batch]) -> Tuple[List[str], paddle.Tensor]:
        """Leave the gradient of the micro-batches' mean loss in the parameters.

        The losses' names, then "gradients"; their means [L + 1], the last of which is finite if all
        gradients are. Overflowing float16 gradients are the loss scaler's business.
        """
        total = None
        for batch in batches:
            losses = self.precision.forward(self.model, batch)
            self.precision.backward(losses["loss"] / len(batches))
            values = paddle.stack([loss.detach().astype("float32").reshape([]) for loss in losses.values()])
            total = values if total is None else total + values
        sums = [p.grad.sum() for p in self.parameters if p.grad is not None]
        finite = paddle.zeros([]) if self.precision.scaler or not sums else paddle.add_n(sums).detach()
        return [*losses, "gradients"], paddle.concat([total / len(batches), finite.reshape([1])])
