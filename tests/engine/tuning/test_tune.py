"""The tuner: spaces, and studies whose trainings are replaced by a formula."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.tuning import tune as tuner
from ppdet_repro.engine.tuning.space import Range, override, own_values, range_of, read_space
from ppdet_repro.utils.errors import UserError

CONFIG = "demo/yolof_demo.yml"
SPACE = "LearningRate.base_lr: {low: 0.0001, high: 0.1, log: true}\nuse_ema: {choices: [true, false]}\n"


def load(overrides):
    return load_config(CONFIG, overrides)


class TestSpace:
    def read(self, tmp_path, text):
        (tmp_path / "space.yml").write_text(text)
        return read_space(tmp_path / "space.yml", load)

    def test_ranges_and_choices(self, tmp_path):
        space = self.read(tmp_path, SPACE + "TrainReader.batch_size: {low: 4, high: 16, step: 4}\n")
        assert space == {
            "LearningRate.base_lr": Range(0.0001, 0.1, log=True),
            "use_ema": Range(choices=(True, False)),
            "TrainReader.batch_size": Range(4, 16, step=4),
        }
        assert [space[key].whole for key in space] == [False, True, True]

    @pytest.mark.parametrize(
        "line, words",
        [
            ("LearningRate.base_lrr: {low: 1, high: 2}", "base_lrr"),
            ("LearningRat.base_lr: {low: 1, high: 2}", "LearningRat"),
            ("epoch: {low: -3, high: 2}", "epoch"),
            ("epoch: {low: 0.1, high: 2}", "epoch"),
            ("epoch: {lowest: 1, high: 2}", "unknown word 'lowest'; known are low, high, log, step, choices"),
            ("epoch: {low: 2, high: 2}", "the range from 2 to 2 is empty; low must be less than high"),
            ("epoch: {low: 1}", "low, high and step must be numbers"),
            ("epoch: {low: 1, high: yes}", "low, high and step must be numbers"),
            ("epoch: {low: 0, high: 2, log: true}", "with true, low must be above 0"),
            ("epoch: {low: 1, high: 8, log: 3}", "log must be true or false"),
            ("epoch: {low: 1, high: 2, step: 2}", "step 2 must be above 0 and at most high - low"),
            ("epoch: {low: 1, high: 3, step: 0.5}", "step 0.5 must be a whole number"),
            ("epoch: {choices: []}", "choices must be a list of one or more"),
            ("epoch: {choices: [[1]]}", "choices must be a list of one or more"),
            ("epoch: {choices: [1], low: 1}", "choices must be a list of one or more"),
            ("epoch: 3", "give {low: A, high: B}"),
        ],
    )
    def test_a_mistake_is_one_line_with_its_place(self, tmp_path, line, words):
        with pytest.raises(UserError) as error:
            self.read(tmp_path, f"use_ema: {{choices: [true]}}\n{line}\n")
        assert words in str(error.value) and str(error.value).count("\n") == 0
        assert "space.yml:2" in str(error.value).split(": ")[0]

    def test_files(self, tmp_path):
        with pytest.raises(UserError, match="names no value"):
            self.read(tmp_path, "{}\n")
        with pytest.raises(UserError, match="there is no such file"):
            read_space(tmp_path / "none.yml", load)

    def test_values_for_o(self):
        assert override("a", 0.0123456789) == "a=0.01235"
        assert override("a", 1e-05) == "a=1.0e-05"  # YAML takes 1e-05 for a text
        assert override("a", 1.23456e-07) == "a=1.235e-07"
        assert [override("a", value) for value in (0.99995, 3, True, None, "bn")] == [
            "a=0.99995", "a=3", "a=true", "a=null", "a=bn",
        ]  # fmt: skip
        assert load([override("LearningRate.base_lr", 1e-05)]) is not None

    def test_the_values_of_the_config(self):
        cfg = load(["LearningRate.base_lr=0.02", "use_ema=true"])
        space = {"LearningRate.base_lr": Range(0.01, 0.1), "use_ema": Range(choices=(True, False))}
        assert own_values(cfg, space) == {"LearningRate.base_lr": 0.02, "use_ema": True}
        assert own_values(cfg, {"LearningRate.base_lr": Range(0.03, 0.1)}) is None
        assert own_values(cfg, {"use_ema": Range(0, 1)}) is None
        assert not Range(4, 16, step=4).has(6) and Range(4, 16, step=4).has(8) and not Range(1, 2).has(1.5)
        assert range_of({"low": 1, "high": 2.5}, "").has(2)


optuna = pytest.importorskip("optuna", reason="an extra: pip install optuna")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function that runs a study in `tmp_path`/tune. A training has 3 epochs with the scores of `score`.

    `score(rate, epoch)` may raise, or end the process.
    """
    (tmp_path / "space.yml").write_text(SPACE)
    trained = []

    def run(score, trials, seed=0, overrides=(), space="space.yml"):
        scores = []

        def train(cfg, resume, evaluate, offline, evaluation):
            rate = cfg.tree()["LearningRate"].value.settings["base_lr"].plain()
            folder = tmp_path / "tune" / cfg.name
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            log = folder / "log.jsonl"
            done = len(log.read_text().splitlines()) // 2 if resume else 0
            trained.append((cfg.name, done))
            for epoch in range(done + 1, 4):
                with open(log, "a") as file:
                    file.write(json.dumps({"kind": "train", "epoch": epoch, "step": epoch, "loss": 1.0}) + "\n")
                scores.append(score(rate, epoch))
                evaluation(None, cfg, None)
                with open(log, "a") as file:
                    file.write(json.dumps({"kind": "eval", "epoch": epoch, "bbox_mAP": scores[-1]}) + "\n")
                (folder / "best_model.pdparams").touch()
            return SimpleNamespace(best=max(scores, default=None))

        monkeypatch.setattr(tuner, "train", train)
        monkeypatch.setattr(tuner, "evaluate", lambda *arguments: {"bbox_mAP": scores[-1]})
        (tmp_path / "tune").mkdir(exist_ok=True)
        task = tuner.Task(CONFIG, overrides, None, tmp_path / "tune")
        found = tuner.tune(task, tmp_path / space, trials, seed)
        return found, tuner.report(found, task)

    run.trained = trained
    return run


