"""Which channels the model of a training run has: those of a checkpoint or of pretrained weights, or pruned ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Mapping, Optional

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.analysis.counting import TYPICAL_SIZES, input_size
from ppdet_repro.engine.model_weights import load_pretrained, take_channels
from ppdet_repro.engine.training.checkpoint import weights_file
from ppdet_repro.engine.training.loop import METRIC
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.slim.prune import Pruner
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError

Evaluate = Callable[[Detector], Mapping[str, float]]


def pruner_of(cfg: Config) -> Optional[Pruner]:
    """What prunes the model of a config before training, if anything does."""
    if cfg.run.slim == "PrunerQAT":
        return build(cfg, "PrunerQAT").pruner
    return build(cfg, "Pruner") if cfg.run.slim in ("Pruner", "Prune") else None


def starting_channels(
    cfg: Config, checkpoint: Optional[Path], offline: bool, evaluate: Optional[Evaluate], writes: bool
) -> Optional[Callable[[Detector], None]]:
    """What gives a new model its channels, before it is quantized; None if it keeps those of the config.

    Args:
        checkpoint: the checkpoint to resume, whose weights decide alone
        evaluate: the scores of a detector, if the run evaluates
        writes: whether this process writes the file of a sensitivity analysis
    """
    if checkpoint is not None:
        return partial(take_channels, path=weights_file(checkpoint))
    pruner = pruner_of(cfg)
    if pruner is not None:
        return partial(load_and_prune, cfg=cfg, pruner=pruner, offline=offline, evaluate=evaluate, writes=writes)
    if cfg.run.pretrain_weights:
        return partial(take_channels, path=resolve(cfg.run.pretrain_weights, offline))
    return None


def load_and_prune(
    detector: Detector, cfg: Config, pruner: Pruner, offline: bool, evaluate: Optional[Evaluate], writes: bool
) -> None:
    """Load the pretrained weights of a config into a model, and prune it. UserError: there are none."""
    if not cfg.run.pretrain_weights:
        where = cfg.slim_path or cfg.path
        raise UserError(f"{where}: pruning starts from trained weights; give them as pretrain_weights")
    load_pretrained(detector, resolve(cfg.run.pretrain_weights, offline))
    _, size = input_size(Preprocess(build(cfg, "EvalReader").preprocess), TYPICAL_SIZES[-1])
    pruner.prune(detector, size, None if evaluate is None else lambda: float(evaluate(detector)[METRIC]), writes)
