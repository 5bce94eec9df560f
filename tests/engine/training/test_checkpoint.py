"""Checkpoints: complete or absent, with everything that a resumed run needs."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.training.checkpoint import (
    Checkpointed,
    RunState,
    epochs_done,
    find_checkpoint,
    keep_newest,
    list_checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.optimizer import SGD, Adam, AdamW, Momentum, OptimizerBuilder
from ppdet_repro.optimizer.schedules import LearningRate
from ppdet_repro.paddle_private.optimizer_state import optimizer_state
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state, save_state


class Net(nn.Layer):
    """A backbone with a batch norm, and a head with one output per class."""

    def __init__(self, classes=2):
        super().__init__()
        self.backbone = nn.Sequential(("conv", nn.Conv2D(3, 4, 1)), ("norm", nn.BatchNorm2D(4)))
        self.head = nn.Linear(4, classes)

    def forward(self, image):
        return self.head(self.backbone(image).mean([2, 3])).square().mean()


def new_training(optimizer=None, ema=False):
    """Newly built objects. Their variables have other names in Paddle than those of objects built earlier."""
    model = Net()
    built = OptimizerBuilder(None, None, None, optimizer or Momentum()).build(LearningRate().schedule(9), model)
    return Checkpointed(model, built, ModelEMA(model) if ema else None, None)


def train(training, updates, seed):
    """Train for some updates on images that depend on the seed."""
    rng = np.random.default_rng(seed)
    for _ in range(updates):
        training.model(paddle.to_tensor(rng.normal(size=[2, 3, 4, 4]).astype("float32"))).backward()
        training.optimizer.step()
        training.optimizer.clear_grad(set_to_zero=False)
        if training.ema is not None:
            training.ema.update()


def everything(training):
    """All arrays of the objects of a run."""
    found = {**weights_of(training.model), **optimizer_state(training.optimizer, training.model)}
    if training.ema is not None:
        found.update({f"ema {name}": value for name, value in training.ema.state().items()})
    return found


def equal(a, b):
    """Whether two dicts have the same arrays, bit for bit."""
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def save(folder, training, epoch=1, **state):
    weights = weights_of(training.model)
    if training.ema is not None:
        weights = {name: value.numpy() for name, value in training.ema.applied_weights().items()}
    return save_checkpoint(folder, training, RunState(seed=0, epoch=epoch, **state), weights)


class TestCheckpoints:
    @pytest.mark.parametrize("ema", [False, True])
    @pytest.mark.parametrize("optimizer", [SGD(), Momentum(), Adam(), AdamW()])
    def test_a_resumed_run_equals_an_uninterrupted_one(self, tmp_path, optimizer, ema):
        stopped = new_training(optimizer, ema)
        train(stopped, 3, seed=1)
        save(tmp_path, stopped)
        train(stopped, 3, seed=2)

        resumed = new_training(optimizer, ema)
        restore_checkpoint(find_checkpoint("auto", tmp_path), resumed)
        train(resumed, 3, seed=2)
        assert equal(everything(stopped), everything(resumed))

    def test_the_state_is_restored(self, tmp_path):
        path = save(tmp_path, new_training(), 7, step=63, metrics={"bbox_mAP": 0.1}, best=0.2, best_epoch=5)
        state = restore_checkpoint(path, new_training())
        assert state == RunState(0, 7, 63, {"bbox_mAP": 0.1}, 0.2, 5, 0)

    def test_the_loss_scale_is_restored(self, tmp_path):
        class Scaler:
            """Stands in for Paddle's, which needs a GPU; its state has the same form."""

            state = {"scale": np.array([512.0], np.float32), "incr_count": 3}

            def state_dict(self):
                return self.state

            def load_state_dict(self, state):
                self.state = state

        path = save(tmp_path, new_training()._replace(scaler=Scaler()))
        scaler = Scaler()
        scaler.state = {}
        restore_checkpoint(path, new_training()._replace(scaler=scaler))
        assert scaler.state["scale"].dtype == np.float32
        assert {**scaler.state, "scale": 512.0} == {"scale": 512.0, "incr_count": 3}

    def test_the_optimizers_state_has_the_names_of_the_parameters(self, tmp_path):
        training = new_training(Momentum())
        train(training, 1, seed=0)
        state = read_state(save(tmp_path, training) / "optimizer.pdopt")
        assert "backbone.conv.weight|velocity" in state

    def test_with_a_moving_average_averaged_and_trained_weights_are_separate_files(self, tmp_path):
        training = new_training(ema=True)
        train(training, 2, seed=0)
        averaged = {name: value.numpy() for name, value in training.ema.applied_weights().items()}
        path = save(tmp_path, training)
        assert equal(read_state(path / "model.pdparams"), averaged)
        assert equal(read_state(path / "raw.pdparams"), weights_of(training.model))

    def test_the_newest_and_the_best_are_kept(self, tmp_path):
        for epoch in range(1, 7):
            save(tmp_path, new_training(), epoch)
        keep_newest(tmp_path, 3, best_epoch=2)
        assert [path.name for path in list_checkpoints(tmp_path)] == [f"epoch_000{i}" for i in (2, 4, 5, 6)]

    def test_epochs_with_more_than_four_digits_are_still_in_order(self, tmp_path):
        for epoch in (9999, 10000):
            save(tmp_path, new_training(), epoch)
        assert find_checkpoint("auto", tmp_path).name == "epoch_10000"

    def test_auto_without_checkpoints_finds_none(self, tmp_path):
        assert find_checkpoint("auto", tmp_path) is None

    @pytest.mark.parametrize("file", ["state.json", "model.pdparams", "optimizer.pdopt"])
    def test_auto_skips_a_damaged_checkpoint(self, tmp_path, file):
        older = save(tmp_path, new_training(), 1)
        newer = save(tmp_path, new_training(), 2)
        content = (newer / file).read_bytes()
        (newer / file).write_bytes(content[: len(content) // 2])
        assert find_checkpoint("auto", tmp_path) == older

    def test_a_path_that_is_not_a_checkpoint_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="not a checkpoint.*-o pretrain_weights="):
            find_checkpoint(str(tmp_path / "model.pdparams"), tmp_path)

    def test_another_model_is_refused(self, tmp_path):
        path = save(tmp_path, new_training())
        other = Net(classes=3)
        optimizer = OptimizerBuilder(None, None, None, Momentum()).build(LearningRate().schedule(9), other)
        with pytest.raises(UserError, match="head.weight"):
            restore_checkpoint(path, Checkpointed(other, optimizer, None, None))

    def test_another_optimizer_is_refused(self, tmp_path):
        training = new_training(Adam())
        train(training, 1, seed=0)
        path = save(tmp_path, training)
        with pytest.raises(UserError, match="another optimizer or model.*beta1_pow_acc"):
            restore_checkpoint(path, new_training(Momentum()))

    @pytest.mark.parametrize("had", [True, False])
    def test_another_use_ema_is_refused(self, tmp_path, had):
        path = save(tmp_path, new_training(ema=had))
        with pytest.raises(UserError, match="use_ema"):
            restore_checkpoint(path, new_training(ema=not had))

    def test_another_format_is_refused(self, tmp_path):
        path = save(tmp_path, new_training())
        (path / "state.json").write_text(json.dumps({"format": 99}))
        with pytest.raises(UserError, match="not a checkpoint of this version"):
            restore_checkpoint(path, new_training())

    @pytest.mark.parametrize(
        "entry, complaint",
        [
            ({"epoch": "text"}, "'epoch' must be a whole number, got 'text'"),
            ({"epoch": None}, "'epoch' must be a whole number, got None"),
            ({"step": 7.5}, "'step' must be a whole number, got 7.5"),
            ({"seed": -1}, "'seed' must be a whole number, got -1"),
            ({"best_epoch": True}, "'best_epoch' must be a whole number, got True"),
            ({"without_gain": 10**30}, "'without_gain' must be a whole number"),
            ({"metrics": [1]}, r"'metrics' must be an object of numbers, got \[1\]"),
            ({"metrics": {"bbox_mAP": "high"}}, "metrics.bbox_mAP must be a number"),
            ({"evaluated": 1}, "'evaluated' must be true or false, got 1"),
            ({"best": {}}, "'best' must be a number or null, got {}"),
            ({"scaler": {"scale": ["1"]}}, "scaler.scale must be a number"),
            ({"ema": 3}, "'ema.step' must be a whole number, got None"),
            ({"ema": {"step": 1, "cycle": "1"}}, "'ema.cycle' must be a whole number"),
        ],
    )
    def test_entries_of_another_type_are_refused(self, tmp_path, entry, complaint):
        path = save(tmp_path, new_training())
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**state, **entry}))
        for read in (epochs_done, lambda path: restore_checkpoint(path, new_training())):
            with pytest.raises(UserError, match=complaint):
                read(path)

    def test_older_checkpoints_were_saved_after_their_evaluation(self, tmp_path):
        path = save(tmp_path, new_training())
        state = json.loads((path / "state.json").read_text())
        del state["evaluated"]
        (path / "state.json").write_text(json.dumps(state))
        assert restore_checkpoint(path, new_training()).evaluated

    @pytest.mark.parametrize(
        "content", [b"[" * 100_000, b"\xff", b"{", b" " * (2 << 20), b"[]", b"9" * 10_000], ids=range(6)
    )
    def test_files_that_are_not_a_state_are_refused(self, tmp_path, content):
        path = save(tmp_path, new_training())
        (path / "state.json").write_bytes(content)
        with pytest.raises(UserError, match="state.json: (cannot read the|not a) checkpoint"):
            epochs_done(path)

    def test_arrays_of_another_shape_are_refused(self, tmp_path):
        training = new_training(Momentum())
        train(training, 1, seed=0)
        path = save(tmp_path, training)
        state = read_state(path / "optimizer.pdopt")
        save_state(path / "optimizer.pdopt", {name: array[..., None] for name, array in state.items()})
        with pytest.raises(UserError, match="cannot resume from this checkpoint"):
            restore_checkpoint(path, new_training(Momentum()))

    def test_only_numbers_of_epochs_are_checkpoints(self, tmp_path):
        path = save(tmp_path, new_training())
        for name in ("epoch_²", "epoch_", "epoch_x"):
            (path.parent / name).mkdir()
        assert list_checkpoints(tmp_path) == [path]

    def test_a_full_disk_leaves_the_last_good_checkpoint(self, tmp_path, monkeypatch):
        save(tmp_path, new_training(), 1)
        real, calls = os.fsync, []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 2:  # the second file
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, new_training(), 2)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_0001"]
        restore_checkpoint(find_checkpoint("auto", tmp_path), new_training())

    def test_killed_at_any_moment_the_newest_checkpoint_loads(self, tmp_path):
        rng = random.Random(0)
        training = new_training(ema=True)
        train(training, 1, seed=0)
        weights = weights_of(training.model)
        for name in weights:  # large enough that the process may be killed while it writes a file
            training.ema.average[name] = paddle.zeros([1 << 14])
        started = time.perf_counter()
        save_checkpoint(tmp_path, training, RunState(0, 1), weights)
        duration = time.perf_counter() - started
        newest = 1
        for _ in range(20):
            child = os.fork()
            if child == 0:
                for epoch in range(newest + 1, newest + 1000):
                    save_checkpoint(tmp_path, training, RunState(0, epoch), weights)
                os._exit(0)
            while len(list_checkpoints(tmp_path)) == newest:
                time.sleep(duration / 20)
            time.sleep(rng.uniform(0.0, 2 * duration))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            path = find_checkpoint("auto", tmp_path)
            assert path == list_checkpoints(tmp_path)[-1]
            newest = json.loads((path / "state.json").read_text())["epoch"]
        assert newest > 20
