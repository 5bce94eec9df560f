"""Objectness that no loss of its own teaches.

K classes. Source: Zhu et al., "AutoAssign", 2020; YOLOF, section 4.3 ("Decoder").
"""

from __future__ import annotations

import paddle

MAX_EXP = 1e8


def implicit_objectness(class_logits: paddle.Tensor, objectness: paddle.Tensor) -> paddle.Tensor:
    """The logit of sigmoid(class) * sigmoid(objectness): [..., K], [..., 1] -> [..., K].

    The exponentials are cut at 1e8, so large logits stay finite. Source: YOLOF, section 4.3.
    """
    exponentials = class_logits.exp().clip(max=MAX_EXP) + objectness.exp().clip(max=MAX_EXP)
    return class_logits + objectness - (1.0 + exponentials).log()
