"""Positive anchors by size of the objects (YOLOF, figure 6), and tables of runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ppdet_repro import load_config
from ppdet_repro.data.transform.resize import Resize, Size
from ppdet_repro.engine.analysis.positive_anchors import (
    PositiveCounts,
    count_positives,
    counts_table,
    positives_per_object,
    write_plot,
)
from ppdet_repro.modeling.anchors import AnchorGenerator
from ppdet_repro.modeling.assigners.max_iou_assigner import MaxIoUAssigner
from ppdet_repro.modeling.assigners.uniform_assigner import UniformAssigner
from ppdet_repro.utils.curves import runs_table
from ppdet_repro.utils.errors import UserError


def head(assigner, sizes=(32.0,)):
    generator = AnchorGenerator([list(sizes)], [1.0], [32])
    return type("Head", (), {"bbox_assigner": assigner, "anchor_generator": generator})()


# an image of 64 x 128 px, doubled to 128 x 256: 4 x 8 anchors of 32 px with centers at multiples of 32
RESIZE = Resize([128, 256], keep_ratio=True)
SIZE = Size(64, 128)


def test_positives_are_counted_in_the_networks_input():
    # the box 8..24, 8..24 is 16..48 there, exactly the anchor at (32, 32): IoU 1. Its four neighbours overlap it by
    # nothing. The box 16..64 (both) is 32..128, 96 px: the anchors at 64 and 96 lie inside (IoU 1/9 each, four of
    # them); those at 32 and 128 half or a quarter. With 0.1 four are positive.
    boxes = np.array([[8, 8, 24, 24], [16, 16, 64, 64]], np.float32)
    counts = positives_per_object(head(MaxIoUAssigner(0.1, 0.1, allow_low_quality=False)), boxes, SIZE, RESIZE)
    assert counts.tolist() == [1, 4]


def test_an_anchor_in_two_pairs_counts_once():
    # predictions are the anchors, so uniform matching finds each anchor twice
    boxes = np.array([[8, 8, 24, 24]], np.float32)
    assert positives_per_object(head(UniformAssigner(0.0, 0.7, 3)), boxes, SIZE, RESIZE).tolist() == [3]


def test_means_and_shares_by_hand():
    found = PositiveCounts(np.array([2, 0, 4]), np.array([4, 0, 12]))
    assert found.per_object == [2, 0, 3] and found.shares == [0.25, 0, 0.75]
    assert "Objects: 2 small, 0 medium, 4 large." in counts_table({"x": found})
    assert PositiveCounts(np.zeros(3), np.zeros(3)).shares == [0, 0, 0]


@pytest.fixture
def data(tmp_path):
    """One image, which is not decoded: a small object of 16 px, a medium one of 64, a large one of 200."""
    truth = {
        "images": [{"id": 1, "file_name": "empty.jpg", "height": 400, "width": 400}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [i * 16, 40, s, s], "area": s * s, "iscrowd": 0}
            for i, s in enumerate((16, 64, 200), 1)
        ],
    }
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "empty.jpg").touch()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(truth))
    return f"TrainDataset.dataset_dir={tmp_path}"


def test_max_iou_prefers_large_objects_and_uniform_matching_does_not(data, tmp_path):
    names = ("table5e_max_iou_1x_coco", "table5d_top1_1x_coco")
    counts = count_positives([load_config(f"configs/yolof/{name}.yml", [data]) for name in names], 10)
    assert counts[names[0]].objects.tolist() == [1, 1, 1]
    small, _, large = counts[names[0]].per_object
    assert large >= 5 * small
    assert max(counts[names[1]].per_object) <= 1
    write_plot(counts, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_detector_without_anchors_is_refused(data):
    with pytest.raises(UserError, match="TTFNet has no bbox_assigner for anchors"):
        count_positives([load_config("configs/ttfnet/pafnet_10x_coco.yml", [data])], 1)


def run(folder, *evaluations):
    folder.mkdir()
    lines = [{"kind": "train", "epoch": 1, "step": 1, "lr": 0.1, "loss": 1.0}]
    lines += [{"kind": "eval", "epoch": epoch, "step": epoch, **scores} for epoch, scores in evaluations]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_runs_stand_side_by_side_with_their_last_evaluation(tmp_path):
    scores = {"bbox_mAP": 0.1234, "bbox_mAP_50": 0.3, "bbox_mAP_75": 0.1, "bbox_mAP_s": 0.0, "bbox_mAP_m": -1.0}
    first = run(tmp_path / "one", (2, {"bbox_mAP": 0.9}), (4, scores))
    lines = [" ".join(line.split()) for line in runs_table([first]).splitlines()]
    assert lines[0] == "| run | metric | AP | AP50 | AP75 | AP_S | AP_M | AP_L | epochs |"
    assert lines[2] == "| one | COCO | 12.3 | 30.0 | 10.0 | 0.0 | - | - | 4 |"
    voc = run(tmp_path / "voc", (3, {"bbox_mAP": 0.5, "bbox_AP/cat": 0.5}))
    line = " ".join(runs_table([first, voc]).splitlines()[3].split())
    assert line == "| voc | VOC | - | 50.0 | - | - | - | - | 3 |"  # VOC counts boxes with an IoU of 0.5
    with pytest.raises(UserError, match="never evaluated"):
        runs_table([run(tmp_path / "two")])
