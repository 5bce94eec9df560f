"""Load weight files into models, and copy weights out of them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.slim.prune_shapes import shrink_to, without_backups
from ppdet_repro.slim.qat import WRAPPED, plain_name
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state

NAMES_IN_MESSAGES = 4
# Entries that no inference needs: copies of a moving average, what converters and profilers count, and the classifier
# with which a backbone was trained
NOT_NEEDED = re.compile(
    r"(.*\.)?ema(_\w+)?\..*|.*[._]ema|(.*\.)?(num_batches_tracked|total_ops|total_params)|backbone\.(fc|last_conv)\..*"
)

Weights = Dict[str, np.ndarray]


class LoadReport(NamedTuple):
    """Which entries of a weight file were loaded into a model, and which were not."""

    loaded: List[str]  # in the model and in the file, with the same shape
    new: List[str]  # in the model only: these keep their initial values
    unused: List[str]  # in the file only
    reshaped: List[str]  # in both, with different shapes: not loaded; "name [file's shape] -> [model's shape]"

    def __str__(self) -> str:
        parts = ("new", self.new), ("unused", self.unused), ("reshaped and left new", self.reshaped)
        others = (f"{len(names)} {what}{_some(names)}" for what, names in parts)
        return ", ".join([f"{len(self.loaded)} loaded", *others])


def _some(names: List[str]) -> str:
    """The first names in parentheses, and how many others there are."""
    if not names:
        return ""
    more = f", and {len(names) - NAMES_IN_MESSAGES} more" if len(names) > NAMES_IN_MESSAGES else ""
    return f" ({', '.join(names[:NAMES_IN_MESSAGES])}{more})"


def load_exact(model: nn.Layer, path: Union[str, Path]) -> None:
    """Load a weight file whose names and shapes are exactly those of the model, for evaluation, export and resuming.

    If the file is of the same model, but pruned, the model gets the file's channels. Entries that the model does not
    need (see `split_unused`) are left out. A log line says so. Raises UserError if a name or a shape differs otherwise;
    the model is then unchanged.
    """
    state = without_backups(read_state(path))
    take_channels(model, path, state)
    report, values = _match(model, state, ("",))
    left_out, foreign = split_unused(model, report.unused)
    differences = (
        ("of the model's are not in the file", report.new),
        ("of the file's are not in the model", foreign),
        ("have another shape, file -> model", report.reshaped),
    )
    found = "; ".join(f"{len(names)} {what}{_some(names)}" for what, names in differences if names)
    if found:
        hint = "check num_classes and the config" if report.reshaped else "do they belong to another config?"
        if any(WRAPPED in name for name in report.unused):
            hint = "they are of quantization-aware training: give its --slim_config"
        raise UserError(f"{path}: these weights are not this model's: {found}; {hint}")
    if left_out:
        get_logger().info(
            f"{path}: {len(left_out)} entries that this model does not need are left out{_some(left_out)}"
        )
    _assign(model, values)


def split_unused(model: nn.Layer, names: Iterable[str]) -> Tuple[List[str], List[str]]:
    """Split names of a weight file that a model does not have: those that it does not need, and those of another model.

    Not needed are parts that the model does not have at all, such as a head that only training uses, and NOT_NEEDED.
    Others are more layers of a part that the model has: the file of a ResNet-101 also has all weights of a ResNet-50,
    which compute nothing useful without the others. PaddleDetection leaves out both kinds.
    """
    parts = {name.split(".")[0] for name in model.state_dict()}
    left_out: List[str] = []
    foreign: List[str] = []
    for name in names:
        needed = name.split(".")[0] in parts and not NOT_NEEDED.fullmatch(name)
        (foreign if needed else left_out).append(name)
    return left_out, foreign


def take_channels(model: nn.Layer, path: Union[str, Path], state: Optional[Weights] = None) -> None:
    """If a weight file is of this model, but pruned, give the model the channels of the file, and log that. The values
    are not loaded. `state` is the content of the file if it was read already."""
    state = read_state(path) if state is None else state
    found = shrink_to(model, {name: value.shape for name, value in state.items()})
    if found:
        get_logger().info(f"{path}: {found}")


def load_pretrained(model: nn.Layer, path: Union[str, Path]) -> LoadReport:
    """Load those entries of a weight file that fit the model, as a starting point for training.

    A file of a backbone alone has names without the prefix `backbone.`; they are found too. Entries with another
    shape, such as a head for another number of classes, are not loaded. If the file is of the same model, but pruned,
    the model gets the file's channels. A log line says what was loaded. Raises UserError if no entry of the file fits.
    """
    state = without_backups(read_state(path))
    take_channels(model, path, state)
    report, values = _match(model, state, ("", "backbone."))
    if not report.loaded:
        raise UserError(
            f"{path}: nothing in this file fits the model: it has{_some(report.unused) or ' no weights'}, "
            f"the model has{_some(report.new + report.reshaped)}"
        )
    _assign(model, values)
    get_logger().info(f"weights from {path}: {report}")
    return report


def _match(model: nn.Layer, state: Weights, prefixes: Tuple[str, ...]) -> Tuple[LoadReport, Weights]:
    """Find the file's entry for each name of the model.

    A name of the model is one of `prefixes` followed by the file's name. For a quantized layer, the file may also have
    the name that the weight had before quantization.
    """
    own = model.state_dict()
    values, new, reshaped, used = {}, [], [], set()
    for name, parameter in own.items():
        keys = [name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)]
        key = next((key for key in (*keys, *map(plain_name, keys)) if key in state), None)
        used.add(key)
        if key is None:
            new.append(name)
        elif list(state[key].shape) == parameter.shape:
            values[name] = state[key]
        else:
            reshaped.append(f"{name} {list(state[key].shape)} -> {parameter.shape}")
    return LoadReport(list(values), new, [key for key in state if key not in used], reshaped), values


def _assign(model: nn.Layer, values: Weights) -> None:
    own = model.state_dict()
    for name, value in values.items():
        own[name].set_value(paddle.to_tensor(value).astype(own[name].dtype))


def weights_of(model: nn.Layer) -> Weights:
    """A copy of the model's state dict as numpy arrays."""
    return {name: np.array(value.numpy()) for name, value in model.state_dict().items()}


@contextmanager
def weights_within(model: nn.Layer, weights: Weights) -> Iterator[None]:
    """Give the model these weights within the block, and its own afterwards."""
    own = weights_of(model)
    _assign(model, weights)
    try:
        yield
    finally:
        _assign(model, own)
