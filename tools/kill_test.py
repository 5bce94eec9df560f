"""Kill trainings at random moments, resume them, and compare all their files with those of undisturbed runs.

    python tools/kill_test.py --kills 200                 # about 10 seconds per kill
    python tools/kill_test.py --kills 20 --seed 7

A small YOLOF is trained with `tools/train.py --eval --resume auto`, in one process and in two (--processes 2), with a
moving average and data workers. SIGKILL ends all processes of a training, the first one alone, or one of the others: at
any time from the start on, between updates, or while files are written. The training is started again until it is
complete. A run fails if a training does not start again, if a checkpoint is lost, if processes remain 60 seconds after
the kill, or if a file at the end differs from that of an undisturbed run (in log.jsonl, the speed may).

Finished runs are recorded in --output: the same command, started again, continues after them. The exit code is 1 if a
run failed; its folder is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple

import _checkout

from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.engine.analysis.run_page import PAGE
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "demo/yolof_demo_narrow"
NAME = "yolof_demo_narrow"
IMAGES, BATCH, EPOCHS = 12, 2, 6  # per epoch 6 updates of one process, or 3 of two
KILLS_PER_RUN = 8
PATIENCE = 60.0  # seconds after a kill in which all other processes must have ended
POLL = 0.002  # seconds
VICTIMS = ("all", "first", "other")
UNEQUAL_KEYS = ("images_per_second",)  # in the lines of log.jsonl

Command = Callable[[Path, int], List[str]]  # from a run's folder and its number of processes


class Undisturbed(NamedTuple):
    """A run that was not killed."""

    files: Dict[str, str]  # see `content`
    seconds: float
    lines: int  # of its log


class Outcome(NamedTuple):
    """A run that was killed and resumed until it was complete."""

    number: int
    processes: int
    victims: List[str]  # of each kill
    epochs: List[int]  # the newest checkpoint after each kill
    problems: List[str]


def training(folder: Path, processes: int) -> List[str]:
    """The command of a training whose results go to `folder`."""
    data = folder.parent / "data"
    settings = [
        f"save_dir={folder}", f"TrainDataset.dataset_dir={data}", f"EvalDataset.dataset_dir={data}",
        f"TrainReader.batch_size={BATCH}", f"epoch={EPOCHS}", "snapshot_epoch=1", "log_iter=1", "worker_num=1",
        "use_ema=true", "checkpoints_kept=3",
    ]  # fmt: skip
    script = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(ROOT / "configs" / f"{CONFIG}.yml")]
    return [*script, "--eval", "--resume", "auto", "--processes", str(processes), "-o", *settings]


class Training:
    """A started training, the leader of a process group of its own; its output goes to a file."""

    def __init__(self, command: List[str], log: Path):
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def runs(self) -> bool:
        return self.process.poll() is None

    def members(self) -> List[int]:
        """The processes of the group that run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has ended
                    continue
                if int(fields[2]) == self.process.pid and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return found

    def kill(self, victim: str, rng: random.Random) -> None:
        """Send SIGKILL to all processes, to the first one, or to one of the others (the first if there are none)."""
        others = [pid for pid in self.members() if pid != self.process.pid]
        if victim == "all":
            self.kill_all()
            return
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(rng.choice(sorted(others)) if victim == "other" and others else self.process.pid, signal.SIGKILL)

    def end(self) -> List[str]:
        """Wait until no process is left. A problem if that takes too long; the rest is killed then."""
        deadline = time.monotonic() + PATIENCE
        while self.runs() or self.members():
            if time.monotonic() > deadline:
                left = len(self.members())
                self.kill_all()
                return [f"{left} processes were left {PATIENCE:.0f} seconds after the kill"]
            time.sleep(0.05)
        return []

    def kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill_all()


