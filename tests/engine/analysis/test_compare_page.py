"""The page that compares several runs."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from paths import ROOT

from ppdet_repro.engine.analysis.compare_page import class_rows, compared_score, score_of, summary, write_comparison
from ppdet_repro.utils.curves import run_names
from ppdet_repro.utils.errors import UserError

COCO = [
    {"kind": "eval", "epoch": 1, "bbox_mAP": 0.3, "bbox_mAP_50": 0.6, "bbox_AP/cat": 0.3, "bbox_F1": 0.5},
    {"kind": "eval", "epoch": 2, "bbox_mAP": 0.2, "bbox_mAP_50": 0.7, "bbox_mAP_s": -1.0, "bbox_AP/cat": 0.2},
]
VOC = [{"kind": "eval", "epoch": 3, "bbox_mAP": 0.8, "bbox_AP/cat": 0.9, "bbox_AP/dog": 0.7}]


def write_run(folder, evaluations):
    folder.mkdir(parents=True)
    train = [{"kind": "train", "epoch": i, "step": i, "lr": 0.1, "loss": 1 / i} for i in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": 3, **entry}) + "\n" for entry in train + evaluations))
    return str(folder)


def test_runs_are_compared_in_ap_or_in_ap50_if_one_has_voc_s():
    assert compared_score([COCO, COCO]) == ("bbox_mAP", "AP") and compared_score([COCO, VOC]) == ("bbox_mAP_50", "AP50")
    assert score_of(COCO[0], "bbox_mAP") == 0.3 and score_of(COCO[1], "bbox_mAP_s") is None
    # VOC's mean AP is for an IoU of 0.5: AP50, not AP
    assert score_of(VOC[0], "bbox_mAP_50") == 0.8 and score_of(VOC[0], "bbox_mAP") is None


def test_the_best_evaluation_by_the_compared_score():
    nothing = [None] * 4
    assert summary(COCO, "bbox_mAP") == (1, [0.3, 0.6, *nothing, None, None, 0.5, None])
    assert summary(COCO, "bbox_mAP_50") == (2, [0.2, 0.7, *nothing, *nothing])
    assert summary(VOC, "bbox_mAP_50") == (3, [None, 0.8, *nothing, *nothing])
    assert summary([], "bbox_mAP") == (None, [None] * 10)
    assert class_rows([COCO, VOC, []]) == [("cat", [0.2, 0.9, None]), ("dog", [None, 0.7, None])]


def test_runs_of_the_same_name_have_their_whole_paths():
    assert run_names(["a/x", "b/y/"]) == ["x", "y"] and run_names(["a/x", "b/x"]) == ["a/x", "b/x"]


def test_the_command_writes_a_page_that_needs_no_network(tmp_path):
    folders = [write_run(tmp_path / "a" / "<one>", COCO), write_run(tmp_path / "two", VOC)]
    page = tmp_path / "new" / "compare.html"
    command = [sys.executable, ROOT / "tools" / "compare_runs.py", *folders, "--page", page]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "| two" in done.stdout and f"curves in {page}" in done.stdout, done.stderr
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link", text) and "the highest AP50" in text
    assert "<td>&lt;one&gt;</td><td>2</td><td>0.200</td><td>0.700</td>" in text
    assert "<td>two</td><td>3</td><td>-</td><td>0.800</td>" in text
    (image,) = re.findall(r'src="data:image/png;base64,([^"]*)', text)
    assert cv2.imdecode(np.frombuffer(base64.b64decode(image), np.uint8), cv2.IMREAD_COLOR).std() > 5


def test_a_folder_without_a_run_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="log.jsonl: No such file"):
        write_comparison([str(tmp_path)], tmp_path / "compare.html")
