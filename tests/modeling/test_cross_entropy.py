"""Binary cross entropy and focal loss, by the formulas."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppdet_repro.modeling.losses.cross_entropy import binary_cross_entropy
from ppdet_repro.modeling.losses.focal import FocalLoss

LOGITS = np.array([-3.0, -1e-7, -0.0, 0.0, 1e-7, 0.5, 20.0], "float32")


def value_and_gradient(loss, target):
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    values = loss(logits, paddle.full_like(logits, target))
    values.sum().backward()
    return values.numpy(), logits.grad.numpy()


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_and_its_gradient(target):
    """The gradient is s(x) - t, 0.5 - t at a logit of 0, where that of Paddle 3's own function is -0.5 - t."""
    values, gradient = value_and_gradient(binary_cross_entropy, target)
    x = LOGITS.astype("float64")
    np.testing.assert_allclose(values, np.logaddexp(0, x) - target * x, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gradient, 1 / (1 + np.exp(-x)) - target, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_loss_and_its_gradient(target):
    """With q = 1 - p the probability of the wrong answer and z its logit: the loss is -a q^2 log p, its derivative by z
    is a q^2 (q - 2 p log p), since dp/dz = -p q."""
    values, gradient = value_and_gradient(FocalLoss(alpha=0.25, gamma=2.0), target)
    sign, alpha = (-1, 0.25) if target else (1, 0.75)
    z = sign * LOGITS.astype("float64")
    p, q = 1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(values, -alpha * q**2 * np.log(p), rtol=2e-6, atol=1e-8)
    np.testing.assert_allclose(gradient, sign * alpha * q**2 * (q - 2 * p * np.log(p)), rtol=2e-6, atol=1e-8)
