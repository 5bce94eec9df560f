"""Configs in PaddleDetection's YAML dialect: read, checked and built. This package does not import Paddle."""

from ppdet_repro.core.config.builder import Config, UnknownParameter, build, build_model, load_config
from ppdet_repro.core.config.printing import show
from ppdet_repro.core.config.run import ExportSettings, RunSettings

__all__ = ["Config", "ExportSettings", "RunSettings", "UnknownParameter", "build", "build_model", "load_config", "show"]
