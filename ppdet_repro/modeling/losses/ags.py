"""PAFNet's AGS: the regression loss of a location is weighted by the heat map's response there.

B images, K classes, H, W size of the map, P locations that regress.
Source: PAFNet, section 3.1, equation 3 and figure 3.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.core.registry import register
from ppdet_repro.utils.errors import UserError


@register
class AdaptiveGaussianSampling:
    """Factors (1 - trade_off) + trade_off * S on the GIoU of each location; S is the heat map's relative response.

    The paper gives the steps (the maximum over the classes, a softmax, the mask of the object's Gaussian) and equation
    3, giou' = 1 - ((1 - lambda) + lambda * S) * giou. It leaves the rest open. This implementation decides:

    - The softmax runs over the locations of one object, which are the support of its truncated Gaussian: that is the
      mask. The values of the Gaussian already weight the loss; as factors of S they would count twice. A location
      belongs to the object whose box is its target; where two objects overlap, that is the smaller one.
    - The softmax is taken of the output of the heat map's branch, the logits, as in the figure.
    - S is the softmax divided by its largest value in the object: exp(l - max l), in (0, 1]. The softmax itself sums
      to 1, so in an object of n locations S would be about 1/n and the factor about 1 - lambda everywhere. That would
      reduce the weight of the whole loss, most for large objects, and hardly select locations. Scaled, the most
      significant location keeps its full loss in objects of any size. An untrained, flat heat map (S = 1) leaves
      TTFNet's loss as it is; the selection sets in as the heat map learns.
    - No gradient flows into the heat map; otherwise the loss would reward a flat response.
    - lambda is 0.9, the constant in PaddleDetection's GIoU loss.

    Args:
        trade_off: the lambda of equation 3; 0 leaves the GIoU as it is
    """

    def __init__(self, trade_off: float = 0.9):
        if not 0 <= trade_off <= 1:
            raise UserError(f"AdaptiveGaussianSampling: trade_off {trade_off} is not in 0..1")
        self.trade_off = trade_off

    @paddle.no_grad()
    def __call__(self, logits: Tensor, locations: Tensor, boxes: Tensor) -> Tensor:
        """Logits [B, K, H, W], locations [P, 3] (image, y, x) and their target boxes [P, 4] -> factors [P]."""
        response = logits.max(axis=1).gather_nd(locations)  # [P]
        relative = (response - largest_of_object(response, locations, boxes)).exp()  # [P], in (0, 1]
        return (1 - self.trade_off) + self.trade_off * relative


@register
class ChannelSoftmaxAGS:
    """PaddleDetection's AGS, which `TTFHead: {ags_module: true}` selects.

    The softmax runs over one channel, the maximum over the classes: S is 1 everywhere and the loss is TTFNet's.

    Args:
        trade_off: the lambda of equation 3; 0 leaves the GIoU as it is
    """

    def __init__(self, trade_off: float = 0.9):
        self.trade_off = trade_off

    @paddle.no_grad()
    def __call__(self, logits: Tensor, locations: Tensor, boxes: Tensor) -> Tensor:
        """Logits [B, K, H, W], locations [P, 3] (image, y, x) and their target boxes [P, 4] -> factors [P]."""
        softmax = F.softmax(logits.max(axis=1, keepdim=True), axis=1)  # [B, 1, H, W] of ones
        return (1 - self.trade_off) + self.trade_off * softmax.squeeze(1).gather_nd(locations)


def largest_of_object(values: Tensor, locations: Tensor, boxes: Tensor) -> Tensor:
    """The largest value [P] among the locations of the same object, those with the same image and target box."""
    keys = paddle.concat([locations[:, :1].astype(boxes.dtype), boxes], axis=1)  # [P, 5]
    owner = paddle.unique(keys, axis=0, return_inverse=True)[1]  # [P]
    order = owner.argsort()
    largest = paddle.geometric.segment_max(values.gather(order), owner.gather(order))  # [objects]
    return largest.gather(owner)
