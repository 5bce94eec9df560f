"""The schedule of every config in runs of 1, 5 and 60 epochs: it comes to its end, or a line says why it does not."""

from __future__ import annotations

import pytest
from paths import CONFIGS

from ppdet_repro.core.config import build, load_config
from ppdet_repro.engine.training.checkpoint import RunState
from ppdet_repro.engine.training.run_length import (
    describe,
    describe_config,
    resumed_otherwise,
    scaled_mixing,
    scaled_phases,
    scaled_rate,
)
from ppdet_repro.optimizer.schedules import PiecewiseDecay
from ppdet_repro.utils.errors import UserError

YOLOF = "yolof/yolof_r50_c5_1x_coco.yml"
TRAINABLE = [
    path
    for path in sorted(CONFIGS.glob("**/*.yml"))
    if path.parent.name not in ("_base_", "datasets")
    and "\nslim" not in path.read_text()
    and path.name != "runtime.yml"
]


def ends(lr, epochs, steps):
    """Whether the last update has the lowest rate: that of the decay's definition, but for the last step of a wave."""
    decay = lr.decay
    if isinstance(decay, PiecewiseDecay):
        lowest = decay.values[-1] if decay.values else lr.base_lr * decay.gamma[-1]
        return lr.rate(epochs * steps - 1, steps) == lowest
    return lr.rate(epochs * steps - 1, steps) <= lr.base_lr * (decay.min_lr_ratio + 0.001)


def after_the_end(lr, epochs, steps):
    """The fraction of the updates that have the lowest rate."""
    last = lr.rate(epochs * steps - 1, steps)
    return sum(lr.rate(t, steps) == last for t in range(0, epochs * steps, steps)) / epochs


@pytest.fixture(scope="module")
def seen():
    """The schedules that were checked: what a schedule depends on."""
    return set()


@pytest.mark.parametrize("path", TRAINABLE, ids=lambda path: path.stem)
def test_the_rate_falls_to_its_end_or_a_line_says_why_not(path, seen):
    own = load_config(path)
    assert own.run.schedule_epochs == own.run.epoch > 0
    assert len(describe_config(own)) == 1  # every recipe fits itself
    settings = own.document.plain()
    schedule = str([own.run.epoch, *(settings.get(key) for key in ("LearningRate", "TrainPhases"))])
    if schedule in seen:
        return
    seen.add(schedule)
    designed = after_the_end(build(own, "LearningRate"), own.run.epoch, 2000)
    for epochs in (1, 5, 60):
        cfg = load_config(path, [f"epoch={epochs}"])
        lr = build(cfg, "LearningRate")
        starts = [phase.start for phase in build(cfg, "TrainPhases").phases]
        for steps in (100, 2000):
            course, *lines = describe(lr, starts, cfg.run, steps)
            falls = ends(lr, epochs, steps) and after_the_end(lr, epochs, steps) <= max(designed, 0.5)
            assert len(lines) <= 1 and (falls or lines), (epochs, steps, course)
            assert "\n" not in course + "".join(lines)

        cfg = load_config(path, [f"epoch={epochs}", "scale_schedule=true"])
        for steps in (100, 2000):
            fitted = scaled_rate(lr, cfg.run, steps)
            assert ends(fitted, epochs, steps), (epochs, steps)
            assert max(fitted.rate(t, steps) for t in range(0, epochs * steps, 10)) >= 0.9 * lr.base_lr
            lines = describe(fitted, [], cfg.run, steps)[1:]
            assert lines == [], (epochs, steps)


def described(*overrides, steps=64):
    cfg = load_config(YOLOF, overrides)
    return describe(scaled_rate(build(cfg, "LearningRate"), cfg.run, steps), [], cfg.run, steps)


def test_the_example_of_the_readme():
    """12 epochs of 64 updates, with a warmup of 1,500: 0.06 x (0.00066 x (1 - 767/1500) + 767/1500) = 0.0307."""
    _, line = described()
    assert line == (
        "the schedule does not fit the run (12 epochs, 768 updates): LinearWarmup.steps 1,500 is a warmup of 1,500 "
        "updates, as long as the run or longer, so the rate ends at 0.0307 and never reaches 0.06; "
        "-o scale_schedule=true fits it"
    )
    assert described("scale_schedule=true") == [
        "learning rate: 3.96e-05 at the start, 0.06 from update 77, 0.006 from epoch 9, 0.0006 from epoch 12, "
        "0.0006 at the end (12 epochs, 768 updates)"
    ]