def wait_for_moment(started: Training, results: Path, rng: random.Random, whole: Undisturbed) -> None:
    """Wait for a random moment of a training, or until it ends."""
    kind = rng.choices(["any", "update", "writing"], [2, 4, 4])[0]
    if kind == "any":
        pause = rng.uniform(0, whole.seconds / 4)
    else:
        left, before = rng.randint(1, max(1, whole.lines // 4)), log_lines(results)
        while started.runs() and left > 0:
            time.sleep(POLL)
            now = log_lines(results)
            left -= max(0, now - before)  # at the start, lines are removed
            before = now
        while kind == "writing" and started.runs() and not any(temporary_files(results)):
            time.sleep(POLL)
        pause = rng.uniform(0, 0.1 if kind == "writing" else whole.seconds / whole.lines)
    end = time.monotonic() + pause
    while started.runs() and time.monotonic() < end:
        time.sleep(POLL)


def log_lines(results: Path) -> int:
    """The number of lines in a training's log; 0 if there is none yet."""
    with suppress(OSError):
        return (results / "log.jsonl").read_bytes().count(b"\n")
    return 0


def temporary_files(results: Path) -> Iterator[Path]:
    """The unfinished weights and checkpoints in a training's folder."""
    for folder in (results, results / "checkpoints"):
        yield from (path for path in folder.glob(".*.tmp") if not path.name.startswith(".log"))


def newest_epoch(results: Path) -> int:
    """The epoch of the newest checkpoint; 0 if there is none."""
    return max((int(path.name[6:]) for path in results.glob("checkpoints/epoch_*")), default=0)


def content(results: Path) -> Dict[str, str]:
    """The SHA-256 of every file below a folder by its name there, without what differs between equal runs."""
    found = {}
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.name != PAGE:  # which has the folder's name in it
            data = path.read_bytes()
            if path.name == "log.jsonl":
                lines = [json.loads(line) for line in data.splitlines()]
                data = json.dumps([{k: v for k, v in x.items() if k not in UNEQUAL_KEYS} for x in lines]).encode()
            found[str(path.relative_to(results))] = hashlib.sha256(data).hexdigest()
    return found


def differences(found: Dict[str, str], expected: Dict[str, str]) -> List[str]:
    """The names of files that are missing, unexpected or unequal."""
    words = {True: "is missing", False: "differs from the undisturbed run's"}
    wrong = [f"{name} {words[name not in found]}" for name in expected if found.get(name) != expected[name]]
    return wrong + [f"{name} is not among the undisturbed run's files" for name in found if name not in expected]


def killed_run(
    number: int, folder: Path, processes: int, command: Command, whole: Undisturbed, rng: random.Random, kills: int
) -> Outcome:
    """Train in `folder`, interrupted by so many kills, until the training is complete.

    The files are not compared with those of the undisturbed run `whole`.
    """
    outcome = Outcome(number, processes, [], [], [])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = folder / NAME
    while True:
        with Training(command(folder, processes), folder / "output.txt") as started:
            if len(outcome.victims) < kills:
                wait_for_moment(started, results, rng, whole)
            else:
                started.process.wait()
            if not started.runs():
                if started.process.returncode:
                    outcome.problems.append(f"a training ended with exit code {started.process.returncode}")
                outcome.problems.extend(started.end())
                return outcome
            victim, before = rng.choice(VICTIMS), newest_epoch(results)
            started.kill(victim, rng)
            outcome.victims.append(victim)
            outcome.problems.extend(f"{victim} killed: {problem}" for problem in started.end())
        outcome.epochs.append(newest_epoch(results))
        if outcome.epochs[-1] < before:
            outcome.problems.append(f"the checkpoint of epoch {before} is lost")


def kill_trainings(command: Command, output: Path, kills: int, seed: int) -> List[Outcome]:
    """Kill trainings so many times. The outcomes of all runs, those of earlier calls among them."""
    records = output / f"seed_{seed}.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    outcomes = [Outcome(**json.loads(line)) for line in lines]
    for outcome in outcomes:
        print(sentence(outcome), "(recorded)")
    expected = {processes: undisturbed(command, output, processes) for processes in (1, 2)}
    while (left := kills - sum(len(outcome.victims) for outcome in outcomes)) > 0:
        number = len(outcomes)
        rng, processes = random.Random(f"{seed} {number}"), 1 + number % 2
        folder = output / f"seed_{seed}_run_{number}"
        whole = expected[processes]
        outcome = killed_run(number, folder, processes, command, whole, rng, min(left, KILLS_PER_RUN))
        outcome.problems.extend(differences(content(folder / NAME), whole.files))
        outcomes.append(outcome)
        with open(records, "a") as file:
            file.write(json.dumps(outcome._asdict()) + "\n")
        print(sentence(outcome), flush=True)
        if not outcome.problems:
            shutil.rmtree(folder)
    return outcomes


def undisturbed(command: Command, output: Path, processes: int) -> Undisturbed:
    """A run without kills, once per output folder."""
    folder, record = output / f"undisturbed_{processes}", output / f"undisturbed_{processes}.json"
    if not record.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.monotonic()
        with Training(command(folder, processes), folder / "output.txt") as started:
            if code := started.process.wait():
                raise UserError(f"the undisturbed training ended with exit code {code}; see {folder}/output.txt")
        whole = Undisturbed(content(folder / NAME), time.monotonic() - start, log_lines(folder / NAME))
        record.write_text(json.dumps(whole))
        print(f"undisturbed, {processes} processes: {time.monotonic() - start:.1f} seconds", flush=True)
    return Undisturbed(*json.loads(record.read_text()))


def sentence(outcome: Outcome) -> str:
    """The outcome as a line."""
    counts = ", ".join(f"{victim} {count}" for victim, count in sorted(Counter(outcome.victims).items()))
    kills = f"{len(outcome.victims)} kills ({counts}) after epochs {outcome.epochs}"
    return f"run {outcome.number}, {outcome.processes} processes: {kills}: {'; '.join(outcome.problems) or 'equal'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kills", type=at_least_one, default=20, metavar="N", help="kills in all (default: 20)")
    add("--seed", type=int, default=0, help="of the random moments and victims (default: 0)")
    add("--output", type=Path, default=ROOT / "output/kill_test", metavar="DIR", help="default: output/kill_test")
    flags = parser.parse_args()
    output = flags.output.resolve()
    generate(output / "data", train=IMAGES, val=2, size=(128, 128))
    outcomes = kill_trainings(training, output, flags.kills, flags.seed)
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    victims = Counter(victim for outcome in outcomes for victim in outcome.victims)
    counts = ", ".join(f"{victim} {victims[victim]}" for victim in VICTIMS)
    print(f"{sum(victims.values())} kills ({counts}) in {len(outcomes)} runs: {failed} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
