"""Losses on overlaps: values and gradients that were recorded from PaddleDetection."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES

from ppdet_repro.modeling.losses.iou_loss import DIouLoss, IouLoss
from ppdet_repro.modeling.losses.yolo_loss import YOLOv3Loss
from ppdet_repro.utils.errors import UserError


def recorded():
    """40 boxes and targets in pixels, the last ten apart; for each loss the gradients of the boxes, then its values."""
    with np.load(FIXTURES / "iou_losses.npz") as arrays:
        return dict(arrays)


def gradients_and_values(loss, boxes, targets):
    boxes = paddle.to_tensor(boxes, stop_gradient=False)
    values = loss(boxes, paddle.to_tensor(targets))
    values.sum().backward()
    return np.concatenate([boxes.grad.numpy().ravel(), values.numpy().ravel()])


@pytest.mark.parametrize("complete", [False, True])
def test_diou_loss(complete):
    arrays = recorded()
    loss = DIouLoss(2.0, use_complete_iou_loss=complete)
    found = gradients_and_values(loss, arrays["boxes"], arrays["targets"])
    np.testing.assert_allclose(found, arrays[f"DIouLoss.{complete}"], rtol=1e-5, atol=1e-8)
    each = DIouLoss(2.0, use_complete_iou_loss=complete, reduction="none")
    boxes, targets = (paddle.to_tensor(arrays[name]) for name in ("boxes", "targets"))
    assert float(each(boxes, targets).mean()) == pytest.approx(found[-1], rel=1e-6)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_iou_loss_of_another_overlap(kind, square):
    arrays = recorded()
    loss = IouLoss(1.5, loss_square=square, **{kind: True})
    found = gradients_and_values(loss, arrays["boxes"] / 100, arrays["targets"] / 100)
    np.testing.assert_allclose(found, arrays[f"IouLoss.{kind}.{square}"], rtol=1e-5, atol=1e-5)


def test_only_one_overlap_and_a_loss_per_box():
    with pytest.raises(UserError, match="giou and ciou exclude each other"):
        IouLoss(giou=True, ciou=True)
    with pytest.raises(UserError, match="iou_loss needs reduction: none"):
        YOLOv3Loss(iou_loss=DIouLoss())
    assert YOLOv3Loss(iou_loss=DIouLoss(reduction="none")).iou_loss.complete
