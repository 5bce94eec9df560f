"""Build the model of a config: with initial weights, with trained weights, or beside a teacher."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

from paddle import nn

from ppdet_repro.core.config import Config, UnknownParameter, build, build_model
from ppdet_repro.engine.model_weights import load_exact, take_channels
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.slim.distill import Distilled, LevelPair, level_pairs
from ppdet_repro.slim.distill_pass import PassLoss
from ppdet_repro.slim.qat import QAT
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

DISTILLATION_LOSSES = "CWDFeatureLoss", "FGDFeatureLoss", "DistillDenseLoss", "DistillYOLOv3Loss", "PaddleSlimLoss"


@contextmanager
def mode(model: nn.Layer, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode for the time of the block."""
    before = model.training
    (model.train if training else model.eval)()
    try:
        yield
    finally:
        (model.train if before else model.eval)()


def build_untrained(cfg: Config, set_channels: Optional[Callable[[Detector], None]] = None) -> Detector:
    """The model of a config with initial weights; with `slim: QAT` its layers compute as they will in int8.

    `set_channels` is called with the model before that, to prune it or to make it as narrow as trained weights. Raises
    UserError if `slim` is PTQ or Distill, which do not describe a model to train.
    """
    check_describes_model(cfg)
    model: Detector = build_model(cfg)
    if set_channels is not None:
        set_channels(model)
    if cfg.run.quantized:
        qat: QAT = build(cfg, "QAT") if cfg.run.slim == "QAT" else build(cfg, "PrunerQAT").qat
        qat.quantize(model)
        if qat.print_model:
            get_logger().info(f"quantized:\n{model}")
    return model


def check_describes_model(cfg: Config) -> None:
    """Raise a UserError if `slim` is PTQ or Distill."""
    where = cfg.slim_path or cfg.path
    if cfg.run.slim == "PTQ":
        raise UserError(f"{where}: slim: PTQ is for ppdet-repro quantize, after training")
    if cfg.run.slim in ("Distill", "DistillPrune"):
        raise UserError(f"{where}: slim: {cfg.run.slim} makes this the teacher's config; give it as --slim_config")


def load_trained(cfg: Config, offline: bool = False) -> Detector:
    """The model of a config with the weights that `weights` names (a path or URL), in evaluation mode.
    With `offline`, weights that are a URL are taken from the cache only. Raises UserError if the config names no
    weights, they cannot be found, or they belong to another model."""
    if not cfg.run.weights:
        raise UserError(f"{cfg.path}: no weights to load; give them with -o weights=PATH_OR_URL")
    check_describes_model(cfg)
    path = resolve(cfg.run.weights, offline)
    model = build_untrained(cfg, partial(take_channels, path=path) if cfg.run.quantized else None)
    load_exact(model, path)  # also gives the model the channels of a pruned file, unless its layers are quantized
    model.eval()
    return model


def with_teacher(student: Detector, teacher_cfg: Config, offline: bool = False) -> Distilled:
    """The student and a trained teacher, with the distillation losses of the teacher's config.

    The teacher is the model of a config with `slim: Distill`, and has its `pretrain_weights`. Raises UserError if the
    config has no `distill_loss` or no weights, or a loss does not fit the two detectors.
    """
    run = teacher_cfg.run
    if not run.distill_loss or not run.pretrain_weights:
        wanted = "a distill_loss, and the teacher's weights as pretrain_weights (-o teacher.pretrain_weights=PATH)"
        raise UserError(f"{teacher_cfg.path}: slim: Distill wants {wanted}")
    teacher: Detector = build_model(teacher_cfg)
    load_exact(teacher, resolve(run.pretrain_weights, offline))
    return distilled(student, teacher, teacher_cfg)


def distilled(student: Detector, teacher: Detector, teacher_cfg: Config) -> Distilled:
    """The two detectors with the losses that `distill_loss` names.

    Losses of feature maps are built once per pair of levels (see `level_pairs`), losses of outputs once. Raises
    UserError if a loss does not fit the two detectors.
    """
    run, where = teacher_cfg.run, teacher_cfg.path
    chosen = [run.distill_loss] if isinstance(run.distill_loss, str) else run.distill_loss or []
    if len(set(chosen)) < len(chosen):
        raise UserError(f"{where}: distill_loss names a loss twice: {', '.join(chosen)}")
    pairs = level_pairs(student.neck.out_shape, teacher.neck.out_shape)
    of_levels, of_passes = {}, {}
    for name in chosen:
        try:
            of_levels[name] = [
                build(
                    teacher_cfg,
                    name,
                    student_channels=student.neck.out_shape[pair.student].channels,
                    teacher_channels=teacher.neck.out_shape[pair.teacher].channels,
                )
                for pair in pairs
            ]
        except UnknownParameter:
            of_passes[name] = connected(build(teacher_cfg, name), student, teacher, teacher_cfg)
    names = level_names(run.distill_loss_name, pairs, list(of_levels), where)
    feature_losses = {label: loss for name in of_levels for label, loss in zip(names[name], of_levels[name])}
    levels = {label: pair for name in of_levels for label, pair in zip(names[name], pairs)}
    return Distilled(student, teacher, feature_losses, levels, of_passes)


def connected(loss: nn.Layer, student: Detector, teacher: Detector, teacher_cfg: Config) -> PassLoss:
    """A loss between the two detectors, ready for use. UserError: it is no distillation loss, or does not fit them."""
    where = f"{teacher_cfg.path}: distill_loss"
    if not isinstance(loss, PassLoss):
        known = ", ".join(DISTILLATION_LOSSES)
        raise UserError(f"{where}: {type(loss).__name__} is not a distillation loss; take one of {known}")
    try:
        loss.connect(student, teacher)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return loss


def level_names(
    given: Optional[List[str]], pairs: Sequence[LevelPair], losses: Sequence[str], where: Path
) -> Dict[str, List[str]]:
    """For each loss of feature maps, its names in the log and in the state dict, one per pair of levels.

    They are those of `distill_loss_name` or neck_f_0, ...; with several losses, the loss's own name comes first.
    """
    if given and not losses:
        raise UserError(f"{where}: distill_loss_name names feature maps, but no loss in distill_loss compares any")
    names = given or [f"neck_f_{pair.student}" for pair in pairs]
    if losses and len(set(names)) != len(pairs):
        different = f"has {len(set(names))} different names, but there are {len(pairs)} pairs of feature maps"
        raise UserError(f"{where}: distill_loss_name {different}")
    if len(losses) == 1:
        return {losses[0]: names}
    return {loss: [f"{loss}_{name}" for name in names] for loss in losses}
