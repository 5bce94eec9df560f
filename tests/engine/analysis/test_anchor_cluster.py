"""Anchors from the boxes of a dataset."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import yaml

from ppdet_repro import load_config
from ppdet_repro.cli.anchors import size_of_flag
from ppdet_repro.cli.main import run_script
from ppdet_repro.engine.analysis.anchor_cluster import (
    anchor_report,
    box_sizes,
    cluster,
    cluster_v2,
    config_anchors,
    evolve,
    fit,
    kmeans,
)
from ppdet_repro.utils.errors import UserError

ANCHORS = [[10, 20], [40, 40], [100, 50]]


def blobs(seed=0, count=60, spread=0.05):
    """Sizes near three shapes."""
    rng = np.random.default_rng(seed)
    shapes = np.array(ANCHORS, float)
    return np.concatenate([shape * np.exp(spread * rng.standard_normal((count, 2))) for shape in shapes])


@pytest.fixture
def config(tmp_path):
    """A dataset of two images, 100 x 200 and 50 x 50 px (h x w), with three boxes, and a config for it."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, h, w in ((1, 100, 200), (2, 50, 50))]
    boxes = [(1, [0, 0, 20, 10]), (1, [5, 5, 100, 50]), (2, [10, 10, 25, 5])]
    truth = {
        "images": images,
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for item in images:
        (tmp_path / item["file_name"]).touch()  # exists but is never opened
    document = {
        "num_classes": 1,
        "epoch": 1,
        "anchors": ANCHORS,
        "anchor_masks": [[1, 2], [0]],
        "TrainDataset": {
            "name": "COCODataSet",
            "dataset_dir": str(tmp_path),
            "image_dir": ".",
            "anno_path": "truth.json",
            "data_fields": ["image", "gt_bbox", "gt_class"],
        },
        "TrainReader": {"batch_transforms": [{"Gt2YoloTarget": {"downsample_ratios": [32, 16]}}], "batch_size": 1},
        "TestReader": {"inputs_def": {"image_shape": [3, 100, 100]}},
    }
    (tmp_path / "c.yml").write_text(yaml.safe_dump(document))
    return load_config(tmp_path / "c.yml")


def test_recall_and_overlap_by_hand():
    """A box of 20 x 10 has IoU 1 with itself as anchor; one of 40 x 40 contains it: 200 / 1600. An anchor
    does not fit a box with a side 4 times as long."""
    sizes = np.array([[20.0, 10], [40, 40]])
    assert fit(sizes, np.array([[20.0, 10]])) == (0.5, (1 + 200 / 1600) / 2)  # 40 / 10 = 4
    assert fit(sizes, np.array([[20.0, 10.1]])).recall == 1.0
    assert fit(sizes, sizes) == (1.0, 1.0)


def test_clusters_are_found_whatever_the_seed():
    for seed in range(3):
        anchors = cluster(blobs(), 3, 200, seed)
        np.testing.assert_allclose(anchors, ANCHORS, rtol=0.06)  # sorted by area
        assert (anchors == anchors.round()).all()


def test_evolution_never_worsens_the_fit():
    sizes = blobs(spread=0.6)
    rng = np.random.default_rng(0)
    start = kmeans(sizes, 3, rng)
    assert fit(sizes, evolve(start, sizes, rng, 100)).iou > fit(sizes, start).iou


def test_boxes_are_measured_at_the_input_size(config):
    """At 100 x 100: the first image is halved in width, the second doubled."""
    np.testing.assert_allclose(box_sizes(config, 100, 100), [[10, 10], [50, 50], [50, 10]])
    np.testing.assert_array_equal(config_anchors(config), ANCHORS)


def test_the_report_has_old_and_new_anchors_and_writes_no_file(config, tmp_path):
    before = sorted(tmp_path.iterdir())
    text = anchor_report(config, None, None, 10, 0)
    assert text.splitlines()[0] == "3 boxes at 100 x 100 px"
    assert f"anchors: {ANCHORS}" in text  # the config's, as a config has them
    assert "new: best possible recall 1.0000, mean IoU with the best anchor 1.0000" in text
    assert "anchors: [[10, 10], [50, 10], [50, 50]]" in text
    assert sorted(tmp_path.iterdir()) == before


def test_paddledetections_clusters_by_hand():
    # the means of (10, 10) and (12, 10), and of (50, 50) and (60, 40)
    sizes = np.array([[10.0, 10], [60, 40], [12, 10], [50, 50]])
    for seed in range(5):
        assert cluster_v2(sizes, 2, 100, seed).tolist() == [[11, 10], [55, 45]]
    assert cluster_v2(sizes, 1, 100, 0).tolist() == [[33, 28]]  # the mean 27.5 is rounded to the even number
    with pytest.raises(UserError, match="too few"):
        cluster_v2(sizes, 5, 100, 0)


def test_paddledetections_command(config, tmp_path, monkeypatch, capsys):
    flags = "-n 3 -s 608 -m v2 -i 1000 -v True --cache --cache_path cache"
    monkeypatch.setattr(sys, "argv", ["anchor_cluster.py", "-c", str(tmp_path / "c.yml"), *flags.split()])
    with pytest.raises(SystemExit) as done:
        run_script("anchors")
    out = capsys.readouterr().out
    assert not done.value.code and out.startswith("3 boxes at 608 x 608 px")
    # PaddleDetection adds a pixel to each side: 21 / 200 * 608 = 63.8, 11 / 100 * 608 = 66.9, and so on
    assert "new: " in out and "anchors: [[64, 67], [316, 73], [307, 310]]" in out


def test_sizes_in_both_orders():
    assert size_of_flag(["608"]) == (608, 608) and size_of_flag(["608", "416"]) == (608, 416)
    assert size_of_flag(["416,608"]) == (608, 416)  # width, height as in PaddleDetection


@pytest.mark.parametrize("words", [["0"], ["608,"], ["1", "2", "3"], ["1,2,3"], ["big"]])
def test_sizes_that_are_none(words):
    with pytest.raises(UserError, match="--size"):
        size_of_flag(words)


def test_too_few_boxes_and_no_size_are_user_errors(config, tmp_path):
    with pytest.raises(UserError, match="3 boxes are too few for 4 anchors"):
        anchor_report(config, (100, 100), 4, 0, 0)
    document = yaml.safe_load((tmp_path / "c.yml").read_text())
    document["TestReader"] = {}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match="give the size with --size"):
        anchor_report(load_config(tmp_path / "c.yml"), None, None, 0, 0)
