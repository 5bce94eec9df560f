"""Checkpoints that PaddleDetection's training has written.

    out/0.pdparams    the weights to evaluate, the moving average if there is one; and the names of their variables
    out/0.pdema       with use_ema: the weights being trained
    out/0.pdopt       the optimizer's accumulators under the names of the variables; epochs and updates done

A variable is what Paddle calls a weight, such as `conv2d_7.w_0`. The numbers in these names depend on the order in
which a program builds its layers, so they are translated with the table in `0.pdparams`, which has the names of the
state dict. With mixed precision of level O2, `0.pdopt` also has the weights in float32 ("master weights").
Source: PaddleDetection's ppdet/utils/checkpoint.py.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.engine.model_weights import load_exact
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.paddle_private.optimizer_state import restore_optimizer
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import NAME_TABLE, named_arrays, read_entries

WEIGHTS, RAW, OPTIMIZER = ".pdparams", ".pdema", ".pdopt"
EPOCH, SCHEDULE, MASTER_WEIGHTS = "last_epoch", "LR_Scheduler", "master_weights"
MASTER_SUFFIX = re.compile(r"(?:_fp32_master_\d+)?_(.+)_\d+")  # what follows a variable's name in an accumulator's
LONGEST = 12  # more than the words in such a suffix


def find(path: Path) -> Optional[Path]:
    """The `.pdparams` file of a checkpoint that the user names with or without suffix; None if there is no file of
    weights with an optimizer's file beside it."""
    prefix = path.with_suffix("") if path.suffix in (WEIGHTS, RAW, OPTIMIZER) else path
    file = prefix.with_name(prefix.name + WEIGHTS)
    return file if os.path.isfile(file) and os.path.isfile(file.with_suffix(OPTIMIZER)) else None


def has_average(path: Path) -> bool:
    """Whether the run of a checkpoint had a moving average."""
    return path.with_suffix(RAW).is_file()


def progress(path: Path) -> Tuple[int, int]:
    """The epochs and updates that the run of a checkpoint had done. UserError: the file cannot be read; ValueError: it
    does not say."""
    return _progress(read_entries(path.with_suffix(OPTIMIZER), (EPOCH, SCHEDULE, MASTER_WEIGHTS))[1])


def restore(
    path: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, ema: Optional[ModelEMA]
) -> Tuple[int, int]:
    """Load a checkpoint into a newly built model, optimizer and average. Returns the epochs and updates done.

    Without a `.pdema` file the average starts anew. Raises UserError if a file cannot be read, or the weights are not
    the model's; ValueError, TypeError or KeyError if the other files do not fit.
    """
    accumulators, others = read_entries(path.with_suffix(OPTIMIZER), (EPOCH, SCHEDULE, MASTER_WEIGHTS))
    epoch, step = _progress(others)
    weights, tables = read_entries(path, (NAME_TABLE,))
    names = _names_of_variables(tables.get(NAME_TABLE))
    load_exact(model, path.with_suffix(RAW) if has_average(path) else path)
    own = model.state_dict()
    for variable, value in named_arrays(others.get(MASTER_WEIGHTS, {})).items():
        own[names[variable]].set_value(value)
    restore_optimizer(optimizer, model, by_parameter(accumulators, names, dict(model.named_parameters())))
    if ema is not None and has_average(path):
        ema.restore_applied(weights, step)
    elif ema is not None:
        get_logger().info(f"{path}: no {path.stem}{RAW} is beside it, so the moving average starts anew")
    return epoch, step


def by_parameter(
    accumulators: Mapping[str, np.ndarray], names: Mapping[str, str], parameters: Iterable[str]
) -> Dict[str, np.ndarray]:
    """An optimizer's accumulators under the names that `restore_optimizer` takes: `conv2d_7.w_0_velocity_0` becomes
    `neck.conv.weight|velocity`.

    `names` has the name of each variable in the state dict. Accumulators of other weights than `parameters` are left
    out. ValueError: the name of an accumulator is not that of a variable with a suffix.
    """
    wanted, found = set(parameters), {}
    for key, value in accumulators.items():
        words = key.rsplit("_", LONGEST)
        cuts = ("_".join(words[:i]) for i in range(len(words) - 1, 0, -1))
        variable = next((cut for cut in cuts if cut in names), "")
        suffix = MASTER_SUFFIX.fullmatch(key, len(variable))
        if not variable or suffix is None:
            raise ValueError(f"the optimizer's {key[:80]!r} does not belong to a variable of the weights")
        if names[variable] in wanted:
            found[f"{names[variable]}|{suffix[1]}"] = value
    return found


def _progress(entries: Mapping[str, Any]) -> Tuple[int, int]:
    schedule = entries.get(SCHEDULE)
    counts = entries.get(EPOCH), schedule.get(EPOCH) if isinstance(schedule, dict) else None
    for count, what in zip(counts, (EPOCH, f"{SCHEDULE}.{EPOCH}")):
        if type(count) is not int or not 0 <= count < 1 << 63:
            raise ValueError(f"{OPTIMIZER} file: {what} must be a whole number")
    return counts  # type: ignore[return-value]


def _names_of_variables(table: Any) -> Dict[str, str]:
    """The name in the state dict of each variable, from Paddle's table of the opposite direction."""
    if not isinstance(table, dict) or not all(isinstance(name, str) for pair in table.items() for name in pair):
        raise ValueError(
            f"{WEIGHTS} file: Paddle's table of the variables' names is missing, so the optimizer's "
            "state cannot be assigned to the weights"
        )
    return {variable: name for name, variable in table.items()}
