"""Curves of a training run for programs that show them while it runs: VisualDL, TensorBoard and MLflow.

All of them get the same numbers with the same names: `train/lr`, the losses (`train/loss`, ...) and
`train/images_per_second` every `log_iter` updates, and the metrics of evaluations (`eval/bbox_mAP`, ...). The step is
the number of updates.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence

from ppdet_repro.utils.errors import UserError

EXPERIMENT = "ppdet-repro"  # MLflow's name for all runs together; MLFLOW_EXPERIMENT_NAME gives another one


class Loggers(NamedTuple):
    """Which programs a run writes curves for, and where to."""

    vdl_dir: Optional[str] = None  # folder for VisualDL; None: no curves for it
    names: Sequence[str] = ()  # of the others: "tensorboard", "mlflow"

    def open(self, folder: Path, done: int) -> List[Curves]:
        """Start writing. `folder` is that of the run, whose name MLflow shows; `done` updates were done before it was
        resumed. UserError: a program is not installed, or cannot write."""
        curves: List[Curves] = []
        if self.vdl_dir is not None:
            curves.append(Scalars(open_visualdl(self.vdl_dir)))
        if "tensorboard" in self.names:
            curves.append(Scalars(open_tensorboard(folder / "tensorboard", done)))
        if "mlflow" in self.names:
            curves.append(MlflowRun(folder, done))
        return curves


class Curves(Protocol):
    """What receives the numbers of a run. Both methods raise OSError if they cannot be written."""

    def add(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Scalars:
    """Curves of a writer that has the methods `add_scalar` and `close`: VisualDL's and TensorBoard's."""

    def __init__(self, writer: Any):
        self.writer = writer

    def add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MlflowRun:
    """A run of MLflow with the name of the run's folder, where MLFLOW_TRACKING_URI says: a server, or a local file.

    A resumed run continues the newest run of MLflow that has the same folder.
    """

    def __init__(self, folder: Path, done: int):
        try:
            import mlflow
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise missing("mlflow", "MLflow", "mlflow", "mlflow") from error
        self.failures = MlflowException
        try:
            self.client = mlflow.MlflowClient()
            self.run_id = self._find(folder, done)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"logger: MLflow cannot write to {mlflow.get_tracking_uri()}: {reason}") from error

    def _find(self, folder: Path, done: int) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        tags: Dict[str, Any] = {"folder": str(folder.resolve())}
        for run in self.client.search_runs([experiment]) if done else ():  # newest first
            if run.data.tags.get("folder") == tags["folder"]:
                self.client.update_run(run.info.run_id, status="RUNNING")
                return run.info.run_id
        return self.client.create_run(experiment, tags=tags, run_name=folder.name).info.run_id

    def add(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        try:
            self.client.log_batch(self.run_id, [Metric(name, value, now, step) for name, value in values.items()])
        except self.failures as error:
            raise OSError(str(error).splitlines()[0]) from error

    def close(self) -> None:
        with suppress(self.failures):  # the run stays marked as running
            self.client.set_terminated(self.run_id)


def open_tensorboard(folder: Path, done: int) -> Any:
    """A writer for TensorBoard, which hides what an earlier writer wrote after update `done`. UserError: its package is
    not installed, or the folder cannot be written."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise missing("tensorboard", "tensorboardX", "tensorboardX", "tensorboard") from error
    try:
        return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
    except OSError as error:
        raise UserError(f"logger: cannot write to {folder}: {error.strerror}") from error


def missing(name: str, program: str, package: str, extra: str) -> UserError:
    """The error for a package that is not installed."""
    return UserError(f"logger: {name} needs {program}: pip install {package}, or the extra ppdet-repro[{extra}]")


def open_visualdl(folder: str) -> Any:
    """A writer for VisualDL. UserError: VisualDL is not installed."""
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise UserError("--use_vdl needs VisualDL: pip install visualdl") from error
    return LogWriter(folder)
