"""A study whose trainings only write logs: two rows, two seeds, known scores. Run as a script, it is one worker.

python fake_study.py OUTPUT [SECONDS_PER_EPOCH [WORKERS]]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Sequence

from ppdet_repro.core.config.document import Node
from ppdet_repro.studies import identity, worker
from ppdet_repro.studies.plan import Plan, Run
from ppdet_repro.studies.report import write_report
from ppdet_repro.studies.results import collect
from ppdet_repro.studies.study import Study, read_study

EPOCHS = 4
SCORES = {("a", 0): 10.0, ("a", 1): 12.0, ("b", 0): 13.0, ("b", 1): 16.0}  # AP in points at the end
DOCUMENT = {
    "title": "A fake study",
    "seeds": [0, 1],
    "data": {"folder": "nowhere"},
    "rows": {"a": {"config": "none.yml", "paper": {"AP": 30.0}}, "b": {"config": "none.yml", "paper": {"AP": 31.5}}},
    "claims": [{"text": "b is better", "test": "b > a"}, {"test": ["b > a - 20", "a <= b + 20"]}],
}

# Goes on behind the epochs that its log has, as a training goes on from its checkpoint. trace.txt lists the starts and
# ends of all trainings.
TRAINING = """
import json, os, sys, time
from pathlib import Path
from ppdet_repro.utils.launch import end_with_launcher
end_with_launcher()
folder, score, seconds, epochs = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
def trace(what):
    with open(folder.parent.parent / "trace.txt", "a") as file:
        file.write(f"{folder.name} {what}\\n")
trace("start")
log = folder / "train" / "log.jsonl"
log.parent.mkdir(parents=True, exist_ok=True)
done = len(log.read_text().splitlines()) // 2 if log.is_file() else 0
for epoch in range(done + 1, epochs + 1):
    time.sleep(seconds)
    ap = score / 100 * epoch / epochs
    lines = [{"kind": "train", "epoch": epoch, "step": epoch, "loss": 1.0, "lr": 0.1},
             {"kind": "eval", "epoch": epoch, "step": epoch, "bbox_mAP": ap, "bbox_mAP_l": -1}]
    with open(log, "a") as file:
        file.write("".join(json.dumps(line) + "\\n" for line in lines))
trace("end")
"""


def fake_study() -> Study:
    """The study, as if it had been read from a file."""
    return read_study("fake", Node.of(DOCUMENT))


def fake_plan(output: Path, code: str = "code") -> Plan:
    """The plan of the study, in the order of its runs."""
    own = {"code": code, "paddle": "1", "data": "data", "config": "config"}
    runs = [
        Run(row, seed, "none.yml", (), output / "runs" / f"{row}-s{seed}", own) for seed in (0, 1) for row in ("a", "b")
    ]
    return Plan(fake_study(), "miniature", output, runs)


def fake_command(run: Run, seconds: float) -> List[str]:
    """The command of a training that only writes its log."""
    return [sys.executable, "-c", TRAINING, str(run.folder), str(SCORES[run.row, run.seed]), str(seconds), str(EPOCHS)]


def main(argv: Sequence[str]) -> None:
    output, seconds = Path(argv[0]), float(argv[1]) if len(argv) > 1 else 0.0
    identity.code_hash = lambda: "code"  # not the package's, which may be edited while the tests run
    worker.train_command = lambda run, gpus: fake_command(run, seconds)
    plan = fake_plan(output)
    worker.run_study(plan, int(argv[2]) if len(argv) > 2 else 1)
    print(write_report(collect(plan), output))


if __name__ == "__main__":
    main(sys.argv[1:])
