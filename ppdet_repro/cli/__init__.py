"""The command line: one module per command, each with `add_arguments(parser)` and `run(arguments)`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppdet_repro.core.config import Config


def read_config(arguments: Namespace, **values: object) -> Config:
    """The config that the flags -c, -o and --slim_config describe, with the values that other flags set.

    None, False and an empty text stand for a flag that is not given.
    """
    from ppdet_repro.core.config import load_config

    overrides = [f"{key}={value}" for key, value in values.items() if str(value) not in ("None", "False", "")]
    return load_config(arguments.config, [*arguments.opt, *overrides], getattr(arguments, "slim_config", None))
