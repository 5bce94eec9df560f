"""RetinaNet: parity with the recorded reference, matching, losses, AB+FSAF."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES, compare_detections, filled_state, ground_truth, image, relative_error
from paths import ROOT

from ppdet_repro import build_model, load_config
from ppdet_repro.modeling.anchors import RetinaAnchorGenerator
from ppdet_repro.modeling.assigners.matches import IGNORED, NEGATIVE
from ppdet_repro.modeling.assigners.max_iou_assigner import MaxIoUAssigner
from ppdet_repro.modeling.boxes import decode_deltas, encode_deltas
from ppdet_repro.modeling.losses.smooth_l1_loss import SmoothL1Loss
from ppdet_repro.utils.errors import UserError

CONFIGS = ROOT / "configs"
SIZE = (96, 128)


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURES / "retinanet_r50_fpn.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def facts():
    return json.loads((FIXTURES / "retinanet_r50_fpn.json").read_text())


@pytest.fixture(scope="module")
def reference_weights():
    """The published configuration with weights from a formula."""
    model = build_model(load_config(CONFIGS / "retinanet" / "retinanet_r50_fpn_1x_coco.yml"))
    model.set_state_dict(filled_state(model))
    return model


@pytest.fixture
def model(reference_weights):
    reference_weights.clear_gradients()
    reference_weights.eval()
    return reference_weights


def padded_batch(recorded):
    """The recorded input: the second image's last 24 rows are padding."""
    pixels = image(3, *SIZE)
    pixels[1, :, -24:] = 0
    sizes = {key: paddle.to_tensor(recorded[key]) for key in ("im_shape", "scale_factor")}
    return {"image": paddle.to_tensor(pixels), **sizes}


def training_batch(seed):
    truths = [ground_truth(seed, i, *SIZE) for i in range(2)]
    return {
        "image": paddle.to_tensor(image(seed, *SIZE)),
        "gt_bbox": [paddle.to_tensor(boxes) for boxes, _ in truths],
        "gt_class": [paddle.to_tensor(classes.reshape(-1, 1)) for _, classes in truths],
        "progress": paddle.to_tensor([0.0]),
    }


def test_state_dict_and_parameter_attributes_are_the_reference_s(model, facts):
    expected = facts["parameters"]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v[0] for k, v in expected.items()}
    for name, parameter in model.named_parameters():
        _, trainable, lr, decay = expected[name]
        own_decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        actual = not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], own_decay
        assert actual == (trainable, lr, decay), name


def test_pyramid_and_head_outputs_from_the_image(model, recorded):
    with paddle.no_grad():
        feats = model.neck(model.backbone(padded_batch(recorded)["image"]))
        raw = model.head(feats)
    for i, step in enumerate((7, 3, 3, 1, 1)):
        assert relative_error(recorded[f"feat{i}"], feats[i].numpy(), step) < 1e-4
    np.testing.assert_array_equal(paddle.concat(raw.anchors).numpy()[::5], recorded["anchors"])
    assert relative_error(recorded["logits"], paddle.concat(raw.logits, axis=1).numpy(), 37) < 2e-4
    assert relative_error(recorded["deltas"], paddle.concat(raw.deltas, axis=1).numpy(), 5) < 2e-4


def test_candidates_and_detections_from_the_image(model, recorded):
    batch = padded_batch(recorded)
    with paddle.no_grad():
        boxes, scores = model.decode(model.raw(batch["image"]), batch["im_shape"], batch["scale_factor"])
        out = model(batch)
    assert boxes.shape == recorded["boxes_shape"].tolist() and scores.shape == [2, 80, boxes.shape[1]]
    difference = compare_detections(
        recorded["bbox"], recorded["bbox_num"], out["bbox"].numpy(), out["bbox_num"].numpy()
    )
    assert difference.unmatched == 0


