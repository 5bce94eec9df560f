"""tools/kill_test.py on trainings that are a few lines of Python: what it kills, and what it takes for a failure."""

from __future__ import annotations

import json
import random
import sys
import textwrap
import time

import pytest

from tools import kill_test
from tools.kill_test import NAME, Training, content, differences, kill_trainings

# Writes a checkpoint per epoch and continues after the newest one. MISTAKE is a line that something is wrong with.
PROGRAM = """
    import json, os, subprocess, sys, time
    from pathlib import Path
    run = Path(sys.argv[1], "NAME")
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for left in checkpoints.glob(".*.tmp"):
        left.unlink()
    mark = Path(sys.argv[1], "started")
    again = mark.exists()
    mark.touch()
    helper = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    epochs = sorted(int(path.name[6:]) for path in checkpoints.glob("epoch_*"))
    log = run / "log.jsonl"
    if log.exists():
        lines = log.read_text().splitlines()[: epochs[-1] if epochs else 0]
        log.write_text("".join(line + chr(10) for line in lines))
    state = int((checkpoints / f"epoch_{epochs[-1]}").read_text()) if epochs else 1
    for epoch in range(epochs[-1] + 1 if epochs else 1, 6):
        time.sleep(0.03)
        state = state * 7 % 1000
        MISTAKE
        if helper.poll() is not None:
            sys.exit(1)
        with open(log, "a") as file:
            file.write(json.dumps({"epoch": epoch}) + chr(10))
        temporary = checkpoints / f".epoch_{epoch}.tmp"
        temporary.write_text(str(state))
        time.sleep(0.01)
        temporary.rename(checkpoints / f"epoch_{epoch}")
    (run / "final").write_text(str(state))
"""


@pytest.fixture
def kill(tmp_path, monkeypatch):
    """Kills trainings of the program, with a mistake in it, so many times."""

    def run(kills, mistake="pass"):
        monkeypatch.setattr(kill_test, "PATIENCE", 0.5 if "sleep" in mistake else 10.0)
        code = textwrap.dedent(PROGRAM).replace("NAME", NAME).replace("MISTAKE", mistake)
        return kill_trainings(
            lambda folder, processes: [sys.executable, "-S", "-c", code, str(folder)], tmp_path, kills, 0
        )

    return run


def test_a_training_that_resumes_well_passes_and_what_is_done_is_not_repeated(kill, capsys):
    first = kill(4)
    assert [problem for outcome in first for problem in outcome.problems] == []
    assert sum(len(outcome.victims) for outcome in first) == sum(len(outcome.epochs) for outcome in first) == 4
    assert first[0].processes == 1 and capsys.readouterr().out.count("equal\n") == len(first)
    second = kill(5)
    assert second[: len(first)] == first and sum(len(outcome.victims) for outcome in second) == 5
    assert second[1].processes == 2 and capsys.readouterr().out.count("equal (recorded)\n") == len(first)


@pytest.mark.parametrize(
    "mistake, problem",
    [
        ("state += again", "final differs"),
        ("again and sys.exit(7)", "a training ended with exit code 7"),
        ("again and epoch == 5 and (checkpoints / 'epoch_1').unlink(missing_ok=True)", "epoch_1 is missing"),
        ("open(run / str(os.getpid()), 'w')", "is not among the undisturbed run's files"),
        ("subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(20)'])", "processes were left"),
    ],
)
def test_what_it_takes_for_a_failure(kill, mistake, problem):
    found = [text for outcome in kill(4, mistake) for text in outcome.problems]
    assert any(problem in text for text in found), found


def test_equal_and_unequal_folders(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, speed in ((one, 10), (other, 20)):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "log.jsonl").write_text(json.dumps({"loss": 1.5, "images_per_second": speed}) + "\n")
        (folder / "checkpoints" / "a").write_text("a")
    assert differences(content(one), content(other)) == []
    (one / "log.jsonl").write_text('{"loss": 1.25}\n')
    (one / "checkpoints" / "a").unlink()
    (one / "b").write_text("b")
    assert differences(content(one), content(other)) == [
        "checkpoints/a is missing",
        "log.jsonl differs from the undisturbed run's",
        "b is not among the undisturbed run's files",
    ]


@pytest.mark.parametrize("victim, left", [("all", 0), ("first", 1), ("other", 1)])
def test_who_is_killed(victim, left, tmp_path):
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(30)'])"
    with Training([sys.executable, "-S", "-c", f"{code}; time.sleep(30)"], tmp_path / "log") as training:
        while len(training.members()) < 2:
            time.sleep(0.01)
        training.kill(victim, random.Random(0))
        deadline = time.monotonic() + 10
        while len(alive := training.members()) > left and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(alive) == left and (training.process.pid in alive) == (victim == "other")
    deadline = time.monotonic() + 10
    while training.members() and time.monotonic() < deadline:  # SIGKILL takes a moment
        time.sleep(0.01)
    assert training.members() == []
