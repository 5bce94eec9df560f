"""Training targets: the heads' assignments computed by hand, and the drawings of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paths import ROOT

from ppdet_repro import load_config
from ppdet_repro.core.config import build
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.data.transform.targets_ttf import ttf_target
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.engine.analysis.show_assignment import captioned, draw, map_panel, show_assignment, to_uint8
from ppdet_repro.modeling.anchors import AnchorGenerator
from ppdet_repro.modeling.assigners.uniform_assigner import UniformAssigner
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, WeightMap, cells, owners_of
from ppdet_repro.modeling.heads.ttf_head import TTFHead, TTFOutputs
from ppdet_repro.modeling.heads.yolof_head import YOLOFFeat, YOLOFHead, YOLOFOutputs
from ppdet_repro.modeling.heads.yolov3_head import YOLOv3Head, YOLOv3Outputs
from ppdet_repro.modeling.losses.ags import AdaptiveGaussianSampling
from ppdet_repro.modeling.losses.ctfocal_loss import CTFocalLoss
from ppdet_repro.modeling.losses.focal import FocalLoss
from ppdet_repro.modeling.losses.iou_loss import GIoULoss
from ppdet_repro.modeling.losses.yolo_loss import YOLOv3Loss
from ppdet_repro.modeling.nms import MultiClassNMS
from ppdet_repro.utils.errors import UserError

CONFIG = f"""
_BASE_: ['{ROOT}/configs/ttfnet/_base_/pafnet_r18vd_small.yml']
num_classes: 3
epoch: 1
TrainDataset:
  name: COCODataSet
  dataset_dir: DATA
  image_dir: train
  anno_path: annotations/instances_train.json
  data_fields: ['image', 'gt_bbox', 'gt_class']
TrainReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375], is_scale: false}}
    - Permute: {{}}
  batch_transforms:
    - Gt2TTFTarget: {{down_ratio: 4}}
  batch_size: 4
