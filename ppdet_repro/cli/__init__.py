"""The command line: one module per command, each with `add_arguments(parser)` and `run(arguments)`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, List

if TYPE_CHECKING:
    from ppdet_repro.core.config import Config


def read_config(arguments: Namespace, **values: object) -> Config:
    """The config that the flags -c, -o and --slim_config describe, with the values that other flags set."""
    from ppdet_repro.core.config import load_config

    return load_config(arguments.config, overrides_of(arguments, **values), getattr(arguments, "slim_config", None))


def overrides_of(arguments: Namespace, **values: object) -> List[str]:
    """The values of -o, followed by those that other flags set; None, False and "" stand for a flag not given."""
    given = [f"{key}={value}" for key, value in values.items() if str(value) not in ("None", "False", "")]
    return [*arguments.opt, *given]
