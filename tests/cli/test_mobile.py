"""tools/mobile.py: its commands fit each other, and it repeats nothing that was done."""

from __future__ import annotations

import argparse
import shlex
import subprocess

import pytest
from paths import ROOT

from ppdet_repro.core.config import load_config
from ppdet_repro.utils.errors import UserError
from tools import mobile
from tools.mobile import RECIPES, commands, run_steps

STEPS = {"teacher": ["t --resume auto -c a"], "student": ["learn --resume auto"], "export": ["e1", "e2"]}


@pytest.fixture
def ran(monkeypatch):
    """The commands that are run. One that contains `ran.fails` has exit code 3."""

    class Ran(list):
        fails = None

    found = Ran()

    def pretend(command, **_):
        found.append(" ".join(command[1:]))
        return subprocess.CompletedProcess(command, 3 if found.fails and found.fails in found[-1] else 0)

    monkeypatch.setattr(mobile.subprocess, "run", pretend)
    return found


def test_a_second_start_repeats_nothing(ran, tmp_path, capsys):
    run_steps(STEPS, tmp_path, None)
    # Only the first step can have been interrupted before; those after it start anew with what it made.
    assert ran == ["t --resume auto -c a", "learn", "e1", "e2"]
    run_steps(STEPS, tmp_path, None)
    assert len(ran) == 4 and "student: done before, in 0 seconds" in capsys.readouterr().out


def test_it_continues_with_the_step_that_failed(ran, tmp_path):
    ran.fails = "learn"
    with pytest.raises(UserError, match="'student' failed with exit code 3"):
        run_steps(STEPS, tmp_path, None)
    ran.clear()
    ran.fails = "e2"
    with pytest.raises(UserError, match="'export' failed"):
        run_steps(STEPS, tmp_path, None)
    assert ran == ["learn --resume auto", "e1", "e2"]


def test_a_changed_or_named_step_and_those_after_it_are_repeated(ran, tmp_path):
    run_steps(STEPS, tmp_path, None)
    ran.clear()
    run_steps(STEPS, tmp_path, "student")
    assert ran == ["learn", "e1", "e2"]
    ran.clear()
    run_steps({**STEPS, "student": ["other --resume auto"]}, tmp_path, None)
    assert ran == ["other --resume auto", "e1", "e2"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_name_configs_that_fit_each_other(name):
    steps = commands(RECIPES[name], "out")
    for command in [command for lines in steps.values() for command in lines if " -c " in command]:
        parser = argparse.ArgumentParser()
        parser.add_argument("-c")
        parser.add_argument("--slim_config")
        parser.add_argument("-o", nargs="+", default=[])
        flags, _ = parser.parse_known_args(shlex.split(command))
        slim = flags.slim_config and ROOT / flags.slim_config
        cfg = load_config(ROOT / flags.c, flags.o, slim)
        if "train.py" in command:  # the name of its folder is what the later steps read
            assert cfg.run.save_dir == "out"
            used = [line for lines in steps.values() for line in lines if f"out/{cfg.name}/best_model.pdparams" in line]
            assert used, cfg.name
        if "export" in command and command.endswith("paddle"):
            assert f"out/exported/{cfg.name}" in steps["benchmark"][0].split()
