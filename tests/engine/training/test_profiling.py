"""Updates that `--profiler_options` measures, and `--to_static`."""

from __future__ import annotations

import json

import pytest
from paddledet_run import write_config

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.training.profiling import UpdateProfiler
from ppdet_repro.engine.training.step import StepReport
from ppdet_repro.engine.training.train import train
from ppdet_repro.onednn.library import library
from ppdet_repro.utils.errors import UserError


def updates(profiler, count):
    """Make updates of 4 images until the profiler ends the program; returns how many it let through."""
    made = []
    step = profiler.watch(lambda batches: made.append(batches) or StepReport({}, 0.1, 4, 0.0))
    try:
        for i in range(count):
            step([i])
    except SystemExit as end:
        assert end.code == 0
    return len(made)


def test_the_program_ends_after_the_range(tmp_path, logged):
    assert updates(UpdateProfiler("batch_range=[1, 3]", tmp_path), 9) == 3
    assert "profile of 3 updates: " in logged.text and "images/s" in logged.text
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_if_the_options_say_so(tmp_path, logged):
    assert updates(UpdateProfiler("batch_range=0,2;exit_on_finished=no;state=CPU", tmp_path), 5) == 5
    assert logged.text.count("profile of 2 updates") == 1


def test_the_default_range_is_that_of_paddledetection(tmp_path):
    assert updates(UpdateProfiler("timer_only=True", tmp_path), 30) == 20


@pytest.mark.parametrize(
    "options, message",
    [
        ("batch_range=[5, 5]", r"two ascending numbers such as \[10, 20\], not '\[5,5\]'"),
        ("batch_range=x", "two ascending numbers"),
        ("timer_only=maybe", "timer_only must be True or False, not 'maybe'"),
        ("speed=1", "'speed=1' is not one of the options batch_range, timer_only, exit_on_finished, state"),
        ("timer_only", "'timer_only' is not one of the options"),
    ],
)
def test_options_that_are_not_understood(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        UpdateProfiler(options, tmp_path)


@pytest.mark.parametrize(("kernels", "name"), [("paddle", "conv2d"), ("auto", "oneDNN convolution")])
def test_a_run_with_a_trace_of_its_operators(tmp_path, capsys, kernels, name):
    if kernels == "auto" and library() is None:
        pytest.skip("this Paddle has no oneDNN 3")
    options = "batch_range=[1,2]; timer_only=False; exit_on_finished=False"
    settings = ["epoch=1", f"cpu_kernels={kernels}", f"profiler_options={options}"]
    train(load_config(write_config(tmp_path), settings))
    (trace,) = (tmp_path / "output/tiny/profiler_log").glob("*.json")
    assert any(name in event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"])
    assert name in capsys.readouterr().out
    assert (tmp_path / "output/tiny/model_final.pdparams").is_file()


def test_static_graphs_have_the_same_losses(tmp_path, monkeypatch):
    """The second update depends on gradients, on the optimizer and on the statistics of the batch norms."""
    from ppdet_repro.engine.training import assembly

    config, found, traced = write_config(tmp_path), {}, []
    to_static = assembly.paddle.jit.to_static
    monkeypatch.setattr(assembly.paddle.jit, "to_static", lambda *a, **k: traced.append(a) or to_static(*a, **k))
    for static in ("false", "true"):
        train(load_config(config, ["epoch=1", f"to_static={static}", f"save_dir={tmp_path}/{static}"]))
        lines = map(json.loads, (tmp_path / static / "tiny/log.jsonl").read_text().splitlines())
        found[static] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(traced) == 2 and len(found["true"]) == 2
    assert found["true"] == pytest.approx(found["false"], rel=1e-5)


def test_static_graphs_are_refused_where_the_network_changes(tmp_path):
    config = write_config(tmp_path)
    phases = "TrainPhases: {phases: [{name: Phase}, {name: Phase, start: 1}]}"
    config.write_text(f"{config.read_text()}to_static: true\n{phases}\n")
    with pytest.raises(UserError, match="to_static does not work with several TrainPhases"):
        train(load_config(config))
