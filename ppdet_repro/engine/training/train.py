"""Training: from a config to checkpoints.

    train(load_config("configs/yolof/yolof_r50_c5_1x_coco.yml"), evaluate=True)

Everything that a run leaves is in `save_dir`/NAME, with the config's name (see `checkpoint.py`,
`progress.py`).
"""

from __future__ import annotations

import random
import shutil
import warnings
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.config import Config, RunSettings, build
from ppdet_repro.data.reader.readers import TrainReader
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine import distributed
from ppdet_repro.engine.analysis.model_info import PICTURES, count_parameters, count_pictures, image_line
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.evaluation.evaluate import check_classes, check_evaluation, gather
from ppdet_repro.engine.evaluation.evaluate import evaluate as evaluate_detector
from ppdet_repro.engine.models import build_network, with_teacher
from ppdet_repro.engine.training import checkpoint
from ppdet_repro.engine.training.checkpoint import Training, TrainState, Weights
from ppdet_repro.engine.training.progress import NoLog, TrainLog
from ppdet_repro.engine.training.step import Batch, NanGuard, Precision, StepReport, TrainStep
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.phases import Learners, Phase
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import remove_leftovers
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state, resolve, save_state

METRIC = "bbox_mAP"
LOG = "log.jsonl"
PREVIOUS = "previous"

Evaluation = Callable[[nn.Layer, Config, Source], Dict[str, float]]


def train(
    cfg: Config,
    *,
    resume: Optional[str] = None,
    evaluate: bool = False,
    offline: bool = False,
    evaluation: Evaluation = evaluate_detector,
) -> TrainState:
    """Train the config's model on its TrainDataset, and return how it ended.

    resume      a checkpoint's folder, or auto: the newest of this run, if there is one
    evaluate    judge every snapshot on EvalDataset, and keep the best
    offline     pretrained weights come from the cache or not at all
    evaluation  scores of a model by name, `bbox_mAP` among them; all processes call it

    UserError: whatever the user can mend.
    """
    warnings.filterwarnings("ignore", message="When training, we now always track global mean")
    world = distributed.start(cfg.run.use_gpu)
    trainer = Trainer(cfg, world, evaluation if evaluate else None, offline)
    if not trainer.resume(resume):
        trainer.begin()
    try:
        return trainer.run()
    except KeyboardInterrupt:
        if world.rank == 0:
            saved = checkpoint.list_checkpoints(trainer.folder)
            rest = f"--resume auto goes on from {saved[-1]}" if saved else "there is no checkpoint yet"
            get_logger().warning(f"interrupted; {rest}")
        raise


