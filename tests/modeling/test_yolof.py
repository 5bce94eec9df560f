"""YOLOF: parity with the recorded reference, losses, and properties of the paper's parts."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES, compare_detections, filled_state, ground_truth, image, relative_error
from paths import ROOT

from ppdet_repro import build_model, load_config
from ppdet_repro.modeling.anchors import rows_per_anchor
from ppdet_repro.modeling.ground_truth import one_hot_targets
from ppdet_repro.modeling.heads.yolof_head import YOLOFOutputs, implicit_objectness

CONFIGS = ROOT / "configs" / "yolof"
SIZE = (128, 160)


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURES / "yolof_r50_c5.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def facts():
    return json.loads((FIXTURES / "yolof_r50_c5.json").read_text())


@pytest.fixture(scope="module")
def reference_weights():
    """The published configuration with weights from a formula."""
    model = build_model(load_config(CONFIGS / "yolof_r50_c5_1x_coco.yml"))
    model.set_state_dict(filled_state(model))
    return model


@pytest.fixture
def model(reference_weights):
    reference_weights.set_state_dict(filled_state(reference_weights))  # training moves running statistics
    reference_weights.clear_gradients()
    reference_weights.eval()
    return reference_weights


def padded_image():
    """The recorded input: the second image's last 24 rows are padding."""
    pixels = image(3, *SIZE)
    pixels[1, :, -24:] = 0
    return paddle.to_tensor(pixels)


def training_batch(seed=3):
    truths = [ground_truth(seed, i, *SIZE) for i in range(2)]
    return {
        "image": paddle.to_tensor(image(seed, *SIZE)),
        "im_shape": paddle.to_tensor([SIZE, SIZE], "float32"),
        "scale_factor": paddle.ones([2, 2]),
        "gt_bbox": [paddle.to_tensor(boxes) for boxes, _ in truths],
        "gt_class": [paddle.to_tensor(classes.reshape(-1, 1)) for _, classes in truths],
    }


def test_state_dict_and_parameter_attributes_are_the_reference_s(model, facts):
    expected = facts["parameters"]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v[0] for k, v in expected.items()}
    for name, parameter in model.named_parameters():
        _, trainable, lr, decay = expected[name]
        own_decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        assert (not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], own_decay) == (
            trainable,
            lr,
            decay,
        ), name


def test_head_outputs_from_the_image(model, recorded):
    with paddle.no_grad():
        raw = model.raw(padded_image())
    np.testing.assert_array_equal(raw.anchors.numpy(), recorded["anchors"])
    logits, deltas = (t.reshape([2, 4, 5, -1]).transpose([0, 3, 1, 2]) for t in (raw.logits, raw.deltas))
    assert relative_error(recorded["logits"], logits.numpy()) < 5e-4
    assert relative_error(recorded["deltas"], deltas.numpy()) < 5e-4


def test_detections_from_the_image(model, recorded):
    batch = {
        "image": padded_image(),
        "im_shape": paddle.to_tensor(recorded["im_shape"]),
        "scale_factor": paddle.to_tensor(recorded["scale_factor"]),
    }
    with paddle.no_grad():
        out = model(batch)
    difference = compare_detections(
        recorded["bbox"], recorded["bbox_num"], out["bbox"].numpy(), out["bbox_num"].numpy()
    )
    assert difference.unmatched == 0


def test_decoding_and_nms_from_recorded_head_outputs(model, recorded):
    raw = YOLOFOutputs(
        paddle.to_tensor(recorded["anchors"]),
        rows_per_anchor(paddle.to_tensor(recorded["logits"]), 80),
        rows_per_anchor(paddle.to_tensor(recorded["deltas"]), 4),
    )
    shape, scale = (paddle.to_tensor(recorded[k]) for k in ("im_shape", "scale_factor"))
    boxes, scores = model.decode(raw, shape, scale)
    assert relative_error(recorded["boxes"], boxes.numpy()) < 5e-4
    out = model.suppress(boxes, scores)
    difference = compare_detections(
        recorded["bbox"], recorded["bbox_num"], out.bbox.numpy(), out.bbox_num.numpy(), 1e-5, 2e-3
    )
    assert difference.unmatched == 0
    assert (np.diff(out.bbox.numpy()[: int(out.bbox_num[0]), 0]) >= 0).all()  # rows grouped by class


