"""The command line: one module per command, each with `add_arguments(parser)` and `run(arguments)`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Sequence

if TYPE_CHECKING:
    from ppdet_repro.core.config import Config


def read_config(arguments: Namespace, overrides: Sequence[str] = ()) -> Config:
    """The config that the flags -c, -o and --slim_config describe; `overrides` are those of other flags."""
    from ppdet_repro.core.config import load_config

    return load_config(arguments.config, [*arguments.opt, *overrides], getattr(arguments, "slim_config", None))
