"""Studies that are killed, shared by several workers, or go on in the folder of something else.

The trainings are those of fake_study.py, which write logs and train nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from paths import ROOT
from studies.fake_study import EPOCHS, fake_command, fake_plan

from ppdet_repro.studies import identity, worker
from ppdet_repro.studies.plan import IDENTITY, RESULT, check_folder, read_json, write_json
from ppdet_repro.studies.queue import Process, Queue
from ppdet_repro.studies.report import write_report
from ppdet_repro.studies.results import collect
from ppdet_repro.studies.worker import run_study
from ppdet_repro.utils.errors import UserError

SCRIPT = Path(__file__).with_name("fake_study.py")
PATIENCE = 120


def start(output, seconds=0.0, workers=1):
    """A worker in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, str(SCRIPT), str(output), str(seconds), str(workers)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """The output of a worker that ends well."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output


def trace(output):
    """How often the trainings started and ended."""
    return Counter((output / "trace.txt").read_text().splitlines())


def without_times(path):
    """A results.json without what differs between two runs of a study."""
    content = json.loads(path.read_text())
    for run in content["runs"]:
        del run["seconds"], run["finished"]
    return content


def without_minutes(table):
    return [line.rsplit("|", 2)[0] for line in table.splitlines()]


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def fake(monkeypatch):
    """Trainings in this process are fake; the value is the time that they take per epoch."""
    seconds = [0.0]
    monkeypatch.setattr(identity, "code_hash", lambda: "code")
    monkeypatch.setattr(worker, "train_command", lambda run, gpus: fake_command(run, seconds[0]))
    return seconds


def test_a_study_from_end_to_end_has_the_numbers_of_a_hand(tmp_path, fake):
    plan = fake_plan(tmp_path)
    run_study(plan, workers=2)
    text = write_report(collect(plan), tmp_path)
    # a: 10 and 12, mean 11, deviation sqrt(2); b: 13 and 16, mean 14.5, deviation 3 / sqrt(2).
    # b - a: 3 and 4, mean 3.5, deviation 0.7071, half of the width 12.7062 x 0.7071 / sqrt(2) = 6.3531; with 3 seeds
    # 4.3027 x 0.7071 / sqrt(3) = 1.76 < 3.5. Second claim: the differences are 23 and 24, and -23 and -24.
    content = json.loads((tmp_path / "results.json").read_text())
    first, second = content["table"]
    assert first["scores"]["AP"] == {"number": 2, "mean": 11.0, "deviation": pytest.approx(2**0.5)}
    assert second["scores"]["AP"] == {"number": 2, "mean": 14.5, "deviation": pytest.approx(3 / 2**0.5)}
    assert first["difference"] is None
    test = content["claims"][0]["tests"][0]
    assert (test["mean"], test["needed"], test["paper"]) == (3.5, 3, 1.5)
    assert (test["low"], test["high"]) == (pytest.approx(-2.8531, abs=1e-4), pytest.approx(9.8531, abs=1e-4))
    assert [claim["verdict"] for claim in content["claims"]] == ["not decidable", "holds"]
    assert "| a     | 11.0 +- 1.4 |       2 |" in text and "14.5 +- 2.1" in text and "+3.50 (-2.85 to +9.85)" in text
    assert [point["AP"] for point in content["runs"][0]["curve"]] == [2.5, 5.0, 7.5, 10.0]  # over four epochs
    page = (tmp_path / "report.html").read_text()
    assert "b is better" in page and page.count("data:image/png;base64") == 2


def test_the_rows_that_were_not_run_have_no_scores_and_no_verdict(tmp_path, fake):
    plan = fake_plan(tmp_path)
    plan = plan._replace(runs=[run for run in plan.runs if run.row == "b"])
    run_study(plan)
    text = write_report(collect(plan), tmp_path)
    first, second = json.loads((tmp_path / "results.json").read_text())["table"]
    assert first["scores"] == {} and second["scores"]["AP"]["mean"] == 14.5
    assert second["difference"] is None and "AP minus that of b" in text  # the first row that was run
    assert text.count("not run") == 4 and "2 of 2 runs" in text


def test_a_finished_study_trains_nothing_again(tmp_path, fake):
    plan = fake_plan(tmp_path)
    for _ in range(2):
        run_study(plan)
    assert trace(tmp_path) == {f"{run.name} {what}": 1 for run in plan.runs for what in ("start", "end")}
    assert list((tmp_path / "leases").iterdir()) == []


def check_kills(tmp_path, kills):
    """Kill a study at random moments, and compare it with one that is not killed. Ten kills:
    PYTHONPATH=.:tests python -c "from studies.test_queue import *; check_kills(Path('/tmp/kills'), 10)"
    """
    undisturbed = finish(start(tmp_path / "undisturbed"))
    rng, output = random.Random(0), tmp_path / "killed"
    for kill in range(kills):
        before = len((output / "trace.txt").read_text().splitlines()) if kill else 0
        process = start(output, seconds=0.3)
        # a training has started again (or for the first time); the kill is at a random moment of its epochs
        wait_for(lambda: (output / "trace.txt").is_file() and sum(trace(output).values()) > before)  # noqa: B023
        time.sleep(rng.uniform(0, 1.0))
        process.kill()
        process.communicate()
    assert without_minutes(finish(start(output))) == without_minutes(undisturbed)
    assert without_times(output / "results.json") == without_times(tmp_path / "undisturbed" / "results.json")
    starts = {name: number for name, number in trace(output).items() if name.endswith("start")}
    assert sum(starts.values()) > 4  # the kills were during trainings
    ends = {name: number for name, number in trace(output).items() if name.endswith("end")}
    assert len(ends) == 4 and sum(ends.values()) <= 4 + kills  # a kill between an end and its record repeats the end


def test_a_study_that_is_killed_has_the_table_of_one_that_is_not(tmp_path):
    check_kills(tmp_path, 3)


def test_two_workers_on_one_folder_do_each_run_once(tmp_path):
    workers = [start(tmp_path, seconds=0.2), start(tmp_path, seconds=0.2)]
    tables = [finish(each) for each in workers]
    assert tables[0] == tables[1]  # both wait for the last run
    assert trace(tmp_path) == {f"{r.name} {what}": 1 for r in fake_plan(tmp_path).runs for what in ("start", "end")}


def test_the_run_of_a_worker_that_died_is_taken_over_by_one_that_waits(tmp_path):
    first = start(tmp_path, seconds=600)
    wait_for(lambda: (tmp_path / "trace.txt").is_file())
    second = start(tmp_path)  # does the three others, and waits
    wait_for(lambda: sum(name.endswith("end") for name in trace(tmp_path).elements()) == 3)
    time.sleep(0.5)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(second)
    assert trace(tmp_path)["a-s0 start"] == 2 and trace(tmp_path)["a-s0 end"] == 1


def foreign_lease(run, beat):
    """A lease of a worker on another machine."""
    return {"worker": "other", "process": ["other machine", 1, "1"], "beat": beat}


def test_a_worker_elsewhere_is_dead_when_its_number_stands_still(tmp_path):
    plan = fake_plan(tmp_path)._replace(runs=fake_plan(tmp_path).runs[:1])
    queue, run = Queue(plan, stale=0.4), plan.runs[0]
    for beat in range(4):  # alive: the number grows
        write_json(queue.lease_path(run), foreign_lease(run, beat))
        assert queue.take() is None
        time.sleep(0.2)
    time.sleep(0.3)
    assert queue.take() == run
    assert Queue(plan, stale=0).take() is None  # the new worker, this process, lives


def test_what_a_dead_worker_left_running_is_ended(tmp_path):
    plan = fake_plan(tmp_path)
    queue, run = Queue(plan), plan.runs[0]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as left:
        training = Process.of(left.pid)
        dead = Process(training.machine, training.pid, "0")  # another process had the number before
        write_json(queue.lease_path(run), {"worker": "dead", "process": dead, "training": training, "beat": 3})
        assert queue.take() == run
        assert left.wait(30) == -signal.SIGKILL


def test_a_worker_that_lost_its_run_writes_no_result(tmp_path):
    plan = fake_plan(tmp_path)
    queue = Queue(plan)
    run = queue.take()
    assert queue.beat(run)
    write_json(queue.lease_path(run), foreign_lease(run, 0))  # it slept, and another worker came
    assert not queue.beat(run)
    assert not queue.finish(run, {"row": "a"})
    assert not (run.folder / RESULT).exists()
    queue.give_back(run)
    assert queue.lease_path(run).is_file()


def test_a_run_that_is_taken_over_while_it_trains_is_left(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(worker, "Heartbeat", lambda queue, run, pid: Beating(queue, run, pid, 0.05))
    fake[0] = 0.5
    plan = fake_plan(tmp_path)._replace(runs=fake_plan(tmp_path).runs[:1])
    queue, run = Queue(plan), plan.runs[0]

    def steal():
        wait_for(lambda: (tmp_path / "trace.txt").is_file() and "training" in read_json(queue.lease_path(run)))
        with queue.lock():
            write_json(queue.lease_path(run), foreign_lease(run, 0))

    thief = threading.Thread(target=steal)
    thief.start()
    run_study(plan, stale=1.0)  # loses the run, waits until the other worker is stale, and does it
    thief.join()
    assert trace(tmp_path)[f"{run.name} start"] == 2 and (run.folder / RESULT).is_file()


Beating = worker.Heartbeat


def test_a_failed_training_ends_the_study_and_gives_its_run_back(tmp_path, fake, monkeypatch):
    program = "print('line one'); raise SystemExit('it is broken')"
    monkeypatch.setattr(worker, "train_command", lambda run, gpus: [sys.executable, "-c", program])
    with pytest.raises(UserError, match="a-s0: training ended with code 1.*\n.*line one\nit is broken|it is broken"):
        run_study(fake_plan(tmp_path))
    assert list((tmp_path / "leases").iterdir()) == []


def test_results_of_other_code_or_data_are_refused(tmp_path, fake):
    run_study(fake_plan(tmp_path))
    plan = fake_plan(tmp_path, code="other")
    with pytest.raises(UserError, match=r"the package's sources \(a-s0, b-s0, a-s1, ...\)"):
        check_folder(plan)
    with pytest.raises(UserError, match="the package's sources"):
        run_study(plan)
    with pytest.raises(UserError, match="the package's sources"):
        collect(plan)


def test_a_run_that_is_not_complete_is_not_continued_with_other_data(tmp_path, fake):
    plan = fake_plan(tmp_path)
    write_json(plan.runs[1].folder / IDENTITY, {**plan.runs[1].identity, "data": "others"})
    with pytest.raises(UserError, match=r"the data \(b-s0\)"):
        run_study(plan)


def test_sources_that_change_during_a_study_end_it(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(identity, "code_hash", lambda: "edited")
    with pytest.raises(UserError, match="sources changed"):
        run_study(fake_plan(tmp_path))


def test_the_progress_has_the_expected_end(tmp_path, fake, logged):
    run_study(fake_plan(tmp_path))
    lines = [line for line in logged.messages if "runs done" in line]
    assert lines[0].startswith("1 of 4 runs done; a-s0: AP 10.0; expected end")
    assert lines[-1] == "4 of 4 runs done; b-s1: AP 16.0"


def test_the_curve_of_a_resumed_run_has_every_epoch_once(tmp_path, fake):
    plan = fake_plan(tmp_path)
    run = plan.runs[0]
    fake_done = [
        {"kind": kind, "epoch": 1, "step": 1, "loss": 1.0, "lr": 0.1, "bbox_mAP": 0.025} for kind in ("train", "eval")
    ]
    run.log.parent.mkdir(parents=True)
    run.log.write_text("".join(json.dumps(line) + "\n" for line in fake_done))
    write_json(run.folder / IDENTITY, dict(run.identity))
    run_study(plan)
    result = read_json(run.folder / RESULT)
    assert [point["epoch"] for point in result["curve"]] == list(range(1, EPOCHS + 1))
    assert result["seconds"] is None  # the time of a part says nothing about the whole