def test_training_losses_and_gradients(model, facts):
    model.train()
    losses = model(training_batch())
    assert set(losses) == {"loss", "loss_cls", "loss_reg"}
    for name, expected in facts["training"]["losses"].items():
        assert float(losses[name]) == pytest.approx(expected, rel=2e-6), name
    losses["loss"].backward()
    gradients = dict(model.named_parameters())
    for name, (total, magnitude) in facts["training"]["grads"].items():
        gradient = gradients[name].grad
        assert float(gradient.abs().sum()) == pytest.approx(magnitude, rel=1e-3), name
        assert float(gradient.sum()) == pytest.approx(total, abs=1e-3 * magnitude), name


def test_padding_boxes_change_nothing(model):
    model.train()
    batch = training_batch()
    expected = float(model(batch)["loss"])
    for key, width in (("gt_bbox", 4), ("gt_class", 1)):
        batch[key] = [paddle.concat([t, paddle.zeros([3, width], t.dtype)]) for t in batch[key]]
    assert float(model(batch)["loss"]) == expected


def test_images_without_boxes_have_a_finite_loss_with_gradients(model):
    model.train()
    batch = training_batch()
    batch["gt_bbox"] = [paddle.zeros([0, 4])] * 2
    batch["gt_class"] = [paddle.zeros([0, 1], "int32")] * 2
    losses = model(batch)
    assert np.isfinite(float(losses["loss"])) and float(losses["loss_reg"]) == 0
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name


def test_a_batch_of_two_is_two_of_one(model):
    with paddle.no_grad():
        both = model.raw(paddle.to_tensor(image(3, *SIZE))).logits
        single = model.raw(paddle.to_tensor(image(3, *SIZE)[:1])).logits
    assert relative_error(both[:1].numpy(), single.numpy()) < 1e-5


def test_candidates_are_cut_to_the_best_anchors(model, monkeypatch):
    raw = model.raw(paddle.to_tensor(image(3, *SIZE)))
    shape, scale = paddle.to_tensor([SIZE, SIZE], "float32"), paddle.ones([2, 2])
    all_boxes, all_scores = model.decode(raw, shape, scale)
    monkeypatch.setattr(model.head, "nms_pre", 7)
    boxes, scores = model.decode(raw, shape, scale)
    assert boxes.shape == [2, 7, 4] and scores.shape == [2, 80, 7]
    best = all_scores[1].max(axis=0).argsort(descending=True)[:7]
    np.testing.assert_allclose(boxes[1].numpy(), all_boxes[1].gather(best).numpy(), rtol=1e-5)


def test_implicit_objectness_is_the_logit_of_the_product():
    c, o = paddle.to_tensor([[-2.0, 0.0, 3.0]]), paddle.to_tensor([[1.5]])
    product = paddle.nn.functional.sigmoid(c) * paddle.nn.functional.sigmoid(o)
    np.testing.assert_allclose(
        implicit_objectness(c, o).numpy(), paddle.log(product / (1 - product)).numpy(), rtol=1e-5
    )
    assert np.isfinite(implicit_objectness(paddle.to_tensor([[200.0]]), paddle.to_tensor([[200.0]])).numpy()).all()


def test_one_hot_targets_of_negatives_and_ignored_are_zero():
    labels = paddle.to_tensor([1, -1, 0, -2], "int32")
    targets = one_hot_targets(labels, paddle.to_tensor([2, 0], "int32"), 3)
    assert targets.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_paper_config_differs_from_the_checkpoint_s():
    """PaddleDetection's checkpoint is a variant b ResNet trained with the shift before resizing; the paper's
    authors use variant a and shift the network's input. The published behavior is the default."""
    default, paper = (load_config(CONFIGS / f"yolof_r50_c5_1x_coco{s}.yml") for s in ("", "_paper"))
    strides = [build_model(config).backbone.res3.res3a.branch2a.conv._stride for config in (default, paper)]
    assert strides == [[1, 1], [2, 2]]  # variant a strides in the first 1x1
    order = [[type(t).__name__ for t in reader_transforms(config)] for config in (default, paper)]
    assert order[0].index("RandomShift") < order[0].index("Resize")
    assert order[1].index("RandomShift") > order[1].index("RandomFlip") > order[1].index("Resize")


def reader_transforms(config):
    from ppdet_repro.core.config import build

    return build(config, "TrainReader").sample_transforms
