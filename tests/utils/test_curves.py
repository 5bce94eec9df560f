"""The plot of a training run: which logs are refused, and that the others become an image."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from ppdet_repro.utils.curves import draw_curves, even_lines, read_log
from ppdet_repro.utils.errors import UserError

TRAIN = [{"kind": "train", "epoch": 1, "step": i, "lr": 0.1, "loss": 2 / i, "loss_x": 1 / i} for i in (1, 2)]
EVAL = {"kind": "eval", "epoch": 1, "step": 2, "bbox_mAP": 0.25, "bbox_mAP_50": 0.5}


def write(path: Path, *entries: dict) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.mark.parametrize("entries", [[*TRAIN, EVAL], TRAIN, TRAIN[:1]], ids=["full", "no scores", "one line"])
def test_a_log_becomes_an_image(tmp_path, entries):
    draw_curves(write(tmp_path / "log.jsonl", *entries), tmp_path / "new" / "curves.png")
    assert cv2.imread(str(tmp_path / "new" / "curves.png")).std() > 5


def test_entries_are_sorted_by_kind(tmp_path):
    entries = read_log(write(tmp_path / "log.jsonl", TRAIN[0], EVAL, TRAIN[1]))
    assert [e["step"] for e in entries["train"]] == [1, 2] and entries["eval"] == [EVAL]


@pytest.mark.parametrize(
    "text, message",
    [("", "the log has no updates yet"), ("boxes", "not a log"), ("[1]", "not a log"), ('{"kind": 3}', "not a log")],
)
def test_what_is_no_log_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(UserError, match="No such file"):
        read_log(tmp_path / "missing.jsonl")


def test_lines_of_few_updates_are_joined_with_those_that_follow():
    """The first line of an epoch is of one update, the second of 19: the mean of 3 and 19 times 1 is 1.1."""
    train = [
        {"step": s, "lr": r, "loss": v} for s, r, v in ((1, 0.1, 3.0), (20, 0.2, 1.0), (21, 0.3, 5.0), (40, 0.4, 2.0))
    ]
    assert even_lines(train) == [{"step": 20, "lr": 0.2, "loss": 1.1}, {"step": 40, "lr": 0.4, "loss": 2.15}]
    assert even_lines(train[:3]) == [{"step": 20, "lr": 0.2, "loss": 1.1}, {"step": 21, "lr": 0.3, "loss": 5.0}]
    assert even_lines(train[:1]) == train[:1]
