"""Which engine runs a model."""

from __future__ import annotations

from argparse import Namespace

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.model_folder import ModelFolder
from ppdet_repro.runtime.pipeline import Engine, Pipeline


def open_pipeline(model: ModelFolder, flags: Namespace) -> Pipeline:
    """The model's preprocessing, and the engine that the flags ask for. UserError if it cannot run here."""
    preprocess = from_list(model.preprocess, f"{model.program.parent}/infer_cfg.yml")
    return Pipeline(preprocess, open_engine(model, flags))


def open_engine(model: ModelFolder, flags: Namespace) -> Engine:
    """The engine; its runtime is imported here and not before, so that a wrong flag is answered at once."""
    if getattr(flags, "engine", "paddle") != "paddle":
        from ppdet_repro.runtime.network_engine import NetworkEngine

        return NetworkEngine(model, flags.engine, flags.cpu_threads)
    from ppdet_repro.runtime.paddle_engine import EngineOptions, PaddleEngine

    options = {name: getattr(flags, name) for name in EngineOptions._fields if hasattr(flags, name)}
    return PaddleEngine(model, EngineOptions(**options))
