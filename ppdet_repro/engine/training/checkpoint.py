"""Checkpoints of a training run, and weights into models.

    output/NAME/checkpoints/epoch_0003/    a whole checkpoint: training goes on from it
        model.pdparams                     the weights to evaluate (the moving average where there is one)
        raw.pdparams                       with a moving average or a teacher: all weights in training
        ema.pdparams                       with a moving average: its sums
        optimizer.pdopt                    accumulators under the parameters' names
        state.json                         epoch, update, seed, best metric, loss scale
    output/NAME/best_model.pdparams        the weights of the best evaluation
    output/NAME/model_final.pdparams       the weights at the end

Each folder and file appears whole or not at all, so a run killed at any moment can be resumed.
Checkpoints are made between epochs. Random states are not in them: every epoch starts by seeding all
generators from (seed, epoch, rank), so a resumed epoch draws what it would have drawn.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.paddle_private.optimizer_state import optimizer_state, restore_optimizer
from ppdet_repro.slim.qat import plain_name
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file, atomic_folder
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state, save_state

MODEL, RAW, EMA, OPTIMIZER, STATE = ("model.pdparams", "raw.pdparams", "ema.pdparams", "optimizer.pdopt", "state.json")
BEST_MODEL, FINAL_MODEL = "best_model.pdparams", "model_final.pdparams"
FORMAT = 1
NAMES_IN_MESSAGES = 4

Weights = Dict[str, np.ndarray]


# Weights into models


class LoadReport(NamedTuple):
    """What became of the names of a model and of a weight file."""

    loaded: List[str]  # in the model
    new: List[str]  # in the model only
    unused: List[str]  # in the file only
    reshaped: List[str]  # in both, with different shapes: not loaded; "name [file's shape] -> [model's shape]"

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} loaded", f"{len(self.new)} new", f"{len(self.unused)} unused"]
        parts = [f"{part}{_some(names)}" for part, names in zip(parts, ([], self.new, self.unused))]
        return ", ".join([*parts, f"{len(self.reshaped)} reshaped and left new{_some(self.reshaped)}"])


def _some(names: List[str]) -> str:
    """The first names in brackets, with the number of the others."""
    if not names:
        return ""
    shown = ", ".join(names[:NAMES_IN_MESSAGES])
    return f" ({shown}, and {len(names) - NAMES_IN_MESSAGES} more)" if len(names) > NAMES_IN_MESSAGES else f" ({shown})"


def load_exact(model: nn.Layer, path: Union[str, Path]) -> None:
    """Load a weight file that is this model's, for evaluation, export and resuming.

    UserError: a name or a shape differs; the message lists both sides. The model is left as it was.
    """
    state = read_state(path)
    report, values = _match(model, state, ("",))
    if report.new or report.unused or report.reshaped:
        differences = [
            f"{what}{_some(names)}"
            for what, names in (
                (f"{len(report.new)} of the model's are not in the file", report.new),
                (f"{len(report.unused)} of the file's are not in the model", report.unused),
                (f"{len(report.reshaped)} have another shape, file -> model", report.reshaped),
            )
            if names
        ]
        hint = "; num_classes or the config may be another's" if report.reshaped else "; is the config another's?"
        raise UserError(f"{path}: these weights are not this model's: {'; '.join(differences)}{hint}")
    _assign(model, values)


def load_pretrained(model: nn.Layer, path: Union[str, Path]) -> LoadReport:
    """Load what fits of a weight file, for training to start from, and say in one line what did.

    A file of a backbone alone has names without `backbone.`; they are found. Weights of another shape (a head
    for other classes) stay new. UserError: nothing fits.
    """
    report, values = _match(model, read_state(path), ("", "backbone."))
    if not report.loaded:
        raise UserError(
            f"{path}: nothing in this file fits the model: it has{_some(report.unused) or ' no weights'}, "
            f"the model{_some(report.new + report.reshaped)}"
        )
    _assign(model, values)
    get_logger().info(f"weights from {path}: {report}")
    return report


def _match(model: nn.Layer, state: Weights, prefixes: Tuple[str, ...]) -> Tuple[LoadReport, Weights]:
    """Which entries of a file go where: a model's name is one of `prefixes` and the file's name; of a quantised layer
    the file's may be the name before it was quantised."""
    own = model.state_dict()
    values, reshaped, used = {}, [], set()
    for name, parameter in own.items():
        keys = [name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)]
        key = next((key for key in (*keys, *map(plain_name, keys)) if key in state), None)
        if key is None:
            continue
        used.add(key)
        shape = list(state[key].shape)
        if shape == parameter.shape:
            values[name] = state[key]
        else:
            reshaped.append(f"{name} {shape} -> {parameter.shape}")
    changed = {entry.split(" ")[0] for entry in reshaped}
    new = [name for name in own if name not in values and name not in changed]
    return LoadReport(list(values), new, [key for key in state if key not in used], reshaped), values


