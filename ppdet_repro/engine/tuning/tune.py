"""A tuner: trainings of a config with values from a space, which Optuna chooses, and the best of them.

All that is known is in the folder of the study: `study.db`, and a folder for each trial, which is that of a run. If
the program ends at any moment, the same command goes on: the trial that was interrupted is resumed from its newest
checkpoint.
"""

from __future__ import annotations

import gc
import json
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from filelock import FileLock, Timeout
from paddle import nn

from ppdet_repro.core.config import Config, load_config
from ppdet_repro.core.config.printing import entry
from ppdet_repro.data.source.base import Source
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.checkpoint import checkpoints_folder
from ppdet_repro.engine.training.loop import METRIC
from ppdet_repro.engine.training.train import train
from ppdet_repro.engine.tuning.space import Space, overrides_of, own_values, read_space
from ppdet_repro.utils.curves import Entry, read_log
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.table import text_table

DATABASE = "study.db"
STARTUP = 3  # trials that are done before others are pruned
TRIES = 3  # starts of a trial: after so many interruptions it is left out


class Pruned(Exception):
    """An evaluation of a trial is worse than those of most others at the same epoch."""


class Task(NamedTuple):
    """What is tuned: the config as `load_config` takes it, and where."""

    config: str
    overrides: Sequence[str]
    slim_config: Optional[str]
    folder: Path
    offline: bool = False

    def load(self, more: Sequence[str] = ()) -> Config:
        return load_config(self.config, [*self.overrides, *more], self.slim_config)


def tune(task: Task, space_file: Path, trials: int, seed: int = 0) -> Any:
    """Train until the study has `trials` trials, and return it, a `Study` of Optuna. A trial is done, pruned or failed.

    UserError: Optuna is missing, the space or the config is wrong, the folder has another study or another process
    works in it, or no trial was done.
    """
    optuna = import_optuna()
    cfg, space = task.load(), read_space(space_file, task.load)
    with alone(task.folder):
        study = open_study(optuna, task.folder, facts_of(cfg, space))
        if not study.trials:
            own = own_values(cfg, space)
            if own is not None:
                study.enqueue_trial(own)
        enqueue_interrupted(optuna, study)
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        while len(ended(study)) < trials:
            one_trial(study, task, space, trials)
            clean_up(study, task.folder)
            gc.collect()
        if best_of(study) is None:
            reason = ended(study)[-1].user_attrs.get("error", "all were pruned") if ended(study) else "none was started"
            raise UserError(f"{task.folder}: no trial was done: {reason}")
    return study


def import_optuna() -> Any:
    """The package. UserError: it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("tune needs Optuna: pip install optuna, or the extra ppdet-repro[tune]") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process that tunes in a folder. UserError: there is another."""
    lock = FileLock(str(folder / "study.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another process tunes there; wait for it, or give another --output_dir") from error
    try:
        yield
    finally:
        lock.release()


def facts_of(cfg: Config, space: Space) -> Dict[str, Any]:
    """What all trials of a study have in common: the space, and the values of the config but for defaults, of which a
    later version has more, and its folder."""
    lines = [line for name, setting in cfg.tree().items() for line in entry(f"{name}:", setting, "")]
    config = [line.text for line in lines if line.origin != "default" and not line.text.startswith("save_dir:")]
    return {"config": config, "space": {key: repr(values) for key, values in space.items()}}


def open_study(optuna: Any, folder: Path, facts: Dict[str, Any]) -> Any:
    """The study of a folder, or a new one. UserError: it is of another config or space, or damaged."""
    from sqlalchemy.exc import SQLAlchemyError

    path = folder.resolve() / DATABASE
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name="tune",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
            load_if_exists=True,
        )
        before = json.loads(study.user_attrs.get("facts", "null"))
        if before is None:
            study.set_user_attr("facts", json.dumps(facts))
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a study that can be read: {str(error).splitlines()[0]}") from error
    for name in facts if before is not None else ():
        if before[name] != facts[name]:
            raise UserError(f"{folder} has a study of another {name}: give another --output_dir for a new one")
    return study


def enqueue_interrupted(optuna: Any, study: Any) -> None:
    """Close the trials whose process was ended, and queue new ones that resume them."""
    states = optuna.trial.TrialState
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        tries = trial.user_attrs.get("tries", 1)
        name = trial.user_attrs.get("folder", folder_name(trial.number))
        if tries < TRIES:
            study.enqueue_trial(trial.params, user_attrs={"folder": name, "tries": tries + 1})
        else:
            get_logger().warning(f"{name} was interrupted {tries} times: it is left out")


