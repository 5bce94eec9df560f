"""Curves for VisualDL, TensorBoard and MLflow: the same numbers with the same names."""

from __future__ import annotations

import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.training.curves import Loggers
from ppdet_repro.engine.training.progress import TrainLog
from ppdet_repro.engine.training.step import StepReport
from ppdet_repro.utils.errors import UserError

NAMES = {"train/lr", "train/loss", "train/images_per_second", "eval/bbox_mAP"}


def train(folder, loggers, losses=(1.0, 3.0), done=0):
    """Log an epoch with an update per loss, and an evaluation."""
    with TrainLog(folder / "log.jsonl", epochs=9, steps=2, log_iter=1, done=done, loggers=loggers) as log:
        log.start_epoch()
        for loss in losses:
            log(StepReport({"loss": loss}, 0.1, images=4, seconds=0.0))
        log.evaluation({"bbox_mAP": 0.5})


def test_visualdl(tmp_path):
    pytest.importorskip("visualdl", reason="an extra: pip install visualdl")
    train(tmp_path, Loggers(str(tmp_path / "vdl")))
    assert list((tmp_path / "vdl").iterdir())


def scalars(folder):
    """(name, step, value) of all scalars in TensorBoard's files: records of a length, a checksum, an event, another."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found += [(value.tag, event.step, round(value.simple_value, 4)) for value in event.summary.value]
    return found


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="an extra: pip install tensorboardX")
    train(tmp_path, Loggers(names=["tensorboard"]))
    found = scalars(tmp_path / "tensorboard")
    assert {name for name, _, _ in found} == NAMES
    assert [entry[1:] for entry in found if entry[0] == "train/loss"] == [(1, 1.0), (2, 3.0)]
    assert ("eval/bbox_mAP", 2, 0.5) in found


class Server:
    """What MLflow keeps, and the package as far as it is used here."""

    class Failure(Exception):
        pass

    def __init__(self, monkeypatch):
        self.experiments, self.runs, self.broken = {}, {}, False
        entities = SimpleNamespace(Metric=lambda name, value, time, step: (name, step, value))
        for name, module in {
            "mlflow": SimpleNamespace(MlflowClient=lambda: self, get_tracking_uri=lambda: "http://tracking:5000"),
            "mlflow.entities": entities,
            "mlflow.exceptions": SimpleNamespace(MlflowException=self.Failure),
        }.items():
            fake = ModuleType(name)
            vars(fake).update(vars(module))
            monkeypatch.setitem(sys.modules, name, fake)

    def check(self):
        if self.broken:
            raise self.Failure("connection refused\nand a long story")

    def get_experiment_by_name(self, name):
        self.check()
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = SimpleNamespace(experiment_id=name)
        return name

    def create_run(self, experiment, tags, run_name):
        data, info = SimpleNamespace(tags=tags), SimpleNamespace(run_id=len(self.runs))
        run = SimpleNamespace(info=info, name=run_name, data=data, metrics=[])
        self.runs[run.info.run_id] = run
        return run

    def search_runs(self, experiments):
        return list(self.runs.values())[::-1]

    def update_run(self, run_id, status):
        self.runs[run_id].status = status

    def log_batch(self, run_id, metrics):
        self.check()
        self.runs[run_id].metrics += metrics

    def set_terminated(self, run_id):
        self.check()
        self.runs[run_id].status = "FINISHED"


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch)


def test_a_run_of_mlflow_that_is_resumed_goes_on(server, tmp_path):
    folder = tmp_path / "yolof"
    train(folder, Loggers(names=["mlflow"]))
    train(folder, Loggers(names=["mlflow"]), losses=(2.0, 1.0), done=2)
    (run,) = server.runs.values()
    assert (run.name, run.status, list(server.experiments)) == ("yolof", "FINISHED", ["ppdet-repro"])
    assert {name for name, _, _ in run.metrics} == NAMES
    assert [entry[1:] for entry in run.metrics if entry[0] == "train/loss"] == [(1, 1.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    train(folder, Loggers(names=["mlflow"]))  # from the start: a run of its own
    assert len(server.runs) == 2


def test_a_server_that_goes_away_does_not_end_the_training(server, tmp_path, logged):
    with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=3, log_iter=1, loggers=Loggers(names=["mlflow"])) as log:
        log.start_epoch()
        for broken in (False, True, True):
            server.broken = broken
            log(StepReport({"loss": 1.0}, 0.1, images=4, seconds=0.0))
    assert logged.text.count("cannot write curves: connection refused; training continues without them") == 1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_server_that_is_not_there(server, tmp_path):
    server.broken = True
    with pytest.raises(UserError, match="^logger: MLflow cannot write to http://tracking:5000: connection refused$"):
        Loggers(names=["mlflow"]).open(tmp_path, 0)


@pytest.mark.parametrize("name, package", [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_a_package_that_is_missing(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^logger: {name} needs .*: pip install {package}, or the extra"):
        Loggers(names=[name]).open(tmp_path, 0)


def test_the_setting(tmp_path):
    assert load_config("demo/yolof_demo.yml", ["logger=[tensorboard,mlflow]"]).run.logger == ["tensorboard", "mlflow"]
    with pytest.raises(UserError, match="wandb"):
        load_config("demo/yolof_demo.yml", ["logger=[wandb]"])
