"""Training goes on from PaddleDetection's checkpoints as it does there."""

from __future__ import annotations

import json
import os

import numpy as np
import paddle
import pytest
from paddle import nn
from paddledet_run import NAMES, RECORDED, SHAPES, digest, dump, number, write_checkpoint, write_config

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.training.checkpoint import Checkpointed, find_checkpoint, restore_checkpoint
from ppdet_repro.engine.training.paddledet_checkpoint import by_parameter
from ppdet_repro.engine.training.train import train
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.optimizer import Adam, Momentum, OptimizerBuilder
from ppdet_repro.optimizer.schedules import LearningRate
from ppdet_repro.paddle_private.optimizer_state import optimizer_state
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state


def lines(folder):
    """The updates in the log of the run in `folder`."""
    text = (folder / "output/tiny/log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if line["kind"] == "train"]


class TestAgainstPaddleDetection:
    def test_the_third_epoch_has_its_losses_weights_and_average(self, tmp_path):
        config, path = write_config(tmp_path), write_checkpoint(tmp_path)
        state = train(load_config(config), resume=str(path))
        assert (state.epoch, state.step) == (3, 6)
        losses = lines(tmp_path)
        assert [(line["epoch"], line["step"], line["lr"]) for line in losses] == [(3, 5, 0.002), (3, 6, 0.002)]
        for line, recorded in zip(losses, RECORDED["losses"]):
            for name, value in recorded.items():
                assert line[name] == pytest.approx(value, rel=1e-4), name
        checkpoint = tmp_path / "output/tiny/checkpoints/epoch_0003"
        trained = read_state(checkpoint / "raw.pdparams")
        assert set(trained) == set(SHAPES)
        for name, recorded in zip(SHAPES, RECORDED["weights"]):
            assert digest(trained[name]) == pytest.approx(recorded, abs=1e-4 * digest(abs(trained[name]))), name

        # The average A after 4 updates was divided by 1 - d**4 with d = (1 + 3) / (10 + 3). Here the sum is
        # A (1 - d**4) again, as without the interruption. PaddleDetection takes A itself for the sum, and multiplies it
        # by the decays of two more updates, 5 / 14 and 6 / 15, before it divides by 1 - (6 / 15)**6.
        too_much = (4 / 13) ** 4 * (5 / 14) * (6 / 15) / (1 - (6 / 15) ** 6)
        average = read_state(checkpoint / "model.pdparams")
        for name, recorded in zip(SHAPES, RECORDED["average"]):
            expected = recorded - too_much * digest(number(name, SHAPES[name], "average"))
            assert digest(average[name]) == pytest.approx(expected, abs=1e-4 * digest(abs(average[name]))), name

    def test_an_earlier_run_is_set_aside_and_the_new_one_can_be_resumed(self, tmp_path):
        config, path = write_config(tmp_path), write_checkpoint(tmp_path)
        train(load_config(config, ["epoch=3"]), resume=f"{path}.pdopt")
        train(load_config(config, ["epoch=3"]), resume=f"{path}.pdparams")
        assert (tmp_path / "output/tiny/previous/checkpoints/epoch_0003").is_dir()
        assert train(load_config(config, ["epoch=4"]), resume="auto").epoch == 4
        assert [line["epoch"] for line in lines(tmp_path)] == [3, 3, 4, 4]


class Net(nn.Layer):
    """A convolution with a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2D(1, 2, 1), nn.BatchNorm2D(2)


def objects(optimizer=None, ema=None):
    """A new model with an optimizer and an average."""
    model = Net()
    built = OptimizerBuilder(None, None, None, optimizer or Momentum()).build(LearningRate().schedule(9), model)
    return Checkpointed(model, built, None if ema is None else ModelEMA(model, **ema), None)


def values(start):
    """Numbers for the weights of a Net, which count from `start`."""
    found = {}
    for name, value in weights_of(Net()).items():
        found[name] = np.arange(start, start + value.size, dtype=np.float32).reshape(value.shape)
        start += value.size
    return found


VARIABLES = {
    "conv.weight": "conv2d_7.w_0",
    "conv.bias": "conv2d_7.b_0",
    "norm.weight": "batch_norm2d_3.w_0",
    "norm.bias": "batch_norm2d_3.b_0",
    "norm._mean": "batch_norm2d_3.w_1",
    "norm._variance": "batch_norm2d_3.w_2",
}
TRAINED = [name for name in VARIABLES if "_" not in name]
PROGRESS = {"LR_Scheduler": {"last_epoch": 20, "last_lr": 0.1}, "last_epoch": 2}
VELOCITY = {f"{VARIABLES[name]}_velocity_0": value for name, value in values(100).items() if name in TRAINED}


def write(folder, **changes):
    """The files of a run of a Net. A keyword replaces a file's content; None leaves the file out."""
    files = {"pdparams": {**values(0), NAMES: VARIABLES}, "pdopt": {**VELOCITY, **PROGRESS}, **changes}
    for suffix, content in files.items():
        if content is not None:
            dump(folder / "0", f".{suffix}", content)
    return folder / "0.pdparams"


def velocity(restored, name):
    return optimizer_state(restored.optimizer, restored.model)[f"{name}|velocity"]


class TestRestore:
    def test_weights_accumulators_and_progress(self, tmp_path):
        restored = objects()
        state = restore_checkpoint(write(tmp_path), restored, seed=5)
        assert (state.epoch, state.step, state.seed, state.evaluated, state.best) == (2, 20, 5, True, None)
        assert restored.model.conv.weight.numpy().tolist() == [[[[0.0]]], [[[1.0]]]]
        assert restored.model.norm._variance.numpy().tolist() == [10.0, 11.0]
        assert velocity(restored, "conv.bias").tolist() == [102.0, 103.0]
        assert velocity(restored, "norm.bias").tolist() == [106.0, 107.0]

    @pytest.mark.parametrize("decay_type, divisor", [("normal", 1 - 0.9**20), ("exponential", 1)])
    def test_the_average_is_the_sum_again_and_gives_the_same_weights(self, tmp_path, decay_type, divisor):
        """The file of the weights has the average, that of the average the weights: they are exchanged."""
        restored = objects(ema={"decay": 0.9, "decay_type": decay_type})
        restore_checkpoint(write(tmp_path, pdema=values(50)), restored)
        assert restored.model.conv.bias.numpy().tolist() == [52.0, 53.0]
        assert restored.ema.state()["conv.bias"] == pytest.approx([2 * divisor, 3 * divisor], rel=1e-6)
        assert restored.ema.applied_weights()["norm._mean"].numpy() == pytest.approx([8.0, 9.0], rel=1e-6)
        assert (restored.ema.step, restored.ema.cycle) == (20, 0)

    def test_without_the_file_of_the_average_it_starts_anew(self, tmp_path, logged):
        restored = objects(ema={})
        restore_checkpoint(write(tmp_path), restored)
        assert restored.ema.step == 0 and restored.ema.state()["conv.bias"].tolist() == [0.0, 0.0]
        assert "no 0.pdema is beside it, so the moving average starts anew" in logged.text

    def test_master_weights_replace_weights_in_half_precision(self, tmp_path):
        half = {name: (value + 0.1).astype(np.float16) for name, value in values(0).items()}
        named = {f"{VARIABLES[name]}_fp32_master_0_velocity_0": value for name, value in values(100).items()}
        master = {VARIABLES[name]: (VARIABLES[name], value + np.float32(0.1)) for name, value in values(0).items()}
        optimizer = {key: value for key, value in named.items() if ".w_1" not in key and ".w_2" not in key}
        content = {**optimizer, "master_weights": master, **PROGRESS}
        restored = objects()
        restore_checkpoint(write(tmp_path, pdparams={**half, NAMES: VARIABLES}, pdopt=content), restored)
        assert restored.model.norm.bias.numpy().tolist() == (np.float32([6, 7]) + np.float32(0.1)).tolist()
        assert velocity(restored, "norm.bias").tolist() == [106.0, 107.0]

    def test_files_that_paddle_saves_here(self, tmp_path):
        """What the installed Paddle saves for Adam and a schedule is restored, whatever its variables are called."""
        first = objects(Adam())
        first.model.norm(first.model.conv(paddle.ones([2, 1, 2, 2]))).mean().backward()
        first.optimizer.step()
        paddle.save(first.model.state_dict(), str(tmp_path / "0.pdparams"))
        paddle.save({**first.optimizer.state_dict(), "last_epoch": 1}, str(tmp_path / "0.pdopt"))
        second = objects(Adam())
        assert second.model.conv.weight.name != first.model.conv.weight.name
        assert restore_checkpoint(tmp_path / "0.pdparams", second).epoch == 1
        expected = optimizer_state(first.optimizer, first.model)
        restored = optimizer_state(second.optimizer, second.model)
        assert set(restored) == set(expected) and "conv.weight|beta1_pow_acc" in restored
        assert all(np.array_equal(restored[name], value) for name, value in expected.items())


def test_names_of_accumulators():
    names = {"conv2d_1.w_0": "a", "conv2d_1.w_0_1": "b", "scale_x": "c"}
    arrays = {
        "conv2d_1.w_0_velocity_0": 1,  # variable, accumulator, a number that makes the name unique
        "conv2d_1.w_0_1_velocity_0": 2,  # the longest variable that fits
        "scale_x_beta1_pow_acc_12": 3,
        "scale_x_fp32_master_0_moment1_0": 4,  # that of a master weight
    }
    assert by_parameter(arrays, names, "abc") == {
        "a|velocity": 1,
        "b|velocity": 2,
        "c|beta1_pow_acc": 3,
        "c|moment1": 4,
    }
    assert by_parameter(arrays, names, "ab") == {"a|velocity": 1, "b|velocity": 2}
    for key in ("conv2d_2.w_0_velocity_0", "conv2d_1.w_0", "conv2d_1.w_0_velocity", "scale_xvelocity_0", "_" * 10**6):
        with pytest.raises(ValueError, match="does not belong to a variable of the weights"):
            by_parameter({key: 1}, names, "abc")


def test_a_checkpoint_is_found_with_and_without_suffix(tmp_path):
    path = write(tmp_path, pdema=values(0))
    for suffix in ("", ".pdparams", ".pdopt", ".pdema"):
        assert find_checkpoint(str(tmp_path / f"0{suffix}"), tmp_path) == path
    (tmp_path / "0").mkdir()  # PaddleDetection also makes a folder of the best model
    assert find_checkpoint(str(tmp_path / "0"), tmp_path) == path
    (tmp_path / "0.pdopt").unlink()
    with pytest.raises(UserError, match=r"PaddleDetection's .pdparams with a .pdopt beside it.*-o pretrain_weights="):
        find_checkpoint(str(tmp_path / "0"), tmp_path)


class Hostile:
    """Pickles to a call of os.mkdir."""

    def __reduce__(self):
        return os.mkdir, ("mark",)


WRONG = {
    "code": ({"pdopt": {**VELOCITY, **PROGRESS, "x": Hostile()}}, "0.pdopt: refused: .*mkdir"),
    "code in the schedule": ({"pdopt": {**PROGRESS, "LR_Scheduler": Hostile()}}, "0.pdopt: refused: .*mkdir"),
    "no dict": ({"pdopt": [1, 2]}, "0.pdopt: not a weight file: it holds a list"),
    "no epoch": ({"pdopt": {**VELOCITY, "LR_Scheduler": {"last_epoch": 2}}}, "last_epoch must be a whole number"),
    "no schedule": ({"pdopt": {**VELOCITY, "last_epoch": 1}}, "LR_Scheduler.last_epoch must be a whole number"),
    "negative": ({"pdopt": {**VELOCITY, **PROGRESS, "last_epoch": -1}}, "last_epoch must be a whole number"),
    "a text": ({"pdopt": {**VELOCITY, **PROGRESS, "moment": "x"}}, "'moment' is a str, not an array"),
    "no table": ({"pdparams": values(0)}, "Paddle's table of the variables' names is missing"),
    "odd table": ({"pdparams": {**values(0), NAMES: {"a": 1}}}, "Paddle's table of the variables' names"),
    "unknown": ({"pdopt": {**VELOCITY, **PROGRESS, "y_velocity_0": np.zeros(1)}}, "'y_velocity_0' does not belong"),
    "shape": ({"pdopt": {**PROGRESS, "conv2d_7.b_0_velocity_0": np.zeros(3, np.float32)}}, "cannot resume"),
    "Adam": ({"pdopt": {**PROGRESS, "conv2d_7.b_0_moment1_0": np.zeros(2)}}, "belongs to another optimizer"),
    "master": ({"pdopt": {**VELOCITY, **PROGRESS, "master_weights": 3}}, "cannot resume.* a int where a dict"),
    "other model": ({"pdparams": {"a": np.zeros(1), NAMES: VARIABLES}}, "these weights are not this model's"),
    "average": ({"pdema": values(0)}, "trained with use_ema, and the config says otherwise"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_that_does_not_fit_is_one_line(case, tmp_path, monkeypatch):
    files, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **files)
    with pytest.raises(UserError, match=message) as raised:
        restore_checkpoint(path, objects())
    assert "\n" not in str(raised.value) and not (tmp_path / "mark").exists()


def test_the_average_must_have_all_weights(tmp_path):
    content = {name: value for name, value in values(0).items() if name != "conv.bias"}
    path = write(tmp_path, pdparams={**content, NAMES: VARIABLES}, pdema=values(0))
    with pytest.raises(UserError, match="cannot resume from this checkpoint.*conv.bias"):
        restore_checkpoint(path, objects(ema={}))
