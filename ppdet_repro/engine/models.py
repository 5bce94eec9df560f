"""Build the model of a config: with initial weights, with trained weights, or beside a teacher."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from paddle import nn

from ppdet_repro.core.config import Config, UnknownParameter, build, build_model
from ppdet_repro.engine.model_weights import load_exact
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.slim.distill import Distilled
from ppdet_repro.slim.qat import QAT
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import resolve


@contextmanager
def mode(model: nn.Layer, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode for the time of the block."""
    before = model.training
    (model.train if training else model.eval)()
    try:
        yield
    finally:
        (model.train if before else model.eval)()


def build_untrained(cfg: Config) -> Detector:
    """The model of a config with initial weights; with `slim: QAT` its layers compute as they will in int8. Raises
    UserError if `slim` is PTQ or Distill, which do not describe a model to train."""
    where = cfg.slim_path or cfg.path
    if cfg.run.slim == "PTQ":
        raise UserError(f"{where}: slim: PTQ is for ppdet-repro quantize, after training")
    if cfg.run.slim == "Distill":
        raise UserError(f"{where}: slim: Distill makes this the teacher's config; give it as --slim_config")
    model: Detector = build_model(cfg)
    if cfg.run.slim == "QAT":
        qat: QAT = build(cfg, "QAT")
        qat.quantize(model)
        if qat.print_model:
            get_logger().info(f"quantized:\n{model}")
    return model


def load_trained(cfg: Config, offline: bool = False) -> Detector:
    """The model of a config with the weights that `weights` names (a path or URL), in evaluation mode.
    With `offline`, weights that are a URL are taken from the cache only. Raises UserError if the config names no
    weights, they cannot be found, or they belong to another model."""
    if not cfg.run.weights:
        raise UserError(f"{cfg.path}: no weights to load; give them with -o weights=PATH_OR_URL")
    model = build_untrained(cfg)
    load_exact(model, resolve(cfg.run.weights, offline))
    model.eval()
    return model


def with_teacher(student: Detector, teacher_cfg: Config, offline: bool = False) -> Distilled:
    """The student and a trained teacher, with a distillation loss for each feature map of their necks.

    The teacher is the model of a config with `slim: Distill`, and has its `pretrain_weights`. Raises UserError if the
    config has no `distill_loss` or no weights, or the feature maps have different strides.
    """
    run, where = teacher_cfg.run, teacher_cfg.path
    if not run.distill_loss or not run.pretrain_weights:
        raise UserError(f"{where}: slim: Distill wants a distill_loss, and the teacher's weights as pretrain_weights")
    teacher: Detector = build_model(teacher_cfg)
    own, theirs = student.neck.out_shape, teacher.neck.out_shape
    if [shape.stride for shape in own] != [shape.stride for shape in theirs]:
        strides = " and ".join(str([shape.stride for shape in shapes]) for shapes in (own, theirs))
        raise UserError(f"{where}: the strides of the student's and the teacher's feature maps differ: {strides}")
    names = run.distill_loss_name or [f"neck_f_{level}" for level in range(len(own))]
    if len(set(names)) != len(own):
        different = f"has {len(set(names))} different names, but there are {len(own)} feature maps"
        raise UserError(f"{where}: distill_loss_name {different}")
    load_exact(teacher, resolve(run.pretrain_weights, offline))
    try:
        losses = {
            name: build(teacher_cfg, run.distill_loss, student_channels=a.channels, teacher_channels=b.channels)
            for name, a, b in zip(names, own, theirs)
        }
    except UnknownParameter as error:
        raise UserError(f"{where}: distill_loss: {error}; take CWDFeatureLoss or FGDFeatureLoss") from error
    return Distilled(student, teacher, losses)
