"""Flags of `train` that set values of the config."""

from __future__ import annotations

import argparse

import pytest

from ppdet_repro.cli import train as command
from ppdet_repro.cli.foreign import add_foreign
from ppdet_repro.engine.training import train as training


@pytest.fixture
def settings(monkeypatch):
    """A function that runs `train` with some flags, and returns the settings with which training would start."""
    started = []
    monkeypatch.setattr(training, "train", lambda cfg, **values: started.append(cfg.run))

    def run(*flags):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        add_foreign(parser, "train")
        command.run(parser.parse_args(["-c", "demo/yolof_demo.yml", *flags]))
        return started.pop()

    return run


def test_enable_ce_is_seed_0_unless_another_is_given(settings):
    assert settings("-o", "seed=7").seed == 7
    assert settings("-o", "seed=7", "--enable_ce", "True").seed == 0
    assert settings("--enable_ce=True", "--seed", "5").seed == 5


def test_static_graphs_and_the_profiler(settings):
    assert (settings().to_static, settings().profiler_options) == (False, None)
    assert settings("--to_static").to_static
    options = "batch_range=[50, 60]; profile_path=model.profile"  # as in PaddleDetection's documentation
    assert settings("--profiler_options", options).profiler_options == options


def test_programs_for_curves(settings):
    assert settings().logger is None
    assert settings("--logger", "tensorboard", "mlflow").logger == ["tensorboard", "mlflow"]


def test_paddledetection_takes_o_without_a_value(settings):
    assert settings("--fleet", "-o").epoch == 6
