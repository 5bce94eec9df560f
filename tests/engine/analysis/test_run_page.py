"""The page of a training run."""

from __future__ import annotations

import json
import re

import cv2
import pytest

from ppdet_repro.engine.analysis.run_page import CURVES, PAGE, RunPage, evaluation_table
from ppdet_repro.utils.errors import UserError

TRAIN = [{"kind": "train", "epoch": epoch, "step": 10 * epoch, "lr": 0.1, "loss": 1 / epoch} for epoch in (1, 2, 3)]
COCO = [{"kind": "eval", "epoch": 1, "step": 10, "bbox_mAP": 0.25, "bbox_mAP_50": 0.5, "bbox_mAP_s": -1.0}]
VOC = [{"kind": "eval", "epoch": epoch, "step": 10 * epoch, "bbox_mAP": ap} for epoch, ap in ((1, 0.5), (2, 0.4))]
RUN = RunPage(
    title="my_run",
    epochs=12,
    facts=[("training", "3 images, 4 boxes of 2 classes (<b>)")],
    commands=[("Evaluate:", "ppdet-repro eval -c my.yml -o weights='my run/best_model.pdparams'")],
    config="epoch: 12  my.yml:3",
)


@pytest.fixture
def write(tmp_path):
    def write(*entries):
        log = tmp_path / "log.jsonl"
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        RUN.write(log)
        return (tmp_path / PAGE).read_text()

    return write


def test_the_page_needs_no_other_file_and_no_network(write, tmp_path):
    page = write(*TRAIN, *COCO)
    assert set(re.findall(r'(?:src|href)="([^"]{0,21})', page)) == {"data:image/png;base64"}
    assert cv2.imread(str(tmp_path / CURVES)).std() > 5
    assert "Epoch 3 of 12, 30 updates. Best AP: 0.250, after epoch 1." in page
    assert "<th>epoch</th><th>AP</th><th>AP50</th><th>AP_S</th>" in page
    assert "<td>1</td><td>0.250</td><td>0.500</td><td>-</td>" in page
    for text in ("3 images, 4 boxes of 2 classes (&lt;b&gt;)", "weights=&#39;my run/", "epoch: 12  my.yml:3"):
        assert text in page


def test_a_run_without_evaluations(write):
    page = write(*TRAIN)
    assert "Epoch 3 of 12, 30 updates." in page and "Evaluations" not in page and "Best" not in page


def test_scores_of_voc_are_called_so(write):
    assert "Best VOC mAP: 0.500, after epoch 1." in write(*TRAIN, *VOC)
    assert evaluation_table(VOC) == {"metrics": ["VOC mAP"], "evaluations": [(1, [0.5]), (2, [0.4])]}


def test_the_same_log_gives_the_same_files(write, tmp_path):
    """A run that was killed and resumed has the files of one that was not."""
    pages = [(write(*TRAIN, *COCO), (tmp_path / CURVES).read_bytes()) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_folder_that_cannot_be_written_is_one_clear_error(write, tmp_path):
    (tmp_path / CURVES).mkdir()
    with pytest.raises(UserError, match=CURVES):
        write(*TRAIN)
