"""The training loop: epochs, snapshots, evaluation and early stopping. It works on a `Run` and never sees a config."""

from __future__ import annotations

import random
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, ContextManager, Iterable, List, Literal, Mapping, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.contract import Batch
from ppdet_repro.engine.analysis.run_page import RunPage
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.model_weights import Weights, weights_of, weights_within
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.checkpoint import Checkpointed, RunState, epochs_done, restore_checkpoint, weights_file
from ppdet_repro.engine.training.curves import Loggers
from ppdet_repro.engine.training.data import TrainData
from ppdet_repro.engine.training.profiling import UpdateProfiler
from ppdet_repro.engine.training.progress import TrainLog
from ppdet_repro.engine.training.run_length import resumed_otherwise
from ppdet_repro.engine.training.step import NanGuard, Precision, StepReport, TrainStep
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.optimizer import OptimizerBuilder
from ppdet_repro.optimizer.phases import Phase, PhaseFreezer
from ppdet_repro.optimizer.scheduler import Schedule
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state

PAGE_SECONDS = 60.0  # between two writings of the run's page, which takes about one
METRIC = "bbox_mAP"  # the score that decides which weights are the best


def train_one_epoch(
    model: nn.Layer,
    batches: Iterable[Sequence[Batch]],
    step: Callable[[Sequence[Batch]], StepReport],
    log: Optional[Callable[[StepReport], None]],
) -> None:
    """Train for one pass over the data: one update for each list of batches."""
    model.train()
    for group in batches:
        report = step(group)
        if log is not None:
            log(report)


@dataclass(frozen=True)
class Run:
    """The parts of a training run. `assembly.assemble` makes them from a config."""

    folder: Path  # receives checkpoints, weights and the log
    world: World
    seed: int
    data: TrainData

    detector: Detector  # what is evaluated and saved
    model: nn.Layer  # what is trained: the detector, or with distillation the detector and its teacher
    ema: Optional[ModelEMA]

    freezer: PhaseFreezer
    schedule: Schedule
    optimizer_builder: OptimizerBuilder
    precision: Precision
    guard: NanGuard

    snapshot_epoch: int  # epochs from one snapshot to the next
    checkpoints_kept: int
    evaluate: Optional[Callable[[nn.Layer], Mapping[str, float]]]  # scores of the detector; None: no evaluation
    early_stop: Optional[int]  # evaluations without a better score after which training ends
    eval_error: Literal["stop", "skip"]  # whether training ends when an evaluation fails because of the user's data

    log_iter: int  # updates from one log line to the next
    loggers: Loggers  # receive curves
    profiler: Optional[UpdateProfiler]  # measures some updates
    page: RunPage  # shows how the run is getting on


