"""One update of a model: forward, backward, averaging over processes, check for NaN, optimizer, moving average."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple, cast

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.contract import Batch, Losses
from ppdet_repro.engine import distributed
from ppdet_repro.engine.distributed import World
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.scheduler import Schedule
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

INITIAL_LOSS_SCALE = 1024.0
SKIPS_IN_A_ROW = 20  # after so many skipped updates in a row the run ends
BATCHES_KEPT = 3  # batches with NaN that are written to disk


class StepReport(NamedTuple):
    """The result of an update."""

    losses: Dict[str, float]  # means over the update's batches and over the processes
    learning_rate: float
    images: int  # of this process
    seconds: float  # without the time that the data took


class Precision:
    """The precision of the forward pass: float32, or on a GPU mixed with float16 or bfloat16.

    With float16 the loss is scaled so that small gradients do not vanish; the scale is lowered when gradients overflow.
    """

    def __init__(self, low: Optional[Literal["float16", "bfloat16"]] = None):
        self.low = low
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=INITIAL_LOSS_SCALE) if low == "float16" else None

    def forward(self, model: nn.Layer, batch: Batch) -> Losses:
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


@dataclass
class NanGuard:
    """Handles updates whose losses or gradients are not finite.

    The process where they occurred saves its batches in `folder`. Then the run stops, or the update is skipped.
    """

    action: Literal["stop", "skip"]
    folder: Path
    rank: int = 0
    in_a_row: int = 0  # the last updates that were not finite
    saved: int = 0  # updates whose batches were saved

    def caught(self, step: int, culprits: Sequence[str], batches: Sequence[Batch]) -> None:
        """Handle update number `step`, which was not finite. `culprits` are the names of this process's values that are
        not finite; empty if only other processes have some. Raises UserError if the run must stop, or too many updates
        in a row were skipped."""
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
        """Save the batches as arrays with names batch/entry[/image], and return words for the message."""
        if self.saved == BATCHES_KEPT:
            return ""
        self.saved += 1
        path = self.folder / f"nan_step{step}_rank{self.rank}.npz"
        arrays: Dict[str, Any] = {}
        for i, batch in enumerate(batches):
            for key, value in cast(Mapping[str, Any], batch).items():
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


@dataclass
class TrainStep:
    """Updates a model once per call, with the mean gradient of the call's batches."""

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    schedule: Schedule
    guard: NanGuard
    world: World
    ema: Optional[ModelEMA] = None
    precision: Precision = field(default_factory=Precision)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.model.parameters() if not p.stop_gradient]
        self.statistics = distributed.running_statistics(self.model)

    def __call__(self, batches: Sequence[Batch]) -> StepReport:
        started = time.perf_counter()
        statistics = [s.clone() for s in self.statistics] if self.guard.action == "skip" else []
        names, values = self._backward(batches)
        culprits = [name for name, value in zip(names, values.tolist()) if not np.isfinite(value)]
        if self.world.size > 1:
            values = distributed.average_update(self.parameters, self.statistics, values)
        values = values.tolist()
        if np.isfinite(values).all():
            self.guard.in_a_row = 0
            self.precision.update(self.optimizer)
            if self.ema is not None:
                self.ema.update()
        else:
            self.guard.caught(self.schedule.last_epoch + 1, culprits, batches)
            for statistic, value in zip(self.statistics, statistics):
                paddle.assign(value, output=statistic)
        self.optimizer.clear_grad(set_to_zero=False)  # the optimizer skips parameters without a gradient
        rate = self.schedule.last_lr
        self.schedule.step()
        images = sum(len(batch["image"]) for batch in batches)
        return StepReport(dict(zip(names[:-1], values)), rate, images, time.perf_counter() - started)

    def _backward(self, batches: Sequence[Batch]) -> Tuple[List[str], paddle.Tensor]:
        """Compute the gradient of the batches' mean loss, which is left in the parameters.

        Returns the names of the losses and "gradients"; and the mean losses with one more value, which is
        finite if all gradients are. With float16 it is 0: the loss scaler handles gradients that overflow.
        """
        values = []  # per batch: a tensor of all losses
        for batch in batches:
            losses = self.precision.forward(self.model, batch)
            self.precision.backward(losses["loss"] / len(batches))
            values.append(paddle.stack([loss.detach().astype("float32").reshape([]) for loss in losses.values()]))
        sums = [p.grad.sum() for p in self.parameters if p.grad is not None]
        finite = paddle.zeros([]) if self.precision.scaler or not sums else paddle.add_n(sums).detach()
        return [*losses, "gradients"], paddle.concat([sum(values) / len(batches), finite.reshape([1])])