@pytest.mark.parametrize("seed", [3, 4])
def test_training_losses_and_gradients(model, facts, seed):
    expected = facts["training"][f"seed{seed}"]
    model.train()
    losses = model(training_batch(seed))
    assert set(losses) == {"loss", "loss_cls", "loss_reg"}
    for name, value in expected["losses"].items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-5), name
    losses["loss"].backward()
    gradients = dict(model.named_parameters())
    for name, (total, magnitude) in expected["grads"].items():
        gradient = gradients[name].grad
        assert float(gradient.abs().sum()) == pytest.approx(magnitude, rel=1e-3), name
        assert float(gradient.sum()) == pytest.approx(total, abs=1e-3 * magnitude), name


def test_images_without_boxes_have_a_finite_loss_with_gradients(model):
    """PaddleDetection fails if an image has no box."""
    model.train()
    batch = training_batch(3)
    batch["gt_bbox"][0], batch["gt_class"][0] = paddle.zeros([0, 4]), paddle.zeros([0, 1], "int32")
    assert np.isfinite(float(model(batch)["loss"]))
    batch["gt_bbox"], batch["gt_class"] = [paddle.zeros([3, 4])] * 2, [paddle.zeros([3, 1], "int32")] * 2
    losses = model(batch)
    assert float(losses["loss_reg"]) == 0
    losses["loss"].backward()
    assert np.isfinite(model.head.retina_cls.weight.grad.numpy()).all()


def test_anchors_by_hand():
    generator = RetinaAnchorGenerator(strides=[8.0, 16.0])
    assert generator.num_anchors == 9
    first, second = generator([paddle.zeros([1, 1, 2, 3]), paddle.zeros([1, 1, 1, 2])])
    assert first.shape == [54, 4] and second.shape == [18, 4]
    # stride 8: sizes 32, 32 * 2^(1/3), 32 * 2^(2/3); ratio 1 is the second of each size; centers at 0, 8, 16
    np.testing.assert_allclose(first[1].numpy(), [-16, -16, 16, 16])
    np.testing.assert_allclose(first[9 + 1].numpy(), [-8, -16, 24, 16])
    w = 32 * 2 ** (2 / 3) / np.sqrt(0.5)  # ratio 0.5 is half as high as wide
    np.testing.assert_allclose(first[6].numpy(), [-w / 2, -w / 4, w / 2, w / 4], rtol=1e-6)


def test_matching_by_hand():
    # Anchors of 10 x 10 at x = 0, 10, 14, 30; the box covers 5..15: IoU 1/3, 1/3, 1/19, 0.
    anchors = paddle.to_tensor([[x, 0, x + 10, 10] for x in (0, 10, 14, 30)], "float32")
    box = paddle.to_tensor([[5, 0, 15, 10]], "float32")
    assert MaxIoUAssigner(0.3, 0.2)(anchors, anchors, box).labels.tolist() == [0, 0, NEGATIVE, NEGATIVE]
    assert MaxIoUAssigner(0.5, 0.4, allow_low_quality=False)(anchors, anchors, box).labels.tolist() == [NEGATIVE] * 4
    # below 0.5 its best ones, both, are positive all the same
    assert MaxIoUAssigner(0.5, 0.4)(anchors, anchors, box).labels.tolist() == [0, 0, NEGATIVE, NEGATIVE]
    assert MaxIoUAssigner(0.5, 0.05, False)(anchors, anchors, box).labels.tolist() == [IGNORED] * 3 + [NEGATIVE]
    assert MaxIoUAssigner(0.5, 0.4)(anchors, anchors, paddle.zeros([0, 4])).labels.tolist() == [NEGATIVE] * 4
    # A box beyond all anchors claims none, though 0 is its best IoU.
    far = paddle.to_tensor([[90, 90, 99, 99]], "float32")
    assert MaxIoUAssigner(0.5, 0.4)(anchors, anchors, far).labels.tolist() == [NEGATIVE] * 4


