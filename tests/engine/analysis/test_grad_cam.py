"""Grad-CAM: heat maps by hand, the boxes that they belong to, and the drawings."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from paths import ROOT
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import build, load_config
from ppdet_repro.core.contract import Detections
from ppdet_repro.data.transform.preprocess import Inputs, Preprocess
from ppdet_repro.engine.analysis.grad_cam import (
    BOX_COLOR,
    Explained,
    candidate_of,
    draw_heat,
    explain,
    find_layer,
    grad_cam,
)
from ppdet_repro.utils.errors import UserError


def test_the_heat_of_two_channels():
    """The weights are the mean gradients, 2 / 4 = 0.5 and -1 / 4 = -0.25. The sums are 0.5 - 1 = -0.5, which becomes 0,
    1 - 0.75 = 0.25, 1.5 - 0.5 = 1 and 2 - 0.25 = 1.75, the maximum."""
    maps = np.array([[[1.0, 2], [3, 4]], [[4, 3], [2, 1]]])
    gradients = np.array([[[2.0, 0], [0, 0]], [[0, -1], [0, 0]]])
    np.testing.assert_allclose(grad_cam(maps, gradients), np.array([[0, 0.25], [1, 1.75]]) / 1.75)
    assert (grad_cam(maps, -np.ones_like(maps)) == 0).all()  # no part raises the score


class TwoScores(nn.Layer):
    """Candidate 0 is of class 0, and its score is the mean of channel 0; candidate 1 of class 1, of channel 1. The
    suppression reverses the order of the candidates and halves their scores."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Identity()

    def raw(self, image):
        return self.backbone(image).mean(axis=[2, 3])  # [1, 3]

    def decode(self, raw, im_shape, scale_factor):
        scores = paddle.zeros([1, 2, 2])
        scores[0, 0, 0], scores[0, 1, 1] = raw[0, 0], raw[0, 1]
        return paddle.to_tensor([[[0.0, 0, 2, 2], [1, 0, 2, 2]]]), scores

    def suppress(self, boxes, scores):
        rows = [[k, scores[0, k, k].item() / 2, *boxes[0, k].tolist()] for k in (1, 0)]
        return Detections(paddle.to_tensor(rows), paddle.to_tensor([2]))


def test_each_box_is_explained_by_its_own_score():
    image = np.zeros((1, 3, 2, 2), np.float32)
    image[0, 0], image[0, 1] = [[0, 1], [2, 4]], [[8, 0], [0, 0]]
    inputs = Inputs(image, np.array([[2.0, 2]], np.float32), np.ones((1, 2), np.float32))
    model = TwoScores()
    second, first = explain(model, model.backbone, inputs, 0.5)  # scores 8 / 4 / 2 = 1 and 7 / 4 / 2 = 0.875
    np.testing.assert_allclose(second.row, [1, 1, 1, 0, 2, 2])
    np.testing.assert_allclose(second.heat, [[1, 0], [0, 0]])
    np.testing.assert_allclose(first.row, [0, 0.875, 0, 0, 2, 2])
    np.testing.assert_allclose(first.heat, [[0, 0.25], [0.5, 1]])
    (only,) = explain(model, model.backbone, inputs, 0.9)
    assert only.row[0] == 1


def test_of_equal_boxes_the_best_candidate_is_taken():
    boxes = np.array([[0.0, 0, 4, 4], [9, 9, 12, 12], [9, 9, 12, 12]])
    row = np.array([0, 0.1, 9, 9, 12, 12])
    assert candidate_of(row, boxes, np.array([0.9, 0.2, 0.3])) == 2
    assert candidate_of(row, boxes, np.array([0.9, 0.3, 0.2])) == 1


def test_a_drawing():
    """An image of 32 x 32 pixels enters at half its size, padded to 32 x 16: the lower half of the heat is padding, so
    the heat is 1 on nearly all of the image. The box is its left half."""
    inputs = Inputs(np.zeros((1, 3, 32, 16)), np.array([[16.0, 16]]), np.array([[0.5, 0.5]]))
    explained = Explained(np.array([0, 1, -9, 0, 16, 32], np.float32), np.array([[1.0, 1], [1, 1], [0, 0], [0, 0]]))
    drawn = draw_heat(np.full((32, 32, 3), 100, np.uint8), explained, inputs)
    (hottest,) = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_JET)[0, :, ::-1]
    inside, outside = drawn[4:20, 4:12], drawn[:, 20:]
    assert (outside == 60).all()  # 0.6 * 100
    assert (inside == (0.4 * hottest + 60).astype(np.uint8)).all()
    assert (drawn[4:28, 16] == BOX_COLOR).all()  # the right side of the box


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(folder, write_images(folder / "data", count=2))


@pytest.fixture(scope="module")
def model(tiny):
    model = tiny_model(tiny)
    paddle.save(model.state_dict(), str(tiny.parent / "weights.pdparams"))
    return model


@pytest.mark.parametrize("name", ["model.backbone", "neck"])
def test_the_boxes_are_the_detectors(name, tiny, model):
    cfg = load_config(tiny)
    inputs = Preprocess(build(cfg, "TestReader").preprocess)([build(cfg, "EvalDataset").table.files[0]])
    explained = explain(model, find_layer(model, name), inputs, 0.1)
    with paddle.no_grad():
        found = model({key: paddle.to_tensor(value) for key, value in inputs._asdict().items()})["bbox"].numpy()
    np.testing.assert_allclose([box.row for box in explained], found[found[:, 1] >= 0.1], rtol=1e-5)
    assert all(box.heat.shape == (3, 4) or box.heat.shape == (4, 3) for box in explained)
    assert all(box.heat.min() >= 0 and box.heat.max() in (0, pytest.approx(1)) for box in explained)
    assert any(box.heat.max() > 0 for box in explained)


def test_layers_that_cannot_be_explained(tiny, model):
    with pytest.raises(UserError, match="model.absent: the model has no such layer; it has model.backbone, model.neck"):
        find_layer(model, "model.absent")
    cfg = load_config(tiny)
    inputs = Preprocess(build(cfg, "TestReader").preprocess)([build(cfg, "EvalDataset").table.files[0]])
    with pytest.raises(UserError, match="returns no feature maps; take model.backbone"):
        explain(model, nn.Identity(), inputs, 0.1)


def test_the_script_has_paddledetections_flags(tiny, model, tmp_path):
    images = tiny.parent / "data" / "images"
    weights = tiny.parent / "weights.pdparams"
    common = [sys.executable, "tools/cam_ppdet.py", "-c", tiny, "--draw_threshold=0.1"]
    one = [*common, "--weights", weights, "--infer_img", images / "000.png", "--cam_out", tmp_path / "one"]
    done = subprocess.run(list(map(str, one)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "0.jpg").is_file()
    both = [*common, "--infer_dir", images, "--cam_out", tmp_path / "both", "--target_feature_layer_name=model.neck"]
    both += ["--use_gpu=True", "-o", f"weights={weights}"]
    done = subprocess.run(list(map(str, both)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--use_gpu has no effect" in done.stderr, done.stderr
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"000.png", "001.png"}