def _assign(model: nn.Layer, values: Weights) -> None:
    own = model.state_dict()
    for name, value in values.items():
        own[name].set_value(paddle.to_tensor(value).astype(own[name].dtype))


def weights_of(model: nn.Layer) -> Weights:
    """A copy of a model's weights as arrays."""
    return {name: np.array(value.numpy()) for name, value in model.state_dict().items()}


# Checkpoints


@dataclass
class TrainState:
    """What a run knows besides its tensors."""

    seed: int
    epoch: int = 0  # epochs done
    step: int = 0  # updates done
    metrics: Dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation
    best: Optional[float] = None  # metric of the best evaluation
    best_epoch: int = 0
    without_gain: int = 0  # evaluations since the best


class Training(NamedTuple):
    """The objects whose state a checkpoint holds."""

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    ema: Optional[ModelEMA]
    scaler: Optional[paddle.amp.GradScaler]


def checkpoints_folder(run_folder: Path) -> Path:
    """Where the checkpoints of a run are."""
    return run_folder / "checkpoints"


def list_checkpoints(run_folder: Path) -> List[Path]:
    """The checkpoints of a run, oldest epoch first."""
    found = (path for path in checkpoints_folder(run_folder).glob("epoch_*") if path.name[6:].isdigit())
    return sorted(found, key=lambda path: int(path.name[6:]))


def save_checkpoint(run_folder: Path, training: Training, state: TrainState, weights: Weights) -> Path:
    """Write the checkpoint of `state.epoch`; `weights` are those to evaluate. OSError: disk full, no
    permission.
    """
    path = checkpoints_folder(run_folder) / f"epoch_{state.epoch:04d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    content: Dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(state)}
    with atomic_folder(path) as folder:
        save_state(folder / MODEL, weights)
        save_state(folder / OPTIMIZER, optimizer_state(training.optimizer, training.model))
        learning = weights_of(training.model)
        if training.ema is not None or set(learning) != set(weights):
            save_state(folder / RAW, learning)
        if training.ema is not None:
            save_state(folder / EMA, training.ema.state())
            content["ema"] = {"step": training.ema.step, "cycle": training.ema.cycle}
        if training.scaler is not None:
            content["scaler"] = {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in training.scaler.state_dict().items()
            }
        with atomic_file(folder / STATE) as file:
            file.write(json.dumps(content, indent=1).encode())
    return path


def keep_newest(run_folder: Path, count: int, best_epoch: int) -> None:
    """Delete all checkpoints but the newest `count` and the best."""
    for path in list_checkpoints(run_folder)[:-count]:
        if path.name != f"epoch_{best_epoch:04d}":
            shutil.rmtree(path, ignore_errors=True)


def find_checkpoint(resume: str, run_folder: Path) -> Optional[Path]:
    """The checkpoint that `--resume` means: a folder, or with `auto` the newest of the run that can be read.

    None: `auto`, and the run has none. UserError: the folder is no checkpoint.
    """
    if resume != "auto":
        path = Path(resume).expanduser()
        if not (path / STATE).is_file():
            raise UserError(
                f"--resume {resume}: not a checkpoint (a folder with {STATE}); it wants one of "
                f"{checkpoints_folder(run_folder)}, or auto. To start from weights use "
                f"-o pretrain_weights={resume}"
            )
        return path
    for path in reversed(list_checkpoints(run_folder)):
        try:
            _read_json(path)
            for file in (*path.glob("*.pdparams"), path / OPTIMIZER):
                read_state(file)
        except UserError as error:
            get_logger().warning(f"passed over: {error}")
            continue
        return path
    return None


def epochs_done(path: Path) -> int:
    """How many epochs a checkpoint's run had done. UserError: it is damaged."""
    return int(_read_json(path).get("epoch", 0))


def restore_checkpoint(path: Path, training: Training) -> TrainState:
    """Put a checkpoint into a run that was built from the same config.

    UserError: it is damaged, or of another model, optimizer or setting.
    """
    content = _read_json(path)
    if ("ema" in content) != (training.ema is not None):
        had = "with" if "ema" in content else "without"
        raise UserError(f"{path}: this run was {had} use_ema, the config is not; change use_ema, or start afresh")
    try:
        load_exact(training.model, path / (RAW if (path / RAW).is_file() else MODEL))
        restore_optimizer(training.optimizer, training.model, read_state(path / OPTIMIZER))
        if training.ema is not None:
            training.ema.restore(read_state(path / EMA), **content["ema"])
        if training.scaler is not None and "scaler" in content:
            scaler: Mapping[str, Any] = content["scaler"]
            training.scaler.load_state_dict({**scaler, "scale": np.asarray(scaler["scale"], np.float32)})
        return TrainState(**{field.name: content[field.name] for field in dataclasses.fields(TrainState)})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot resume from this checkpoint: {error}") from error


def _read_json(path: Path) -> Dict[str, Any]:
    try:
        content = json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / STATE}: cannot read the checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path / STATE}: not a checkpoint of this version (format {FORMAT})")
    return content