def folder_name(number: int) -> str:
    return f"trial_{number:04d}"


def one_trial(study: Any, task: Task, space: Space, trials: int) -> None:
    """Train with values that the study chooses, and tell it how that ended."""
    from optuna.trial import TrialState

    trial = study.ask()
    params = {key: values.suggest(trial, key) for key, values in space.items()}
    resumed = "folder" in trial.user_attrs
    name = trial.user_attrs.get("folder", folder_name(trial.number))
    trial.set_user_attr("folder", name)
    values = overrides_of(params)
    get_logger().info(f"{name}, {len(ended(study)) + 1} of {trials}: {' '.join(values)}")
    try:
        cfg = task.load([*values, f"save_dir={task.folder}", f"filename={name}"])
        log = task.folder / name / run_folder.LOG
        for evaluation in evaluations_of(log) if resumed else ():
            trial.report(evaluation[METRIC], evaluation["epoch"])

        def judged(model: nn.Layer, config: Config, dataset: Source) -> Dict[str, float]:
            metrics = evaluate(model, config, dataset)
            trial.report(metrics[METRIC], read_log(log)["train"][-1]["epoch"])
            if trial.should_prune():
                raise Pruned
            return metrics

        state = train(cfg, resume="auto" if resumed else None, evaluate=True, offline=task.offline, evaluation=judged)
        if state.best is None:
            raise UserError(f"there is no {METRIC}; tune needs epoch above 0 and an evaluation with scores")
    except Pruned:
        study.tell(trial, state=TrialState.PRUNED)
        get_logger().info(f"{name}: pruned")
    except UserError as error:
        trial.set_user_attr("error", str(error).splitlines()[0][:300])
        study.tell(trial, state=TrialState.FAIL)
        get_logger().error(f"{name} failed: {error}")
    else:
        study.tell(trial, state.best)
        get_logger().info(f"{name}: {METRIC} {state.best:.4f}")


def evaluations_of(log: Path) -> List[Entry]:
    """The evaluations in the log of a run that was interrupted; none if it has no log, or one that ends in a line."""
    with suppress(UserError):
        return [found for found in read_log(log)["eval"] if METRIC in found]
    return []


def ended(study: Any) -> List[Any]:
    """The trials of a study that count: done, pruned or failed, but not those that were interrupted."""
    names = ("COMPLETE", "PRUNED")
    return [trial for trial in study.trials if trial.state.name in names or "error" in trial.user_attrs]


def best_of(study: Any) -> Optional[Any]:
    """The trial with the best score of those that are done."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    return max(done, key=lambda trial: trial.value, default=None)


def clean_up(study: Any, folder: Path) -> None:
    """Delete the checkpoints of trials that ended, and all of their weights but those of the best trial."""
    best = best_of(study)
    for trial in ended(study):
        run = folder / trial.user_attrs["folder"]
        shutil.rmtree(checkpoints_folder(run), ignore_errors=True)
        if best is None or trial.number != best.number:
            for name in (run_folder.BEST_MODEL, run_folder.FINAL_MODEL):
                (run / name).unlink(missing_ok=True)


def report(study: Any, task: Task) -> str:
    """A table of all trials, the best first, and the values of the best one for `-o`."""
    keys = list(dict.fromkeys(key for trial in ended(study) for key in trial.params))
    rows = []
    for trial in ended(study):
        scores = trial.intermediate_values
        epoch = max(scores, key=lambda step: scores[step], default=None)
        score = None if epoch is None else scores[epoch]
        error = trial.user_attrs.get("error")
        state = "done" if trial.state.name == "COMPLETE" else "pruned" if error is None else f"failed: {error[:60]}"
        texts = [override_text(trial, key) for key in keys]
        rows.append((score, [trial.user_attrs["folder"], score, epoch, *texts, state]))
    rows.sort(key=lambda row: -1.0 if row[0] is None else row[0], reverse=True)
    table = text_table(["trial", METRIC, "epoch", *keys, ""], [row for _, row in rows])
    best = best_of(study)
    assert best is not None  # else `tune` raises
    values = " ".join(overrides_of(best.params))
    weights = task.folder / best.user_attrs["folder"] / run_folder.BEST_MODEL
    return f"{table}\n\nbest: {best.user_attrs['folder']}, {METRIC} {best.value:.4f}, {weights}\n-o {values}"


def override_text(trial: Any, key: str) -> Optional[str]:
    """The value of a trial as `-o` gets it."""
    return overrides_of({key: trial.params[key]})[0].partition("=")[2] if key in trial.params else None
