"""Checkpoints of a training run.

    output/NAME/checkpoints/epoch_0003/    one checkpoint
        model.pdparams                     the weights to evaluate: the moving average if there is one
        raw.pdparams                       with a moving average or a teacher: the weights being trained
        ema.pdparams                       with a moving average: its sums
        optimizer.pdopt                    the optimizer's accumulators, under the names of the parameters
        state.json                         epoch, update, seed, best metric, loss scale
    output/NAME/best_model.pdparams        the weights of the best evaluation
    output/NAME/model_final.pdparams       the weights at the end

Each folder and file is written completely or not at all, so a run that is killed at any moment can be resumed.
Training can also be resumed from PaddleDetection's checkpoints, see `paddledet_checkpoint`: their path is that of a
`.pdparams` file, not a folder.

Checkpoints are saved between epochs. They contain no random states: every epoch starts by seeding all random
generators from (seed, epoch, rank), so a resumed epoch draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import reprlib
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.engine.model_weights import Weights, load_exact, weights_of
from ppdet_repro.engine.training import paddledet_checkpoint
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.paddle_private.optimizer_state import optimizer_state, restore_optimizer
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file, atomic_folder, user_path
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state, save_state

MODEL, RAW, EMA, OPTIMIZER, STATE = ("model.pdparams", "raw.pdparams", "ema.pdparams", "optimizer.pdopt", "state.json")
FORMAT = 1
MAX_STATE_BYTES = 1 << 20
NAME = re.compile("epoch_[0-9]+")
COUNTS = ("seed", "epoch", "epochs", "step", "best_epoch", "without_gain")  # in state.json: whole numbers, not negative


@dataclass
class RunState:
    """How far a run is and what its evaluations found; `state.json` has these fields."""

    seed: int
    epoch: int = 0  # epochs done
    step: int = 0  # updates done
    metrics: Dict[str, float] = dataclasses.field(default_factory=dict)  # of the last evaluation
    best: Optional[float] = None  # metric of the best evaluation
    best_epoch: int = 0
    without_gain: int = 0  # evaluations since the best
    evaluated: bool = True  # false: the evaluation of this epoch has not ended
    epochs: int = 0  # of the whole run; 0 in older checkpoints
    rate: Optional[float] = None  # learning rate of the next update; None in older checkpoints


class Checkpointed(NamedTuple):
    """The objects whose states a checkpoint contains."""

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    ema: Optional[ModelEMA]
    scaler: Optional[paddle.amp.GradScaler]


def checkpoints_folder(run_folder: Path) -> Path:
    """The folder that contains the checkpoints of a run."""
    return run_folder / "checkpoints"


def list_checkpoints(run_folder: Path) -> List[Path]:
    """The checkpoints of a run, oldest epoch first."""
    found = (path for path in checkpoints_folder(run_folder).glob("epoch_*") if NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.name[6:]))


def save_checkpoint(run_folder: Path, objects: Checkpointed, state: RunState, weights: Weights) -> Path:
    """Write the checkpoint of epoch `state.epoch` and return its folder; `weights` are those to evaluate."""
    path = _folder(run_folder, state.epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    content: Dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(state)}
    with atomic_folder(path) as folder:
        save_state(folder / MODEL, weights)
        save_state(folder / OPTIMIZER, optimizer_state(objects.optimizer, objects.model))
        trained = weights_of(objects.model)
        if objects.ema is not None or set(trained) != set(weights):
            save_state(folder / RAW, trained)
        if objects.ema is not None:
            save_state(folder / EMA, objects.ema.state())
            content["ema"] = {"step": objects.ema.step, "cycle": objects.ema.cycle}
        if objects.scaler is not None:
            content["scaler"] = {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in objects.scaler.state_dict().items()
            }
        with atomic_file(folder / STATE) as file:
            file.write(json.dumps(content, indent=1).encode())
    return path


def update_state(run_folder: Path, state: RunState) -> None:
    """Write what the evaluation of epoch `state.epoch` found into its checkpoint, if that was saved."""
    path = _folder(run_folder, state.epoch)
    if (path / STATE).is_file():
        with atomic_file(path / STATE) as file:
            file.write(json.dumps({**_read_json(path), **dataclasses.asdict(state)}, indent=1).encode())


def keep_newest(run_folder: Path, count: int, best_epoch: int) -> None:
    """Delete all checkpoints except the newest `count` and the one of the best epoch."""
    for path in list_checkpoints(run_folder)[:-count]:
        if path != _folder(run_folder, best_epoch):
            shutil.rmtree(path, ignore_errors=True)


def _folder(run_folder: Path, epoch: int) -> Path:
    return checkpoints_folder(run_folder) / f"epoch_{epoch:04d}"


def find_checkpoint(resume: str, run_folder: Path) -> Optional[Path]:
    """The checkpoint that `--resume` refers to: this folder, the `.pdparams` file of PaddleDetection's checkpoint, or
    for `auto` the newest readable folder of the run, if any. Raises UserError if `resume` names no checkpoint."""
    if resume != "auto":
        path = user_path(resume)
        found = path if os.path.isfile(path / STATE) else paddledet_checkpoint.find(path)
        if found is None:
            raise UserError(
                f"--resume {resume}: not a checkpoint (a folder with {STATE}, or PaddleDetection's .pdparams with a "
                f".pdopt beside it); give a folder inside {checkpoints_folder(run_folder)}, or auto. To start from "
                f"weights use -o pretrain_weights={resume}"
            )
        return found
    for path in reversed(list_checkpoints(run_folder)):
        try:
            _read_json(path)
            for file in (*path.glob("*.pdparams"), path / OPTIMIZER):
                read_state(file)
            return path
        except UserError as error:
            get_logger().warning(f"skipped an unreadable checkpoint: {error}")
    return None


def is_paddledet(path: Path) -> bool:
    """Whether this is a checkpoint of PaddleDetection: a file, not a folder."""
    return path.suffix == paddledet_checkpoint.WEIGHTS and not path.is_dir()


def weights_file(path: Path) -> Path:
    """The file of a checkpoint with the weights to evaluate."""
    return path if is_paddledet(path) else path / MODEL


def epochs_done(path: Path) -> int:
    """The number of epochs that the run of a checkpoint had done. UserError: it is damaged."""
    with _unfit(path):
        return paddledet_checkpoint.progress(path)[0] if is_paddledet(path) else _read_json(path)["epoch"]


def restore_checkpoint(path: Path, objects: Checkpointed, seed: int = 0) -> RunState:
    """Load a checkpoint into the objects of a run that was built from the same config. `seed` is for a checkpoint that
    has none, PaddleDetection's.
    Raises UserError if the checkpoint is damaged, or belongs to another model, optimizer or `use_ema`."""
    model, optimizer, ema, scaler = objects
    if is_paddledet(path):
        if ema is None and paddledet_checkpoint.has_average(path):
            raise _other_use_ema(path, "with")
        with _unfit(path):
            epoch, step = paddledet_checkpoint.restore(path, model, optimizer, ema)
            return RunState(seed=seed, epoch=epoch, step=step)
    content = _read_json(path)
    if ("ema" in content) != (ema is not None):
        raise _other_use_ema(path, "with" if "ema" in content else "without")
    with _unfit(path):
        load_exact(model, path / (RAW if (path / RAW).is_file() else MODEL))
        restore_optimizer(optimizer, model, read_state(path / OPTIMIZER))
        if ema is not None:
            ema.restore(read_state(path / EMA), **content["ema"])
        if scaler is not None and "scaler" in content:
            saved: Mapping[str, Any] = content["scaler"]
            scaler.load_state_dict({**saved, "scale": np.asarray(saved["scale"], np.float32)})
        return RunState(**{name: content[name] for name in RunState.__dataclass_fields__})


def _other_use_ema(path: Path, had: str) -> UserError:
    return UserError(
        f"{path}: this run was trained {had} use_ema, and the config says otherwise; change use_ema, or start a new run"
    )


@contextmanager
def _unfit(path: Path) -> Iterator[None]:
    """Make a UserError of what is raised when a checkpoint does not fit the objects of a run."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AssertionError) as error:  # AssertionError: Paddle, about another shape
        raise UserError(f"{path}: cannot resume from this checkpoint: {error}") from error


