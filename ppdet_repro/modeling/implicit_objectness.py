"""Objectness without a loss of its own. K classes.

Source: Zhu et al., "AutoAssign", 2020; YOLOF, section 4.3 ("Decoder").
"""

from __future__ import annotations

from paddle import Tensor

MAX_EXP = 1e8


def implicit_objectness(class_logits: Tensor, objectness: Tensor) -> Tensor:
    """The logit of sigmoid(class) * sigmoid(objectness): [..., K], [..., 1] -> [..., K].

    Exponentials are clipped to 1e8, so that large logits give finite results.
    """
    exponentials = class_logits.exp().clip(max=MAX_EXP) + objectness.exp().clip(max=MAX_EXP)
    return class_logits + objectness - (1.0 + exponentials).log()