def train_one_epoch(
    model: nn.Layer,
    groups: Iterable[Sequence[Batch]],
    step: Callable[[Sequence[Batch]], StepReport],
    log: Callable[[StepReport], None],
) -> None:
    """One pass over the data: an update for every group of batches."""
    model.train()
    for batches in groups:
        log(step(batches))


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[List[Batch]]:
    """Runs of `size` batches, one update each; the last may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


class Trainer:
    """The parts of one run, built from its config, and its epochs."""

    def __init__(self, cfg: Config, world: World, evaluation: Optional[Evaluation], offline: bool = False):
        run = cfg.run
        self.cfg, self.world, self.evaluation, self.offline = cfg, world, evaluation, offline
        self.folder = Path(run.save_dir) / cfg.name
        self.state = TrainState(seed=run.seed)
        self.weights: Optional[Weights] = None  # to evaluate, of the last snapshot

        self.dataset = build_dataset(cfg, "TrainDataset")
        missing = [field for field in ("gt_bbox", "gt_class") if field not in self.dataset.data_fields]
        if missing:
            raise UserError(
                f"{cfg.path}: TrainDataset.data_fields is {self.dataset.data_fields}; training needs "
                f"{' and '.join(missing)} in it too"
            )
        self.eval_dataset = build_dataset(cfg, "EvalDataset") if evaluation else None
        if self.eval_dataset is not None:
            check_evaluation(self.eval_dataset, cfg)
        self.phases = build(cfg, "TrainPhases")
        self.readers = [build_reader(cfg, phase) for phase in self.phases.phases]
        self.steps = equal_steps(self.readers, self.dataset, world, run)

        seed_everything(run.seed, 0, 0)
        self.detector = build_network(cfg)
        self.detector.check_targets(self.readers[0].preprocess)
        if world.rank == 0:
            describe(self.detector, cfg)
        model = self.detector if cfg.teacher is None else with_teacher(self.detector, cfg.teacher, offline)
        if run.norm_type == "sync_bn":
            distributed.synchronize_batch_norms(model, world)
        scale = learning_rate_scale(run, self.readers[0].batch_size, world.size)
        self.schedule = build(cfg, "LearningRate").schedule(self.steps, scale)
        self.model, self.ema, self.learners = model, moving_average(run, model), Learners(model)
        self.precision = choose_precision(run, world)
        self.guard = NanGuard(run.nan_action, self.folder, world.rank)
        self.enter(self.phases.at(0))

    def enter(self, phase: Phase) -> None:
        """Let those layers learn that do in this phase, by an optimizer of their own."""
        self.phase = phase
        self.reader = self.readers[self.phases.phases.index(phase)]
        try:
            self.learners.enter(phase)
        except UserError as error:
            raise UserError(f"{self.cfg.path}: {error}") from error
        optimizer = build(self.cfg, "OptimizerBuilder").build(self.schedule, self.model)
        self.training = Training(self.model, optimizer, self.ema, self.precision.scaler)
        self.step = TrainStep(self.model, optimizer, self.schedule, self.guard, self.world, self.ema, self.precision)

    def resume(self, resume: Optional[str]) -> bool:
        """Go on from a checkpoint; whether there was one."""
        path = None if resume is None else checkpoint.find_checkpoint(resume, self.folder)
        found = gather(str(path))
        if len(set(found)) > 1:
            raise UserError(
                f"--resume {resume}: the processes find different checkpoints ({', '.join(found)}); save_dir "
                "must be on a disk that all machines share"
            )
        if path is None:
            if resume is not None:
                get_logger().info(f"--resume auto: {self.folder} has no checkpoint; starting at the beginning")
            return False
        self.enter(self.phases.at(max(checkpoint.epochs_done(path) - 1, 0)))  # whose optimizer was saved
        self.state = checkpoint.restore_checkpoint(path, self.training)
        self.weights = read_state(path / checkpoint.MODEL)
        expected = self.state.epoch * self.steps
        if self.state.step != expected:
            get_logger().warning(
                f"{path} was saved at update {self.state.step}, but epoch {self.state.epoch} now ends at "
                f"{expected}: the data or the batch size changed; the schedule goes by epochs"
            )
        self.state.step = expected
        self.schedule.step(expected)
        get_logger().info(f"resumed from {path}: {self.state.epoch} of {self.cfg.run.epoch} epochs are done")
        return True

    def begin(self) -> None:
        """Start from pretrained or initial weights; what an earlier run left in the folder is set aside."""
        source = self.cfg.run.pretrain_weights
        if source:
            checkpoint.load_pretrained(self.detector, resolve(source, self.offline))
        if self.world.size > 1:
            distributed.copy_from_first(list(self.training.model.state_dict().values()))
        if self.world.rank == 0:
            set_aside(self.folder)

    def run(self) -> TrainState:
        """Train until the last epoch or until patience ends, and leave the final weights."""
        run = self.cfg.run
        with self.open_log() as log:
            while self.state.epoch < run.epoch and not self.out_of_patience():
                self.one_epoch(log)
                if self.state.epoch % run.snapshot_epoch == 0 or self.state.epoch == run.epoch:
                    self.snapshot(log)
        if self.world.rank == 0:
            self.finish()
        return self.state

    def open_log(self) -> TrainLog:
        """The first process's log; the others keep none."""
        if self.world.rank > 0:
            return NoLog()
        run, checkpoints = self.cfg.run, checkpoint.checkpoints_folder(self.folder)
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {checkpoints}: {error.strerror}; set save_dir") from error
        remove_leftovers(self.folder)
        remove_leftovers(checkpoints)
        return TrainLog(
            self.folder / LOG,
            epochs=run.epoch,
            steps=self.steps,
            done=self.state.step,
            log_iter=run.log_iter,
            processes=self.world.size,
            vdl_dir=run.vdl_log_dir if run.use_vdl else None,
        )

    def out_of_patience(self) -> bool:
        """Whether so many evaluations brought nothing better that early stopping ends the run."""
        patience = self.cfg.run.early_stop
        if patience is None or self.state.without_gain < patience:
            return False
        get_logger().info(
            f"stopped early after epoch {self.state.epoch}: {patience} evaluations without gain on epoch "
            f"{self.state.best_epoch}"
        )
        return True

    def one_epoch(self, log: TrainLog) -> None:
        """Train the epoch after those that are done."""
        run, world, phase = self.cfg.run, self.world, self.phases.at(self.state.epoch)
        if phase is not self.phase:
            self.enter(phase)
        if self.state.epoch == phase.start and len(self.readers) > 1:
            get_logger().info(f"from epoch {phase.start + 1} on: {phase}")
        seed_everything(self.state.seed, self.state.epoch + 1, world.rank)
        batches = self.reader.batches(
            self.dataset,
            epoch=self.state.epoch,
            epochs_total=run.epoch,
            seed=self.state.seed,
            workers=run.worker_num,
            rank=world.rank,
            world=world.size,
        )
        log.start_epoch()
        train_one_epoch(self.training.model, in_groups(batches, run.accumulate_steps), self.step, log)
        self.state.epoch += 1
        self.state.step = self.schedule.last_epoch

    def snapshot(self, log: TrainLog) -> None:
        """Evaluate, where that is wanted, and save a checkpoint."""
        model, ema, state = self.detector, self.training.ema, self.state
        gained = False
        with ema.applied() if ema else nullcontext():
            if self.world.rank == 0:
                self.weights = checkpoint.weights_of(model)
            if self.evaluation is not None:
                state.metrics = {k: float(v) for k, v in self.evaluation(model, self.cfg, self.eval_dataset).items()}
                gained = self.judge(state.metrics)
                log.evaluation(state.metrics)
        if ema:
            ema.end_cycle()
        if self.world.rank == 0:
            self.save(gained)

    def judge(self, metrics: Dict[str, float]) -> bool:
        """Compare with the best evaluation so far; whether this is better."""
        if METRIC not in metrics:
            return False
        state, value = self.state, metrics[METRIC]
        if state.best is not None and value <= state.best:
            state.without_gain += 1
            return False
        state.best, state.best_epoch, state.without_gain = value, state.epoch, 0
        get_logger().info(f"epoch {state.epoch}: best {METRIC} so far, {value:.4f}")
        return True

    def save(self, gained: bool) -> None:
        """Write the checkpoint, and the best weights if these are; a full disk does not end the training."""
        try:
            if gained:
                save_state(self.folder / checkpoint.BEST_MODEL, self.weights)
            path = checkpoint.save_checkpoint(self.folder, self.training, self.state, self.weights)
        except OSError as error:
            saved = checkpoint.list_checkpoints(self.folder)
            last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
            get_logger().error(
                f"could not save epoch {self.state.epoch} in {self.folder}: {error.strerror}; training goes on, {last}"
            )
            return
        checkpoint.keep_newest(self.folder, self.cfg.run.checkpoints_kept, self.state.best_epoch)
        get_logger().info(f"saved {path}")

    def finish(self) -> None:
        """Leave the final weights. UserError: the disk refuses them."""
        path = self.folder / checkpoint.FINAL_MODEL
        weights = self.weights or checkpoint.weights_of(self.detector)
        try:
            save_state(path, weights)
        except OSError as error:
            saved = checkpoint.list_checkpoints(self.folder)
            raise UserError(
                f"{path}: cannot save the final weights: {error.strerror}; the last good checkpoint is "
                f"{saved[-1] if saved else 'none'}. Make room, then --resume auto"
            ) from error
        best = (
            "" if self.state.best is None else f"; best {METRIC} {self.state.best:.4f}, epoch {self.state.best_epoch}"
        )
        get_logger().info(f"done: {path}{best}")