def _read_json(path: Path) -> Dict[str, Any]:
    """The content of a checkpoint's state.json, whose entries have the types that `save_checkpoint` gives them."""
    file = path / STATE
    try:
        if not file.is_file() or file.stat().st_size > MAX_STATE_BYTES:
            raise UserError(f"{file}: cannot read the checkpoint: not a file of at most {MAX_STATE_BYTES:,} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot read the checkpoint: {error}") from error
    except RecursionError:
        raise UserError(f"{file}: cannot read the checkpoint: lists and objects are nested too deeply") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{file}: not a checkpoint of this version (format {FORMAT})")
    content.setdefault("evaluated", True)  # older checkpoints were saved after their evaluation
    content = {"epochs": 0, "rate": None, **content}
    for wrong in _wrong_entries(content):
        raise UserError(f"{file}: {wrong}; resume from another checkpoint")
    return content


def _wrong_entries(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the entries of a state.json."""
    counts = {key: content.get(key) for key in COUNTS}
    if "ema" in content:
        ema = content["ema"] if isinstance(content["ema"], dict) else {}
        counts.update({f"ema.{key}": ema.get(key) for key in ("step", "cycle")})
    for key, value in counts.items():
        if type(value) is not int or not 0 <= value < 1 << 63:
            yield f"{key!r} must be a whole number, got {reprlib.repr(value)}"
    numbers = {"metrics": content.get("metrics"), "scaler": content.get("scaler", {})}
    for key, entries in numbers.items():
        if not isinstance(entries, dict):
            yield f"{key!r} must be an object of numbers, got {reprlib.repr(entries)}"
            continue
        for name, value in entries.items():
            items = value if isinstance(value, list) and key == "scaler" else [value]
            if not all(isinstance(item, (int, float)) for item in items):
                yield f"{key}.{name} must be a number, got {reprlib.repr(value)}"
    if type(content["evaluated"]) is not bool:
        yield f"'evaluated' must be true or false, got {reprlib.repr(content['evaluated'])}"
    for key in ("best", "rate"):
        if not isinstance(content.get(key), (int, float, type(None))):
            yield f"{key!r} must be a number or null, got {reprlib.repr(content[key])}"
