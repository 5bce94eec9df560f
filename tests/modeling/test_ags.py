"""AGS (PAFNet, section 3.1): factors computed by hand, and their effect on the gradient."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from ppdet_repro.modeling.heads.ttf_head import TTFHead, TTFOutputs
from ppdet_repro.modeling.losses.ags import AdaptiveGaussianSampling, ChannelSoftmaxAGS, largest_of_object
from ppdet_repro.modeling.losses.ctfocal_loss import CTFocalLoss
from ppdet_repro.modeling.losses.iou_loss import GIoULoss
from ppdet_repro.utils.errors import UserError

SMALL, LARGE = [0, 0, 8, 8], [0, 0, 16, 16]


def example():
    """One image of 2 x 2 cells, 2 classes. The small box owns (0, 0) and (0, 1), the large one (1, 0);
    (1, 1) is outside of both Gaussians and has the highest response of all.

    Response (the larger class): 2 and 0 for the small box, -3 for the large one.
    """
    logits = np.array([[[[2.0, -1.0], [-3.0, 9.0]], [[-4.0, 0.0], [-5.0, 9.0]]]], np.float32)
    locations = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]])  # image, y, x
    boxes = np.array([SMALL, SMALL, LARGE], np.float32)
    return paddle.to_tensor(logits), paddle.to_tensor(locations), paddle.to_tensor(boxes)


def head(ags=None, ags_module=False):
    return TTFHead(1, 2, hm_loss=CTFocalLoss(), wh_loss=GIoULoss(5.0, reduction="sum"), ags=ags, ags_module=ags_module)


def batch():
    """The example's targets: weights 1, 2, 1 at its locations; half-right predictions everywhere."""
    logits, locations, boxes = example()
    weight, target = np.zeros((1, 1, 2, 2), np.float32), np.full((1, 4, 2, 2), -1, np.float32)
    for (_, y, x), box, value in zip(locations.tolist(), boxes.numpy(), (1, 2, 1)):
        weight[0, 0, y, x], target[0, :, y, x] = value, box
    distances = paddle.full([1, 4, 2, 2], 4.0)
    for tensor in (logits, distances):
        tensor.stop_gradient = False
    targets = {
        "ttf_heatmap": paddle.zeros([1, 2, 2, 2]),
        "ttf_box_target": paddle.to_tensor(target),
        "ttf_reg_weight": paddle.to_tensor(weight),
    }
    return TTFOutputs(logits, distances), targets


def test_factors_by_hand():
    # small box: responses 2 and 0, softmax e^2 and 1 over their sum, scaled to its largest: 1 and e^-2.
    # large box: one location, 1, however weak its response; (1, 1) has no part in it.
    s = [1, math.exp(-2), 1]
    factors = AdaptiveGaussianSampling(trade_off=0.75)(*example())
    np.testing.assert_allclose(factors.numpy(), [0.25 + 0.75 * value for value in s], rtol=1e-6)


def test_s_is_the_object_s_softmax_over_its_largest_value():
    logits, locations, boxes = example()
    factors = AdaptiveGaussianSampling(trade_off=1.0)(logits, locations, boxes)
    softmax = paddle.nn.functional.softmax(paddle.to_tensor([2.0, 0.0]))
    np.testing.assert_allclose(factors[:2].numpy(), (softmax / softmax.max()).numpy(), rtol=1e-6)


def test_an_object_is_one_box_of_one_image():
    values = paddle.to_tensor([1.0, 5.0, 2.0, 7.0])
    locations = paddle.to_tensor([[0, 0, 0], [1, 0, 0], [0, 3, 3], [0, 2, 2]])
    boxes = paddle.to_tensor([SMALL, SMALL, SMALL, LARGE], "float32")
    assert largest_of_object(values, locations, boxes).tolist() == [2, 5, 2, 7]


def test_a_flat_heat_map_leaves_the_loss_as_it_is():
    _, locations, boxes = example()
    assert AdaptiveGaussianSampling()(paddle.full([1, 2, 2, 2], -4.6), locations, boxes).tolist() == [1, 1, 1]


def test_trade_off_0_is_ttfnet():
    assert AdaptiveGaussianSampling(trade_off=0.0)(*example()).tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="trade_off 1.5"):
        AdaptiveGaussianSampling(trade_off=1.5)


def test_the_loss_is_equation_3():
    raw, targets = batch()
    factors = AdaptiveGaussianSampling()(*example()).tolist()
    # predictions reach 4 px around their locations: -4, -4, 4, 4 and 0, -4, 8, 4 (overlaps 16 and 32 with the
    # box 0, 0, 8, 8 of 64) and -4, 0, 4, 8 (overlap 32 with the box of 256)
    gious = [16 / 112 - (144 - 112) / 144, 32 / 96 - (96 - 96) / 96, 32 / 288 - (320 - 288) / 320]
    by_hand = sum(w * (1 - f * g) for w, f, g in zip((1, 2, 1), factors, gious)) * 5 / 4
    loss = head(AdaptiveGaussianSampling()).losses(raw, targets)["wh_loss"]
    assert float(loss) == pytest.approx(by_hand, rel=1e-4)


def test_gradient_goes_to_the_most_significant_place():
    """AGS moves the regression to where the heat map responds. Of an object's locations, the one with the highest
    response keeps its gradient, and those of the others shrink by their factors. The heat map gets no gradient."""
    gradients = {}
    for name, ags in (("plain", None), ("ags", AdaptiveGaussianSampling())):
        raw, targets = batch()
        head(ags).losses(raw, targets)["wh_loss"].backward()
        assert raw.logits.grad is None
        gradients[name] = np.abs(raw.distances.grad.numpy()).sum(axis=1)[0]  # [y, x]
    plain, ags = gradients["plain"], gradients["ags"]
    factors = AdaptiveGaussianSampling()(*example()).tolist()
    np.testing.assert_allclose(ags[0] / plain[0], factors[:2], rtol=1e-5)
    assert ags[1, 0] == pytest.approx(plain[1, 0]) and ags[1, 1] == plain[1, 1] == 0
    assert ags[0, 1] < plain[0, 1] and ags[0, 0] == pytest.approx(plain[0, 0])


def test_paddledetection_s_module_changes_nothing():
    """Its softmax has one channel, so `ags_module: true` and no AGS give the same loss."""
    raw, targets = batch()
    module = head(ags_module=True)
    assert isinstance(module.ags, ChannelSoftmaxAGS)
    assert ChannelSoftmaxAGS()(*example()).tolist() == [1, 1, 1]
    assert float(module.losses(raw, targets)["loss"]) == float(head().losses(raw, targets)["loss"])
    with pytest.raises(UserError, match="exclude"):
        head(AdaptiveGaussianSampling(), ags_module=True)