"""


def test_ttf_assigns_center_cells_and_maps():
    head = TTFHead(1, 2, hm_loss=CTFocalLoss(), wh_loss=GIoULoss(reduction="sum"), ags=AdaptiveGaussianSampling())
    boxes = np.array([[2, 4, 10, 16], [16, 8, 32, 24]], np.float32)  # centers 6, 10 and 24, 16
    target = ttf_target(boxes, np.array([1, 0]), (32, 32), 2)
    keys = "ttf_heatmap", "ttf_box_target", "ttf_reg_weight"
    batch = {key: paddle.to_tensor(array[None]) for key, array in zip(keys, target)}
    flat = TTFOutputs(paddle.zeros([1, 2, 8, 8]), paddle.zeros([1, 4, 8, 8]))
    (found,) = head.assignment(flat, batch)
    np.testing.assert_array_equal(found.objects, boxes)
    (positive,) = found.boxes
    # the cells (1, 2) and (6, 4), four pixels each; listed row by row
    np.testing.assert_array_equal(positive.boxes, [[4, 8, 8, 12], [24, 16, 28, 20]])
    assert positive.owners.tolist() == [0, 1]
    heat, weight, factor = (layer.values for layer in found.maps)
    assert heat[2, 1] == heat[4, 6] == 1 and heat.shape == (8, 8)
    np.testing.assert_array_equal(weight, target.weight[0])
    np.testing.assert_array_equal(factor, (weight > 0).astype(float))  # a flat map: all factors 1
    head.ags = None
    assert len(head.assignment(flat, batch)[0].maps) == 2


def test_yolof_assigns_and_ignores_anchors():
    head = YOLOFHead(
        2,
        YOLOFFeat(4, 4, 1, 1),
        AnchorGenerator([[32]], [1.0], [32]),
        UniformAssigner(0.15, 0.7, match_times=1),
        FocalLoss(),
        GIoULoss(),
        nms=MultiClassNMS(),
    )
    anchors = paddle.to_tensor([[0.0, 0, 32, 32], [32, 0, 64, 32], [64, 0, 96, 32]])
    raw = YOLOFOutputs(anchors, paddle.zeros([1, 3, 2]), paddle.zeros([1, 3, 4]))
    batch = {"gt_bbox": [paddle.to_tensor([[34.0, 0, 66, 32]])], "gt_class": [paddle.to_tensor([[1]])]}
    (found,) = head.assignment(raw, batch)
    matched, ignored = found.boxes
    # nearest as prediction and as anchor is the middle one: two pairs
    np.testing.assert_array_equal(matched.boxes, [[32, 0, 64, 32]] * 2)
    assert matched.owners.tolist() == [0, 0] and len(ignored.boxes) == 0
    batch["gt_bbox"] = [paddle.to_tensor([[34.0, 0, 66, 32], [33, 0, 36, 32]])]
    batch["gt_class"] = [paddle.to_tensor([[1], [0]])]
    (found,) = head.assignment(raw, batch)
    # the thin box has IoU 3/32 with the middle anchor, below 0.15: its pair, written later, makes it ignored
    np.testing.assert_array_equal(found.boxes[1].boxes, [[32, 0, 64, 32]])
    assert found.boxes[1].owners.tolist() == [-1]


def test_yolo_assigns_cells_and_anchors():
    anchors, masks = [[8, 8], [16, 32]], [[1], [0]]
    head = YOLOv3Head([4, 4], [16, 8], anchors, masks, 2, YOLOv3Loss(2, downsample=[16, 8]))
    # a box of 14 x 30 around 24, 17 in 64 x 32 pixels: the second anchor's, cell (1, 1) of stride 16
    box = np.array([[24 / 64, 17 / 32, 14 / 64, 30 / 32], [0, 0, 0, 0]], np.float32)
    sample = {
        "image": np.zeros((3, 32, 64), np.float32),
        "gt_bbox": np.array([[17, 2, 31, 32], [0, 0, 0, 0]], np.float32),
        "gt_cxcywh_relative": box,
        "gt_class": np.zeros(2, np.int32),
        "gt_score": np.array([1, 0], np.float32),
    }
    make = Gt2YoloTarget(anchors, masks, [16, 8], num_classes=2)
    (sample,) = make([sample], None)
    batch = {key: paddle.to_tensor(sample[key][None]) for key in ("target0", "target1")}
    batch["gt_cxcywh_relative"] = paddle.to_tensor(box[None])
    raw = YOLOv3Outputs([paddle.zeros([1, 7, 2, 4]), paddle.zeros([1, 7, 4, 8])])
    (found,) = head.assignment(raw, batch)
    np.testing.assert_allclose(found.objects, [[17, 2, 31, 32]], rtol=1e-6)
    cell, anchor, ignored = found.boxes
    np.testing.assert_allclose(cell.boxes, [[16, 16, 32, 32]])
    np.testing.assert_allclose(anchor.boxes, [[16, 8, 32, 40]])  # 16 x 32 around the cell's middle
    assert cell.owners.tolist() == [0]
    # zero outputs predict each cell's middle and anchor: IoU of 17, 2, 31, 32 with 16, 8, 32, 40 is
    # 336 / 596, and no other is larger
    assert len(ignored.boxes) == 0
    head.loss.ignore_thresh = 0.2
    # now 16, -8, 32, 24, the cell above: IoU 308 / 624
    assert [16, 0, 32, 16] in head.assignment(raw, batch)[0].boxes[2].boxes.tolist()


def test_owners_are_the_nearest_objects():
    objects = np.array([[0.0, 0, 10, 10], [0, 0, 10, 12]])
    assert owners_of(np.array([[0.0, 0, 10, 11.5], [1, 0, 10, 10]]), objects).tolist() == [1, 0]
    assert owners_of(objects, objects[:0]).tolist() == [-1, -1]
    assert cells(np.array([[1, 3]]), 8).tolist() == [[24, 8, 32, 16]]


def test_a_map_panel_colors_only_values_that_are_not_zero():
    image = np.full((8, 8, 3), 100, np.uint8)
    values = np.zeros((2, 2), np.float32)
    values[0, 1] = 5.0
    panel = map_panel(image, WeightMap("w", values))[-8:]  # below the caption
    assert (panel[4:] == 60).all() and (panel[:4, :4] == 60).all()
    assert panel[0, 7, 0] > 150 > panel[0, 7, 2]  # the largest value is yellow
    np.testing.assert_array_equal(map_panel(image, WeightMap("w", values * 0))[-8:], 60)
    assert captioned(image, "text").shape[1] == 8


def test_there_is_a_panel_per_kind_of_boxes_and_per_map():
    image = np.zeros((32, 480, 3), np.uint8)
    one = AssignedBoxes("a", np.array([[1.0, 1, 9, 9]]), np.array([0]))
    none = AssignedBoxes("b", np.zeros((0, 4)), np.zeros(0, int))
    sheet = draw(image, Assignment(one.boxes, [one, none], [WeightMap("c", np.ones((4, 60)))]))
    assert sheet.shape == (2 * 484, 2 * 484, 3)
    assert to_uint8(np.random.randn(3, 4, 6).astype(np.float32)).shape == (4, 6, 3)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assignment")
    generate(folder / "set", train=4, val=1, size=(96, 96), classes=3, objects=(2, 4))
    path = folder / "small.yml"
    path.write_text(CONFIG.replace("DATA", str(folder / "set")))
    return path


def test_chosen_images_are_drawn(config, tmp_path):
    cfg = load_config(config)
    source = build(cfg, "TrainDataset")
    source.load()
    last = Path(source.record(3)["im_file"])
    lines = show_assignment(cfg, tmp_path, images=[last.name])
    assert [p.name for p in tmp_path.iterdir()] == [f"{last.stem}.jpg"]
    assert lines[0].startswith(str(tmp_path / f"{last.stem}.jpg: ")) and "positive cells" in lines[0]
    assert len(show_assignment(cfg, tmp_path, number=2)) == 2
    with pytest.raises(UserError, match="none of TrainDataset's 4 images is 'absent.jpg'"):
        show_assignment(cfg, tmp_path, images=["absent.jpg"])


def test_the_command_writes_drawings_or_one_line(config, tmp_path):
    command = [sys.executable, ROOT / "tools" / "show_assignment.py", "-c", config, "-n", "1"]
    done = subprocess.run([*command, "--output_dir", tmp_path], capture_output=True, text=True, check=True)
    (written,) = tmp_path.iterdir()
    assert str(written) in done.stdout and cv2.imread(str(written)) is not None
    wrong = subprocess.run([*command, "--image", "absent"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith("error: ")