def build_dataset(cfg: Config, name: str) -> Source:
    """A data set of the config, loaded. UserError: broken, or it has not the model's number of classes."""
    dataset = build(cfg, name)
    dataset.load()
    check_classes(dataset, cfg, name)
    return dataset


def build_reader(cfg: Config, phase: Phase) -> TrainReader:
    """The TrainReader of a phase."""
    return build(cfg, "TrainReader", **({} if phase.batch_size is None else {"batch_size": phase.batch_size}))


def equal_steps(readers: Sequence[TrainReader], dataset: Source, world: World, run: RunSettings) -> int:
    """The updates of an epoch. UserError: they are not the same for all readers."""
    steps = [-(-reader.steps_per_epoch(dataset, world.size) // run.accumulate_steps) for reader in readers]
    if len(set(steps)) > 1:
        raise UserError(
            f"TrainPhases: epochs have {' and '.join(map(str, steps))} updates, as the batch sizes differ; set "
            "TrainReader.epoch_steps, so that all have as many"
        )
    return steps[0]


def describe(model: nn.Layer, cfg: Config) -> None:
    """Log the model's size and cost where the settings ask for them."""
    if cfg.run.print_params:
        counted = count_parameters(model)
        get_logger().info(f"{counted.total / 1e6:.2f} M parameters, {counted.trainable / 1e6:.2f} M trainable")
    if cfg.run.print_flops:
        preprocess = Preprocess(build(cfg, "EvalReader").preprocess)
        get_logger().info(image_line(*count_pictures(model, preprocess, PICTURES[-1:])))


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Put the generators of Python, numpy and Paddle into a state that these three numbers determine."""
    number = int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    paddle.seed(number)


def learning_rate_scale(run: RunSettings, batch_size: int, processes: int) -> float:
    """The factor between base_lr and the rate of this run: in proportion to the images of an update.

    1 without `base_batch_size`. Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    if run.base_batch_size is None:
        return 1.0
    images = batch_size * processes * run.accumulate_steps
    scale = images / run.base_batch_size
    get_logger().info(
        f"learning rate: base_lr x {scale:g}, for {images} images an update ({batch_size} x {processes} "
        f"processes x {run.accumulate_steps} accumulated) against base_batch_size {run.base_batch_size}"
    )
    return scale


def moving_average(run: RunSettings, model: nn.Layer) -> Optional[ModelEMA]:
    """The average of the weights that the settings ask for."""
    if not run.use_ema:
        return None
    return ModelEMA(
        model, run.ema_decay, run.ema_decay_type, run.ema_black_list or (), run.ema_filter_no_grad, run.cycle_epoch
    )


def choose_precision(run: RunSettings, world: World) -> Precision:
    """Mixed precision where the settings ask for it and there is a GPU. UserError: level O2."""
    if not run.amp:
        return Precision()
    if run.amp_level != "O1":
        raise UserError(f"amp_level: {run.amp_level} is not supported; set it to O1")
    if not world.gpu:
        get_logger().info("amp: mixed precision needs a GPU; training in float32")
        return Precision()
    return Precision(run.amp_dtype)


def set_aside(folder: Path) -> None:
    """Move what an earlier run left in the folder into its subfolder `previous`, so that no run resumes
    another's.
    """
    found = [folder / name for name in ("checkpoints", LOG, checkpoint.BEST_MODEL, checkpoint.FINAL_MODEL)]
    found = [path for path in found if path.exists()]
    if not checkpoint.list_checkpoints(folder):
        return
    previous = folder / PREVIOUS
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in found:
        path.rename(previous / path.name)
    get_logger().warning(f"{folder} held an earlier run; it is now in {previous} (the one before it is deleted)")
