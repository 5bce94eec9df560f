"""Paddle's static graphs, for the tools that work on saved programs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Iterator

import paddle

TALKERS = ("paddle.static.quantization.post_training_quantization", "paddle.static.io")  # loggers


@contextmanager
def static_mode() -> Iterator[paddle.static.Executor]:
    """A CPU executor with a scope of its own; afterwards Paddle is in dygraph mode, and its tools speak as before."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in TALKERS}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    paddle.enable_static()
    try:
        with paddle.static.scope_guard(paddle.static.Scope()):
            yield paddle.static.Executor(paddle.CPUPlace())
    finally:
        paddle.disable_static()
        for logger, level in levels.items():
            logger.setLevel(level)
