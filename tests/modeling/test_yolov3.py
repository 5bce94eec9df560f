"""YOLOv3: its numbers are those that were recorded from PaddleDetection.

The network computes in float64 in both, so that the figures are the same on every processor; decoding, suppression and
the losses compute in float32, as always.
"""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_weights import (
    FIXTURES,
    assert_gradients,
    compare_detections,
    double_precision,
    filled_state,
    image,
    relative_error,
)
from paths import ROOT
from yolo_batches import training_batch

from ppdet_repro import build_model, load_config
from ppdet_repro.modeling.necks.ppyolo_fpn import PPYOLOFPN, YOLOv3FPN

SIZE = (96, 128)
CASES = {"yolov3_darknet53": "yolov3_darknet53_270e_coco", "yolov3_mobilenet_v1": "yolov3_mobilenet_v1_270e_coco"}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A published model with weights from a formula, and its recorded outputs."""
    cfg = load_config(ROOT / "configs" / "yolov3" / f"{CASES[request.param]}.yml")
    with np.load(FIXTURES / f"{request.param}.npz") as arrays:
        recorded = dict(arrays)
    return build_model(cfg), recorded, json.loads((FIXTURES / f"{request.param}.json").read_text())


@pytest.fixture
def model(case):
    model = case[0]
    model.set_state_dict(filled_state(model))  # training moves running statistics
    model.clear_gradients()
    model.eval()
    return model


def test_state_dict_and_parameter_attributes_are_the_reference_s(model, case):
    expected = case[2]["parameters"]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v[0] for k, v in expected.items()}
    for name, parameter in model.named_parameters():
        own_decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        found = [not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], own_decay]
        assert found == expected[name][1:], name


def test_head_outputs_and_detections_from_the_image(model, case):
    arrays = case[1]
    model = double_precision(model)
    model.eval()
    batch = {"image": paddle.to_tensor(image(3, *SIZE).astype("float64"))}
    batch.update({k: paddle.to_tensor(arrays[k]) for k in ("im_shape", "scale_factor")})
    with paddle.no_grad():
        raw, out = model.raw(batch["image"]), model(batch)
    for i, maps in enumerate(raw.maps):
        assert relative_error(arrays[f"network{i}"], maps.numpy(), 151) < 1e-6
    found = out["bbox"].numpy(), out["bbox_num"].numpy()
    difference = compare_detections(arrays["bbox"], arrays["bbox_num"], *found, score_tol=1e-5, box_tol=1e-3)
    assert difference.unmatched == 0, difference


def test_training_losses_and_gradients(model, case):
    expected = case[2]["training"]
    model = double_precision(model)
    batch = training_batch()
    losses = model({**batch, "image": batch["image"].astype("float64")})
    assert list(losses) == list(expected["losses"])
    for name, value in expected["losses"].items():
        assert float(losses[name]) == pytest.approx(value, rel=2e-6), name
    losses["loss"].backward()
    assert_gradients(dict(model.named_parameters()), expected["grads"], 2e-6, lambda name: True)


def test_the_neck_has_the_same_widths_with_any_number_of_maps():
    """PP-YOLO's neck becomes narrower with fewer maps."""
    maps = [paddle.zeros([1, 8, 4, 4]), paddle.zeros([1, 16, 2, 2])]
    yolov3, ppyolo = (cls([8, 16], [16, 32]) for cls in (YOLOv3FPN, PPYOLOFPN))
    assert [tuple(shape) for shape in yolov3.out_shape] == [(1024, 32), (512, 16)]
    assert [tuple(shape) for shape in ppyolo.out_shape] == [(512, 32), (256, 16)]
    assert [m.shape for m in yolov3(maps)] == [[1, 1024, 2, 2], [1, 512, 4, 4]]
