"""A config's model, and with the weights that the config names."""
from __future__ import annotations

from paddle import nn

from ppdet_repro.core.config import Config, build, build_model
from ppdet_repro.engine.checkpoint import load_exact
from ppdet_repro.slim.qat import QAT
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import resolve


def build_network(cfg: Config) -> nn.Layer:
    """The config's model, which with `slim: QAT` computes as in int8."""
    model = build_model(cfg)
    if cfg.run.slim == "QAT":
        qat: QAT = build(cfg, "QAT")
        qat.quantise(model)
        if qat.print_model:
            get_logger().info(f"quantised:\n{model}")
    return model


def load_trained(cfg: Config, offline: bool = False) -> nn.Layer:
    """The model in eval mode with `weights` (a path or URL) loaded. `offline`: URLs from the cache only.

    UserError if the config names no weights, they cannot be had, or they are not this model's.
    """
    if not cfg.run.weights:
        raise UserError(f"{cfg.path}: no weights to load; give them with -o weights=PATH_OR_URL")
    model = build_network(cfg)
    load_exact(model, resolve(cfg.run.weights, offline))
    model.eval()
    return model
