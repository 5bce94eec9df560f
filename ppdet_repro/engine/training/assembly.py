"""From a config to the parts of a training run. The loop, and everything that it calls, never sees the config."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Callable, Dict, Iterator, Optional, Tuple

import paddle
from paddle import nn

from ppdet_repro.core.config import Config, RunSettings, build, show
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine import distributed
from ppdet_repro.engine.analysis.counting import TYPICAL_SIZES, count_images, count_parameters
from ppdet_repro.engine.analysis.model_info import image_line
from ppdet_repro.engine.analysis.run_page import RunPage
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.evaluation.evaluate import check_classes, check_evaluation
from ppdet_repro.engine.models import build_untrained, with_teacher
from ppdet_repro.engine.pruning import starting_channels
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.cpu_kernels import choose_kernels
from ppdet_repro.engine.training.curves import Loggers
from ppdet_repro.engine.training.data import TrainData
from ppdet_repro.engine.training.loop import Run, seed_everything
from ppdet_repro.engine.training.profiling import UpdateProfiler
from ppdet_repro.engine.training.run_length import run_schedule, scaled_mixing, scaled_phases
from ppdet_repro.engine.training.step import NanGuard, Precision
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.phases import PhaseFreezer, TrainPhases
from ppdet_repro.slim.distill import Distilled
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

Evaluation = Callable[[nn.Layer, Config, Source], Dict[str, float]]


def assemble(
    cfg: Config, world: World, evaluation: Optional[Evaluation], offline: bool, checkpoint: Optional[Path] = None
) -> Run:
    """Build the parts of a run; the model has its initial weights, or with `slim: Pruner` its pruned ones.

    `evaluation` is called with the detector, `cfg` and the loaded EvalDataset, if it is not None. With `offline`,
    weights that are a URL are taken from the cache only. `checkpoint` is the one that the run will resume: the model
    has as many channels as its weights. Raises UserError if the config, its datasets and this machine do not fit
    together.
    """
    settings, make, folder = cfg.run, partial(build, cfg), Path(cfg.run.save_dir) / cfg.name

    dataset = make("TrainDataset")
    check_classes(dataset, cfg, "TrainDataset")
    validation, evaluate = (None, None) if evaluation is None else bound(evaluation, cfg)
    phases = scaled_phases(make("TrainPhases"), settings)
    sizes = [{} if phase.batch_size is None else {"batch_size": phase.batch_size} for phase in phases.phases]
    readers = [make("TrainReader", **size, **scaled_mixing(cfg)) for size in sizes]
    with errors_from(cfg.path):
        data = TrainData(
            dataset, phases, readers, settings.epoch, settings.worker_num, settings.accumulate_steps, world
        )

    seed_everything(settings.seed, 0, 0)
    detector = build_untrained(cfg, starting_channels(cfg, checkpoint, offline, evaluate, world.rank == 0))
    detector.check_targets(readers[0].preprocess)
    if world.rank == 0:
        log_size(detector, settings.print_params, make("EvalReader").preprocess if settings.print_flops else None)
    model = detector if cfg.teacher is None else with_teacher(detector, cfg.teacher, offline)
    if settings.norm_type == "sync_bn":
        distributed.synchronize_batch_norms(model, world)
    speed_up(detector, cfg, phases, world, model.teacher if isinstance(model, Distilled) else None)

    scale = learning_rate_scale(settings, readers[0].batch_size, world.size)
    schedule = run_schedule(make("LearningRate"), phases, settings, data.updates_per_epoch, scale, world.rank == 0)
    ema, freezer = moving_average(settings, model), PhaseFreezer(model)
    apply_all(phases, freezer, cfg.path)
    return Run(
        folder=folder,
        world=world,
        seed=settings.seed,
        data=data,
        detector=detector,
        model=model,
        ema=ema,
        freezer=freezer,
        schedule=schedule,
        optimizer_builder=make("OptimizerBuilder"),
        precision=choose_precision(settings, world),
        guard=NanGuard(settings.nan_action, folder, world.rank),
        snapshot_epoch=settings.snapshot_epoch,
        checkpoints_kept=settings.checkpoints_kept,
        evaluate=evaluate,
        early_stop=settings.early_stop,
        eval_error=settings.eval_error,
        log_iter=settings.log_iter,
        loggers=Loggers(settings.vdl_log_dir if settings.use_vdl else None, settings.logger or ()),
        profiler=UpdateProfiler(settings.profiler_options, folder) if settings.profiler_options else None,
        page=page_of(cfg, data, dataset, validation),
    )


def speed_up(detector: Detector, cfg: Config, phases: TrainPhases, world: World, teacher: Optional[Detector]) -> None:
    """Choose what computes the network. With `to_static`, its backbone and neck run as static graphs, which Paddle
    traces anew for each size of the images. UserError: the training changes the network, or looks inside it."""
    choose_kernels(detector, cfg, world, teacher)
    if not cfg.run.to_static:
        return
    if len(phases.phases) > 1 or cfg.run.quantized or cfg.teacher is not None:
        raise UserError(f"{cfg.path}: to_static does not work with several TrainPhases, QAT or a teacher; leave it out")
    for part in (detector.backbone, detector.neck):
        paddle.jit.to_static(part, full_graph=True)  # changes its `forward`


def page_of(cfg: Config, data: TrainData, dataset: Source, validation: Optional[Source]) -> RunPage:
    """What the page of the run says about its data and its config."""
    best = run_folder.FINAL_MODEL if validation is None else run_folder.BEST_MODEL
    weights = quote(f"weights={Path(cfg.run.save_dir) / cfg.name / best}")
    config = f"-c {quote(str(cfg.path))}" + (f" --slim_config {quote(str(cfg.slim_path))}" if cfg.slim_path else "")
    updates = f"{data.updates_per_epoch:,} per epoch"
    facts = [("training", dataset.summary), ("updates", updates)]
    if validation is not None:
        facts.append(("evaluation", validation.summary))
    same = "with the same values for -o as in training, if it had any"
    return RunPage(
        title=cfg.name,
        epochs=data.epochs,
        facts=facts,
        commands=[
            (f"Evaluate, with a report of the worst images, {same}:", f"ppdet-repro report {config} -o {weights}"),
            ("Detect:", f"ppdet-repro infer {config} --infer_dir FOLDER -o {weights}"),
            ("Export for deployment:", f"ppdet-repro export {config} -o {weights}"),
            ("Try the export in a browser:", f"ppdet-repro serve --model_dir {quote(f'output_inference/{cfg.name}')}"),
            ("Continue a run that was interrupted:", f"ppdet-repro train {config} --resume auto"),
        ],
        config=show(cfg),
    )


@contextmanager
def errors_from(path: Path) -> Iterator[None]:
    """Put the config's path before the messages of UserErrors."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def apply_all(phases: TrainPhases, freezer: PhaseFreezer, path: Path) -> None:
    """Apply all phases, which finds their mistakes; the last one applied is the first one of the run."""
    with errors_from(path):
        for phase in reversed(phases.phases):
            freezer.apply(phase)


