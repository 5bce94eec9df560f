"""Several processes of one command on one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT

from ppdet_repro.utils.launch import free_ports, rank_environs, run_processes

RANK = "import os, sys, time; rank = int(os.environ['PADDLE_TRAINER_ID']); "


def test_every_rank_knows_itself_and_all():
    first, second = rank_environs(2, [1001, 1002, 1003], {"HOME": "/home/me"})
    for environ in (first, second):
        assert environ["HOME"] == "/home/me"
        assert environ["PADDLE_TRAINERS_NUM"] == environ["PADDLE_LOCAL_SIZE"] == "2"
        assert environ["PADDLE_TRAINER_ENDPOINTS"] == "127.0.0.1:1001,127.0.0.1:1002"
        assert environ["PADDLE_MASTER"] == "127.0.0.1:1003"
    assert (first["PADDLE_TRAINER_ID"], first["PADDLE_CURRENT_ENDPOINT"]) == ("0", "127.0.0.1:1001")
    assert (second["PADDLE_TRAINER_ID"], second["PADDLE_CURRENT_ENDPOINT"]) == ("1", "127.0.0.1:1002")


def test_ports_are_different():
    assert len(set(free_ports(8))) == 8


def test_all_succeed(tmp_path):
    assert run_processes(3, ["-c", RANK + f"open(r'{tmp_path}/' + str(rank), 'w')"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize("code, expected", [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 1)])
def test_one_failure_ends_the_others(code, expected):
    start = time.monotonic()
    assert run_processes(2, ["-c", RANK + f"time.sleep(60) if rank == 0 else {code}"]) == expected
    assert time.monotonic() - start < 30


def test_arguments_arrive(tmp_path):
    target = tmp_path / "out"
    script = f"import sys; open(r'{target}', 'w').write(sys.argv[1])"
    assert run_processes(1, ["-c", script, "hello"]) == 0
    assert target.read_text() == "hello"


def test_a_script_or_a_module_can_run_itself_again(tmp_path):
    """As a file and with -m, the first run starts two others, which write a file each."""
    text = """
import os, sys
from ppdet_repro.utils.launch import rerun_arguments, run_processes
if "PADDLE_TRAINER_ID" not in os.environ:
    sys.exit(run_processes(2, [*rerun_arguments(), *sys.argv[1:]]))
open(os.path.join(sys.argv[1], __name__ + os.environ["PADDLE_TRAINER_ID"]), "w")
"""
    (tmp_path / "again.py").write_text(text)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number, command in enumerate((["again.py"], ["-m", "again"])):
        out = tmp_path / str(number)
        out.mkdir()
        subprocess.run([sys.executable, *command, str(out)], cwd=tmp_path, env=environ, check=True, timeout=60)
        assert sorted(path.name for path in out.iterdir()) == ["__main__0", "__main__1"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_who_ends_the_parent_ends_the_children(number, code, tmp_path):
    begin = "import os, time; from ppdet_repro.utils.launch import end_with_launcher; end_with_launcher()"
    child = f"{begin}; open(r'{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(60)"
    parent = f"from ppdet_repro.utils.launch import run_processes; run_processes(2, ['-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == code
    deadline = time.monotonic() + 30
    while (left := [path.name for path in tmp_path.iterdir() if runs(int(path.name))]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


@pytest.mark.parametrize(
    ("own", "code"), [("", -signal.SIGTERM), ("signal.signal(15, lambda number, frame: os._exit(7));", 7)]
)
def test_sigterm_ends_a_process_without_the_handler_of_paddle(own, code):
    begin = f"import os, signal; from ppdet_repro.engine.distributed import start; {own} start(False)"
    text = f"{begin}; signal.raise_signal(signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code and "SIGTERM" not in done.stdout + done.stderr


def runs(pid):
    """Whether there is a process of this number that has not ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
