"""Paddle's static graph mode, for tools that work on saved programs."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Iterator

import paddle

from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing

VERBOSE_LOGGERS = ("paddle.static.quantization.post_training_quantization", "paddle.static.io")


@contextmanager
def static_mode() -> Iterator[paddle.static.Executor]:
    """Run the block in static graph mode on programs of Paddle 2, with a new scope; yields a CPU executor.

    Paddle's tools only log errors within the block. Afterwards Paddle is in dynamic graph mode.
    """
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in VERBOSE_LOGGERS}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with protobuf_tracing():
            paddle.enable_static()
            with paddle.static.scope_guard(paddle.static.Scope()):
                yield paddle.static.Executor(paddle.CPUPlace())
    finally:
        paddle.disable_static()
        for logger, level in levels.items():
            logger.setLevel(level)
