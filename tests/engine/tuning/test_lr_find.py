"""The learning rate finder: the sweep, the suggestion, and what is written."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import pytest
from tiny_yolof import write_training_config

from ppdet_repro.cli import lr_find as command
from ppdet_repro.core.config import load_config
from ppdet_repro.engine.tuning.lr_find import Diverged, Sweep, describe, lr_find, sweep
from ppdet_repro.utils.errors import UserError


def sweep_of(losses, updates=None):
    """A sweep with these losses at the rates 1, 2, 3, ..."""
    rates = iter(range(1, 1000))

    def step(loss):
        if loss is None:
            raise Diverged
        return SimpleNamespace(losses={"loss": loss}, learning_rate=next(rates))

    return sweep(step, iter(losses), updates or len(losses), scale=1.0)


class TestSweep:
    def test_the_smoothed_loss(self):
        """An average with factor 0.9 that starts at 0, over its sum of weights 1 - 0.9 ** n."""
        found = sweep_of([4.0, 2.0, 1.0])
        assert found.smoothed[0] == pytest.approx(4.0)
        assert found.smoothed[1] == pytest.approx((0.9 * 0.4 + 0.1 * 2) / 0.19)
        assert found.smoothed[2] == pytest.approx((0.9 * 0.56 + 0.1 * 1) / 0.271)
        assert (found.rates, found.losses, found.diverged) == ([1, 2, 3], [4.0, 2.0, 1.0], False)

    def test_it_ends_where_the_smoothed_loss_is_four_times_the_lowest(self):
        found = sweep_of([1.0] * 5 + [100.0] * 5)
        assert len(found.rates) == 6 and found.diverged  # (0.9 * 0.40951 + 10) / 0.468559 = 22.1 > 4
        assert not sweep_of([1.0] * 5 + [3.0] * 5).diverged

    def test_it_ends_where_a_loss_is_not_finite(self):
        found = sweep_of([3.0, 2.0, None, 2.0])
        assert (found.losses, found.diverged) == ([3.0, 2.0], True)
        with pytest.raises(UserError, match="the loss of the first update is not finite"):
            sweep_of([None])


def found(smoothed, scale=1.0, diverged=True):
    rates = [10.0 ** (i - 5) for i in range(len(smoothed))]
    return Sweep(rates, smoothed, smoothed, diverged, scale)


class TestSuggestion:
    def test_a_tenth_of_the_rate_with_the_lowest_loss(self):
        assert found([5.0, 4.0, 2.0, 3.0]).suggestion == pytest.approx(1e-4)  # the third of 1e-5, 1e-4, 1e-3, 1e-2
        assert found([5.0, 4.0, 2.0, 3.0], scale=2.0).suggestion == pytest.approx(5e-5)

    def test_none(self):
        assert found([2.0, 3.0, 4.0]).suggestion is None

    def test_in_words(self):
        cfg = load_config("demo/yolof_demo.yml")
        assert describe(found([5.0, 4.0, 2.0, 3.0], scale=0.5), cfg) == [
            "learning rates from 1e-05 to 0.01 in 4 updates, where the loss diverges",
            "the smoothed loss is lowest at 0.001: 2",
            "suggestion, a tenth of that, as base_lr is multiplied by 0.5 in this run: -o LearningRate.base_lr=0.0002",
        ]
        assert "no rate lowered the loss" in describe(found([2.0, 3.0]), cfg)[-1]
        falling = [20.0 - i for i in range(15)]
        assert "it still falls where the sweep ends: raise --max_lr" in describe(found(falling, diverged=False), cfg)
        schedulers = "LearningRate.schedulers=[{name: PiecewiseDecay, milestones: [3], values: [0.1, 0.01]}]"
        assert "change the values" in describe(found([3.0, 2.0]), load_config("demo/yolof_demo.yml", [schedulers]))[-1]


def test_a_sweep_of_a_detector(tmp_path, monkeypatch, capsys):
    config = write_training_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "output" / "tiny" / "checkpoints" / "epoch_0001" / "state.json"  # of a run
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(["-c", str(config), "--updates", "3", "--min_lr", "1e-4", "--max_lr", "1e-2"]))
    written = json.loads((tmp_path / "lr_find" / "tiny" / "lr_find.json").read_text())
    assert written["rates"] == pytest.approx([1e-4, 1e-3, 1e-2]) and len(written["losses"]) == 3
    assert (tmp_path / "lr_find" / "tiny" / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "output").rglob("*") if path.is_file()] == ["state.json"]
    assert "learning rates from 0.0001 to 0.01 in 3 updates" in capsys.readouterr().out


def test_mistakes(tmp_path):
    cfg = load_config("demo/yolof_demo.yml")
    with pytest.raises(UserError, match="the rates must grow"):
        lr_find(cfg, 0.1, 0.01, 10)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    (tmp_path / "file").touch()
    flags = ["-c", "demo/yolof_demo.yml", "--output_dir", str(tmp_path / "file" / "lr")]
    with pytest.raises(UserError, match="cannot write to .*; give another --output_dir"):
        command.run(parser.parse_args(flags))
    with pytest.raises(SystemExit):
        parser.parse_args([*flags, "--min_lr", "0"])
