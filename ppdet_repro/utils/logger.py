"""The logger of the package: one line per message, only warnings from all processes but the first."""

from __future__ import annotations

import logging
import os
import sys

from ppdet_repro.utils.printable import printable


class SafeFormatter(logging.Formatter):
    """Escapes what a name in a message could do to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def get_logger() -> logging.Logger:
    """The logger of the package. In processes of rank > 0 of a distributed run, it shows warnings only."""
    logger = logging.getLogger("ppdet_repro")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(SafeFormatter("[%(asctime)s] %(levelname)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        first = os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
        logger.setLevel(logging.INFO if first else logging.WARNING)
        logger.propagate = False
    return logger