def test_the_cure_that_helps():
    assert described("epoch=60", steps=2000)[1].endswith("; -o scale_schedule=true fits it")
    own = ["epoch=60", "LearningRate.schedulers.0.milestones=[8,11]"]  # written for 60 epochs, as far as one can see
    assert described(*own, steps=2000)[1].endswith("N, -o scale_schedule=true schedule_epochs=N fits it")
    assert described(*own, "scale_schedule=true", "schedule_epochs=12", steps=2000)[1:] == []
    assert "too short for scale_schedule" in described("epoch=1", "scale_schedule=true", steps=2)[1]


def test_phases_and_mixing_are_scaled_too():
    cfg = load_config("bifpn/table4_sw_ss_coco.yml", ["epoch=60", "scale_schedule=true"])
    phases = scaled_phases(build(cfg, "TrainPhases"), cfg.run)
    lr = scaled_rate(build(cfg, "LearningRate"), cfg.run, 1000)
    assert [phase.start for phase in phases.phases] == [0, *lr.decay.milestones] == [0, 30]
    voc = "ppyolo/ppyolo_r50vd_dcn_voc.yml"  # mixup in 350 of 583 epochs: 36.02 of 60
    assert scaled_mixing(load_config(voc, ["epoch=60", "scale_schedule=true"])) == {"mixup_epoch": 36}
    assert scaled_mixing(load_config(voc, ["epoch=60"])) == {}


def test_a_phase_that_is_not_reached():
    cfg = load_config("bifpn/table4_sw_ss_coco.yml", ["epoch=50"])
    assert (
        "TrainPhases has a phase that starts after 50 epochs"
        in describe(build(cfg, "LearningRate"), [0, 50], cfg.run, 1000)[1]
    )


@pytest.mark.parametrize(
    "files, overrides, expected",
    [
        # a.yml is a recipe; b.yml is based on it
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}"}, [], 12),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}", "b": "epoch: 60"}, [], 12),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}", "b": "LearningRate: {schedulers: []}"}, [], 12),
        ({"a": "epoch: 12", "b": "epoch: 60\nLearningRate: {schedulers: []}"}, [], 60),
        ({"a": "LearningRate: {schedulers: []}", "b": "epoch: 60"}, [], 60),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}", "b": "LearningRate: {base_lr: 1.0}\nepoch: 60"}, [], 12),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}"}, ["epoch=60"], 12),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}"}, ["LearningRate.schedulers=[]", "epoch=60"], 60),
        ({"a": "epoch: 12\nschedule_epochs: 7\nLearningRate: {schedulers: []}", "b": "epoch: 60"}, [], 7),
        ({"a": "epoch: 12\nLearningRate: {schedulers: []}"}, ["schedule_epochs=7"], 7),
        ({"a": "epoch: 12"}, [], None),
    ],
)
def test_which_epochs_a_schedule_is_written_for(tmp_path, files, overrides, expected):
    base = ""
    for name, text in files.items():
        (tmp_path / f"{name}.yml").write_text(f"{base}{text}\n")
        base = f"_BASE_: {name}.yml\n"
    assert load_config(tmp_path / f"{name}.yml", overrides).run.schedule_epochs == expected


def test_overrides_of_the_warmup_alone_do_not_count():
    for path, expected in (("1.steps=5", 12), ("0.milestones=[40]", 60), ("0.gamma=0.2", 12)):
        cfg = load_config(YOLOF, [f"LearningRate.schedulers.{path}", "epoch=60"])
        assert cfg.run.schedule_epochs == expected


def test_a_schedule_of_unknown_length_is_not_scaled(tmp_path):
    (tmp_path / "a.yml").write_text("epoch: 12\nscale_schedule: true\n")
    with pytest.raises(UserError, match="set schedule_epochs"):
        scaled_rate(build(load_config(YOLOF), "LearningRate"), load_config(tmp_path / "a.yml").run, 10)


@pytest.mark.parametrize(
    "before, epochs, rate, said",
    [
        ((12, 12, 0.1), 12, 0.1, None),
        ((12, 0, None), 24, 0.1, None),  # an older checkpoint
        ((12, 12, 0.1), 24, 0.1, "epoch is 24 instead of 12: the learning rate goes on with 0.1"),
        ((12, 12, 1e-4), 24, 0.1, "epoch is 24 instead of 12: the learning rate jumps from 0.0001 to 0.1"),
        ((4, 12, 0.2), 12, 0.1, "the schedule is another one than before: the learning rate jumps from 0.2 to 0.1"),
        ((12, 24, 0.1), 5, 0.1, "epoch is 5 instead of 24, and 12 are done: nothing is left to train"),
    ],
)
def test_what_is_said_when_a_run_is_resumed(before, epochs, rate, said):
    done, planned, next_rate = before
    assert resumed_otherwise(RunState(0, done, epochs=planned, rate=next_rate), epochs, rate) == said