def near(rate, epoch):
    """The nearer the rate to 0.01, the better; scores grow with the epochs."""
    return round(epoch / (3 + abs(rate - 0.01) * 100), 4)


def test_the_best_trial(study, tmp_path):
    found, text = study(near, trials=5)
    assert [trial.state.name for trial in found.trials].count("COMPLETE") + text.count("pruned") == 5
    best = max((trial for trial in found.trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    lines = text.splitlines()
    assert lines[-1].startswith("-o LearningRate.base_lr=") and "use_ema=" in lines[-1]
    assert f"best: trial_{best.number:04d}, bbox_mAP {best.value:.4f}" in lines[-2]
    scores = [float(line.split()[1]) for line in lines[2:7]]
    assert scores == sorted(scores, reverse=True) and abs(scores[0] - best.value) < 1e-3
    kept = [path.parent.name for path in (tmp_path / "tune").rglob("*.pdparams")]
    assert kept == [f"trial_{best.number:04d}"] and not list((tmp_path / "tune").rglob("checkpoints"))


def test_the_config_itself_is_the_first_trial(study):
    found, _ = study(near, trials=1, overrides=["LearningRate.base_lr=0.02", "use_ema=true"])
    assert found.trials[0].params == {"LearningRate.base_lr": 0.02, "use_ema": True}


def test_bad_trials_are_pruned(study):
    """Scores fall from trial to trial: from the fourth on each is below the median of those before it."""
    left = iter(range(100, 0, -1))
    found, _ = study(lambda rate, epoch: next(left) / 100, trials=6)
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * 3 + ["PRUNED"] * 3
    assert [len(trial.intermediate_values) for trial in found.trials] == [3, 3, 3, 1, 1, 1]


def test_a_study_goes_on(study):
    study(near, trials=2)
    found, _ = study(near, trials=2)
    assert len(found.trials) == 2 == len(study.trained)
    found, _ = study(near, trials=4)
    assert len(found.trials) == 4
    rates = [trial.params["LearningRate.base_lr"] for trial in found.trials]
    assert len(set(rates)) == 4  # the random numbers go on, too


def test_after_a_kill_the_trial_is_resumed(study, tmp_path):
    def killed(rate, epoch):
        if (tmp_path / "tune" / "trial_0001" / "log.jsonl").exists() and epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return near(rate, epoch)

    child = os.fork()
    if child == 0:
        study(killed, trials=4)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    found, text = study(near, trials=4)
    assert study.trained[0] == ("trial_0001", 2)
    states = [(trial.state.name, trial.user_attrs["folder"]) for trial in found.trials]
    assert states[1:3] == [("FAIL", "trial_0001"), ("COMPLETE", "trial_0001")]
    assert found.trials[1].params == found.trials[2].params
    assert sorted(found.trials[2].intermediate_values) == [1, 2, 3]
    assert len(tuner.ended(found)) == 4 and text.count("trial_0001") <= 2


def test_a_trial_that_always_kills_the_process_is_left_out(study, logged):
    study(near, trials=1)

    def killed(rate, epoch):
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        child = os.fork()
        if child == 0:
            study(killed, trials=2)
            os._exit(1)
        os.waitpid(child, 0)
    found, _ = study(near, trials=2)
    assert "trial_0001 was interrupted 3 times: it is left out" in logged.text
    assert [trial.user_attrs["folder"] for trial in tuner.ended(found)] == ["trial_0000", "trial_0004"]


def test_trials_that_fail_are_in_the_table(study):
    def fails(rate, epoch):
        if len(study.trained) == 2:
            raise UserError("update 7: not finite: loss; lower the learning rate")
        return near(rate, epoch)

    found, text = study(fails, trials=3)
    assert text.count("failed: update 7: not finite: loss") == 1
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_if_all_trials_fail(study):
    def fails(rate, epoch):
        raise UserError("no such file")

    with pytest.raises(UserError, match="tune: no trial was done: no such file$"):
        study(fails, trials=2)


def test_another_config_or_space_needs_another_folder(study, tmp_path):
    study(near, trials=1)
    with pytest.raises(UserError, match="has a study of another config: give another --output_dir"):
        study(near, trials=1, overrides=["epoch=7"])
    (tmp_path / "other.yml").write_text("use_ema: {choices: [true]}\n")
    with pytest.raises(UserError, match="has a study of another space"):
        study(near, trials=1, space="other.yml")


def test_two_at_once(study, tmp_path):
    (tmp_path / "tune").mkdir()
    with tuner.alone(tmp_path / "tune"), pytest.raises(UserError, match="another process tunes there"):
        study(near, trials=1)


def test_a_damaged_database(study, tmp_path):
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "study.db").write_bytes(b"x" * 4096)
    with pytest.raises(UserError, match="study.db: not a study that can be read") as error:
        study(near, trials=1)
    assert "\n" not in str(error.value)
