"""tools/box_distribution.py by hand."""

from __future__ import annotations

import json
import sys

import pytest

from ppdet_repro.cli.main import run_script
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.engine.analysis.box_distribution import read_distribution
from ppdet_repro.utils.errors import UserError


@pytest.fixture
def boxes(tmp_path):
    """A COCO file with three images, of which two have boxes."""
    sizes = {1: (100, 200), 2: (50, 100), 3: (10, 10)}  # height, width
    annotations = [(1, 20, 10, 0), (2, 50, 30, 0), (1, 60, 20, 0), (1, 200, 100, 1)]  # image, width, height, crowd
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, (h, w) in sizes.items()],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": [0, 0, w, h], "area": w * h, "iscrowd": crowd}
            for n, (i, w, h, crowd) in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    return path


def test_relative_sizes_by_hand(boxes):
    found = read_distribution(str(boxes))
    # the first image: mean width (20 + 60) / 2 = 40 of 200, mean height 15 of 100; the second: 50 of 100, 30 of 50
    assert found.widths.tolist() == [0.2, 0.5] and found.heights.tolist() == [0.15, 0.6]
    # the ratios 0.15, 0.6, 0.2 and 0.5 become 0.15, 0.6 / 4, 0.2 / 2 and 0.5 / 4; the largest is 0.15:
    # 0.15 * 640 / 8 = 12
    assert found.range_end(640, 8) == 13
    assert found.text(640, 8).splitlines() == [
        "Suggested reg_range[1] is 13",
        "Mean of all img_w is 150.0",
        "Mean of all img_h is 75.0",
        "Median of ratio_w is 0.35",
        "Median of ratio_h is 0.375",
        "all_img with box: 2",
        "all_ann: 4",
    ]


def test_a_file_without_boxes_or_sizes_is_one_line(boxes):
    document = json.loads(boxes.read_text())
    boxes.write_text(json.dumps({**document, "annotations": document["annotations"][3:]}))
    with pytest.raises(UserError, match="has no boxes"):
        read_distribution(str(boxes))
    del document["images"][1]["width"]
    boxes.write_text(json.dumps(document))
    with pytest.raises(UserError, match="image id 2 .* has no width and height"):
        read_distribution(str(boxes))


@pytest.mark.parametrize("command", [["box_distribution"], ["data", "boxes"]])
def test_the_script_prints_and_draws(command, boxes, tmp_path, monkeypatch, capsys):
    flags = ["--json_path", str(boxes), "--eval_size", "320", "--out_img", str(tmp_path / "out.jpg")]
    monkeypatch.setattr(sys, "argv", ["script", *command[1:], *flags])
    with pytest.raises(SystemExit) as done:
        run_script(command[0])
    assert not done.value.code and "reg_range[1] is 7" in capsys.readouterr().out
    assert min(image_size(str(tmp_path / "out.jpg"))) > 100