class TrainingLoop:
    """Trains the parts of a run until the last epoch, or until early stopping ends it."""

    def __init__(self, run: Run):
        self.run = run
        self.state = RunState(seed=run.seed)
        self.snapshot_weights: Optional[Weights] = None  # those to evaluate, as of the last snapshot
        self.failures: List[str] = []  # evaluations that failed
        self.drawn = time.monotonic()  # when the page was written
        self.start_phase(run.data.phases.at(0))

    def start_phase(self, phase: Phase) -> None:
        """Freeze what the phase freezes, and begin with a new optimizer for all other parameters."""
        run = self.run
        self.phase = phase
        run.freezer.apply(phase)
        optimizer = run.optimizer_builder.build(run.schedule, run.model)
        self.checkpointed = Checkpointed(run.model, optimizer, run.ema, run.precision.scaler)
        self.step = TrainStep(run.model, optimizer, run.schedule, run.guard, run.world, run.ema, run.precision)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of this run, or of PaddleDetection's run of the same config. UserError: it is
        damaged, or of another run."""
        run = self.run
        self.start_phase(run.data.phases.at(max(epochs_done(path) - 1, 0)))  # its optimizer was saved
        self.state = restore_checkpoint(path, self.checkpointed, run.seed)
        self.snapshot_weights = read_state(weights_file(path))
        expected = self.state.epoch * run.data.updates_per_epoch
        if self.state.step != expected:
            get_logger().warning(
                f"{path} was saved at update {self.state.step}, but epoch {self.state.epoch} now ends at update "
                f"{expected}: the dataset or the batch size changed; the schedule follows the epochs"
            )
        self.state.step = expected
        run.schedule.step(expected)
        get_logger().info(f"resumed from {path}: {self.state.epoch} of {run.data.epochs} epochs are done")
        other_length = resumed_otherwise(self.state, run.data.epochs, run.schedule.last_lr)
        if other_length:
            get_logger().warning(other_length)

    def train(self) -> RunState:
        """Train the remaining epochs and write the final weights. Raises UserError if that or an evaluation fails."""
        run, state = self.run, self.state
        with self.open_log() as log:
            if not state.evaluated:
                self.evaluate(log)
            while state.epoch < run.data.epochs and not self.out_of_patience():
                self.one_epoch(log)
                if state.epoch % run.snapshot_epoch == 0 or state.epoch == run.data.epochs:
                    self.snapshot(log)
        if run.world.rank == 0:
            run_folder.write_page(run.folder, run.page)
            path = run_folder.save_final_weights(run.folder, self.snapshot_weights or weights_of(run.detector))
            best = "" if state.best is None else f"; best {METRIC} {state.best:.4f}, epoch {state.best_epoch}"
            get_logger().info(f"done: {path}{best}")
        if self.failures:
            raise UserError(f"training is done, but {len(self.failures)} evaluations failed: {self.failures[0]}")
        return state

    def open_log(self) -> ContextManager[Optional[TrainLog]]:
        """The log of this process; only the first process has one."""
        run = self.run
        if run.world.rank > 0:
            return nullcontext()
        run_folder.prepare(run.folder)
        path, epochs, steps = run.folder / run_folder.LOG, run.data.epochs, run.data.updates_per_epoch
        done, evaluated = self.state.step, self.state.evaluated
        return TrainLog(path, epochs, steps, done, evaluated, run.log_iter, run.world.size, run.loggers)

    def out_of_patience(self) -> bool:
        """Whether the last `early_stop` evaluations brought no better score."""
        patience, state = self.run.early_stop, self.state
        if patience is None or state.without_gain < patience:
            return False
        reason = f"{patience} evaluations without gain on epoch {state.best_epoch}"
        get_logger().info(f"stopped early after epoch {state.epoch}: {reason}")
        return True

    def one_epoch(self, log: Optional[TrainLog]) -> None:
        """Train the next epoch, in a new phase if one starts with it."""
        run, state = self.run, self.state
        phase = run.data.phases.at(state.epoch)
        if phase is not self.phase:
            self.start_phase(phase)
        if state.epoch == phase.start and len(run.data.readers) > 1:
            get_logger().info(f"from epoch {phase.start + 1} on: {phase}")
        seed_everything(state.seed, state.epoch + 1, run.world.rank)
        batches = run.data.batches(state.epoch, state.seed)
        if log is not None:
            log.start_epoch()
        step = self.step if run.profiler is None else run.profiler.watch(self.step)
        train_one_epoch(run.model, batches, step, log)
        state.epoch += 1
        state.step = run.schedule.last_epoch

    def snapshot(self, log: Optional[TrainLog]) -> None:
        """Save a checkpoint, then evaluate its weights if the run evaluates: the moving average if there is one."""
        run, state = self.run, self.state
        with run.ema.applied() if run.ema else nullcontext():
            self.snapshot_weights = weights_of(run.detector)
        if run.ema:
            run.ema.end_cycle()
        state.evaluated, state.epochs, state.rate = run.evaluate is None, run.data.epochs, run.schedule.last_lr
        if run.world.rank == 0:
            run_folder.save_snapshot(run.folder, self.checkpointed, state, self.snapshot_weights, run.checkpoints_kept)
        self.evaluate(log)
        if run.world.rank == 0 and time.monotonic() - self.drawn > PAGE_SECONDS:
            run_folder.write_page(run.folder, run.page)
            self.drawn = time.monotonic()

    def evaluate(self, log: Optional[TrainLog]) -> None:
        """Evaluate the weights of the last snapshot, if the run evaluates. UserError: that failed, and `eval_error` is
        `stop`; after the last epoch and with `skip`, the failure is kept for the end."""
        run, state, weights = self.run, self.state, self.snapshot_weights
        if run.evaluate is None or weights is None:
            return
        try:
            with weights_within(run.detector, weights):
                metrics = {name: float(value) for name, value in run.evaluate(run.detector).items()}
        except UserError as error:
            failure = f"the evaluation after epoch {state.epoch} failed: {error}"
            if run.eval_error == "stop" and state.epoch < run.data.epochs:
                raise UserError(
                    f"{failure}. The epoch was saved: --resume auto evaluates it and continues; with "
                    "-o eval_error=skip training goes on without the evaluations that fail"
                ) from error
            get_logger().error(failure)
            self.failures.append(failure)
            return
        state.metrics, state.evaluated = metrics, True
        is_best = self.update_best(metrics)
        if log is not None:
            log.evaluation(metrics)
        if run.world.rank == 0:
            run_folder.save_evaluation(run.folder, state, weights, is_best, run.checkpoints_kept)

    def update_best(self, metrics: Mapping[str, float]) -> bool:
        """Compare the metrics with the best evaluation so far, and return whether they are better."""
        if METRIC not in metrics:
            return False
        state, value = self.state, metrics[METRIC]
        if state.best is not None and value <= state.best:
            state.without_gain += 1
            return False
        state.best, state.best_epoch, state.without_gain = value, state.epoch, 0
        get_logger().info(f"epoch {state.epoch}: best {METRIC} so far, {value:.4f}")
        return True


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Seed the random generators of Python, numpy and Paddle with a number derived from the three arguments."""
    number = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    paddle.seed(number)