def test_ious_that_differ_by_rounding_are_equal():
    """An anchor of 32 x 32 that contains a box of 4 x 4 has an IoU of 16 / 1024 with it. Those of the others are
    smaller by 1.9e-9, the next number in float32 to 32, by 1.9e-8 and by 5e-5."""
    sides = [[0, 0, 32, 32], [0, 0, 32.000004, 32], [0, 0, 32.00004, 32], [0, 0, 32.1, 32]]
    anchors, box = paddle.to_tensor(sides, "float32"), paddle.to_tensor([[8, 8, 12, 12]], "float32")
    areas = (anchors[:, 2] - anchors[:, 0]) * 32
    assert areas[0] < areas[1] < areas[2] < areas[3]
    assert MaxIoUAssigner(0.5, 0.4)(anchors, anchors, box).labels.tolist() == [0, 0, NEGATIVE, NEGATIVE]


def test_smooth_l1_by_hand():
    values, targets = paddle.to_tensor([0.0, 0.5, 3.0]), paddle.to_tensor([0.0, 1.0, 1.0])
    # beta 1: 0, 0.5^2 / 2, 2 - 0.5
    assert SmoothL1Loss(1.0)(values, targets).tolist() == [0, 0.125, 1.5]
    assert SmoothL1Loss(0.0, loss_weight=2.0)(values, targets).tolist() == [0, 1.0, 4.0]
    with pytest.raises(UserError, match="beta"):
        SmoothL1Loss(-1.0)


def test_encoding_is_the_inverse_of_decoding():
    rng = np.random.default_rng(0)
    boxes, anchors = (
        paddle.to_tensor(np.concatenate([c, c + rng.uniform(5, 60, (20, 2))], 1), "float32")
        for c in rng.uniform(0, 100, (2, 20, 2))
    )
    for std in ([1.0] * 4, [0.1, 0.1, 0.2, 0.2]):
        deltas = encode_deltas(boxes, anchors, std=std)
        np.testing.assert_allclose(decode_deltas(deltas, anchors, std=std).numpy(), boxes.numpy(), rtol=1e-4, atol=1e-3)


def test_ab_fsaf_adds_its_branch_to_the_same_subnets():
    config = CONFIGS / "sapd" / "table5_ab_fsaf_r50_1x_coco.yml"
    small = ["ResNet.depth=18", "ResNet.width_mult=0.25", "FPN.out_channel=16", "num_classes=3"]
    small += ["RetinaHead.conv_feat.feat_in=16", "RetinaHead.conv_feat.feat_out=16", "ABFSAFHead.points.feat_in=16"]
    model = build_model(load_config(config, small))
    keys = list(model.state_dict())
    assert sum("tower_conv_0.conv.weight" in key for key in keys) == 2
    assert model.head.points.cls_score.weight.shape == [3, 16, 3, 3]
    model.train()
    batch = training_batch(3)
    batch["gt_class"] = [classes % 3 for classes in batch["gt_class"]]
    losses = model(batch)
    raw = model.raw(batch["image"])
    anchors = model.head.anchors.losses(raw.anchors, batch)
    points = model.head.points.losses(raw.points, batch)
    assert float(losses["loss"]) == pytest.approx(float(anchors["loss"] + 0.5 * points["loss"]), rel=1e-5)
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if not p.stop_gradient)
    model.eval()
    (assignment, _) = model.head.assignment(raw, batch)
    assert [layer.name for layer in assignment.boxes] == [
        "positive anchors",
        "ignored anchors",
        "cells of positive points",
    ]
    boxes, scores = model.decode(raw, paddle.to_tensor([SIZE, SIZE], "float32"), paddle.ones([2, 2]))
    only_anchors, _ = model.head.anchors.decode(raw.anchors, None, paddle.ones([2, 2]))
    assert boxes.shape[1] > only_anchors.shape[1] and scores.shape == [2, 3, boxes.shape[1]]
