"""PaddleSlim, which is imported here and only when a command needs it."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from ppdet_repro.utils.errors import UserError

INSTALL = "pip install 'ppdet-repro[slim]', then pip install --no-deps paddleslim==2.6.0 (`make` does both)"


def import_paddleslim() -> Any:
    """The package paddleslim. Raises UserError if it, or a package that it imports, is not installed.

    Its log lines below warnings, and the warnings of its import, are not shown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import paddleslim
    except ImportError as error:
        raise UserError(f"this needs PaddleSlim ({error}): {INSTALL}") from error
    for name in list(logging.Logger.manager.loggerDict):
        if name.split(".")[0] == "paddleslim":
            logging.getLogger(name).setLevel(logging.WARNING)
    return paddleslim