def bound(evaluation: Evaluation, cfg: Config) -> Tuple[Source, Callable[[nn.Layer], Dict[str, float]]]:
    """The EvalDataset, and the evaluation on it as a function of the detector alone. UserError: it cannot run."""
    dataset = build(cfg, "EvalDataset")
    check_evaluation(dataset, cfg)
    return dataset, lambda detector: evaluation(detector, cfg, dataset)


def log_size(detector: Detector, parameters: bool, preprocess: Optional[list]) -> None:
    """Log the number of parameters if asked for, and the cost per image if the transforms for evaluation are given."""
    if parameters:
        counted = count_parameters(detector)
        get_logger().info(f"{counted.total / 1e6:.2f} M parameters, {counted.trainable / 1e6:.2f} M trainable")
    if preprocess is not None:
        get_logger().info(image_line(*count_images(detector, Preprocess(preprocess), TYPICAL_SIZES[-1:])))


def learning_rate_scale(settings: RunSettings, batch_size: int, processes: int) -> float:
    """The factor on base_lr: images per update of this run over `base_batch_size`, or 1 without that setting.
    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017."""
    if settings.base_batch_size is None:
        return 1.0
    images = batch_size * processes * settings.accumulate_steps
    scale = images / settings.base_batch_size
    factors = f"{batch_size} x {processes} processes x {settings.accumulate_steps} accumulated"
    ratio = f"{images} images per update ({factors}) against base_batch_size {settings.base_batch_size}"
    get_logger().info(f"learning rate: base_lr x {scale:g}, for {ratio}")
    return scale


def moving_average(settings: RunSettings, model: nn.Layer) -> Optional[ModelEMA]:
    """The moving average of the model's weights, if the settings ask for one."""
    if not settings.use_ema:
        return None
    return ModelEMA(
        model,
        settings.ema_decay,
        settings.ema_decay_type,
        settings.ema_black_list or (),
        settings.ema_filter_no_grad,
        settings.cycle_epoch,
    )


def choose_precision(settings: RunSettings, world: World) -> Precision:
    """Mixed precision if the settings ask for it and there is a GPU, else float32. UserError: level O2."""
    if not settings.amp:
        return Precision()
    if settings.amp_level != "O1":
        raise UserError(f"amp_level: {settings.amp_level} is not supported; set it to O1")
    if not world.gpu:
        if settings.cpu_kernels == "paddle":
            get_logger().info("amp: training in float32; on a CPU mixed precision needs cpu_kernels: auto or onednn")
        return Precision()
    return Precision(settings.amp_dtype)
