"""The folder of a training run, `save_dir`/NAME: what is written to it, and what happens to an earlier run in it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ppdet_repro.engine.analysis import run_page
from ppdet_repro.engine.analysis.report import EvaluationResult
from ppdet_repro.engine.analysis.run_page import RunPage
from ppdet_repro.engine.model_weights import Weights
from ppdet_repro.engine.training import checkpoint
from ppdet_repro.engine.training.checkpoint import Checkpointed, RunState, checkpoints_folder, list_checkpoints
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import remove_leftovers
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import save_state

LOG = "log.jsonl"
BEST_MODEL, FINAL_MODEL = "best_model.pdparams", "model_final.pdparams"
FILES = (LOG, BEST_MODEL, FINAL_MODEL, run_page.PAGE, run_page.CURVES, run_page.EVALUATION, "tensorboard")


def set_aside(folder: Path) -> None:
    """Move the files of an earlier run into the subfolder `previous`, so that no run resumes another one's."""
    if not list_checkpoints(folder):
        return
    previous = folder / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in (checkpoints_folder(folder), *(folder / name for name in FILES)):
        if path.exists():
            path.rename(previous / path.name)
    get_logger().warning(f"{folder} held an earlier run; it is now in {previous} (the one before it is deleted)")


def prepare(folder: Path) -> None:
    """Create the folder, and remove incomplete files of a run that was killed. UserError: it is not writable."""
    checkpoints = checkpoints_folder(folder)
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {checkpoints}: {error.strerror}; set save_dir") from error
    remove_leftovers(folder)
    remove_leftovers(checkpoints)


def save_snapshot(
    folder: Path, objects: Checkpointed, state: RunState, weights: Weights, checkpoints_kept: int
) -> None:
    """Write a checkpoint. A full disk is logged, not raised."""
    with full_disk_logged(folder, f"epoch {state.epoch}"):
        path = checkpoint.save_checkpoint(folder, objects, state, weights)
        checkpoint.keep_newest(folder, checkpoints_kept, state.best_epoch)
        get_logger().info(f"saved {path}")


def save_evaluation(folder: Path, state: RunState, weights: Weights, is_best: bool, checkpoints_kept: int) -> None:
    """Write the result of an evaluation into the epoch's checkpoint, and the weights as the best ones if they are. A
    full disk is logged, not raised."""
    with full_disk_logged(folder, f"the evaluation of epoch {state.epoch}"):
        if is_best:
            save_state(folder / BEST_MODEL, weights)
        checkpoint.update_state(folder, state)
        checkpoint.keep_newest(folder, checkpoints_kept, state.best_epoch)


@contextmanager
def full_disk_logged(folder: Path, what: str) -> Iterator[None]:
    """Log errors of writing `what`, such as a full disk, instead of raising them."""
    try:
        yield
    except OSError as error:
        get_logger().error(f"could not save {what} in {folder}: {error.strerror}; training continues, {newest(folder)}")


def save_final_weights(folder: Path, weights: Weights) -> Path:
    """Write the weights at the end of a run. UserError: they cannot be written."""
    path = folder / FINAL_MODEL
    try:
        save_state(path, weights)
    except OSError as error:
        what = f"{path}: cannot save the final weights: {error.strerror}; {newest(folder)}"
        raise UserError(f"{what}. Free some space, then use --resume auto") from error
    return path


def write_page(folder: Path, page: RunPage) -> None:
    """Write the page of a run and its curves. A failure is logged, not raised."""
    try:
        page.write(folder / LOG)
    except UserError as error:
        get_logger().error(f"the page of the run could not be written: {error}")


def save_details(folder: Path, result: EvaluationResult) -> None:
    """Write what the page of the run shows of an evaluation. A failure is logged, not raised."""
    try:
        run_page.save_last_evaluation(folder, result)
    except UserError as error:
        get_logger().error(f"the page of the run will lack the last evaluation: {error}")


def newest(folder: Path) -> str:
    """The newest checkpoint in words."""
    saved = list_checkpoints(folder)
    return f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
