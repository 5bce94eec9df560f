"""PAFNet's AGS: the regression loss of a pixel follows the heat map's response there.

B images, K classes, H, W the map, P places that regress.
Source: PAFNet, section 3.1, equation 3 and figure 3.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ppdet_repro.core.registry import register
from ppdet_repro.utils.errors import UserError


@register
class AdaptiveGaussianSampling:
    """Factors (1 - trade_off) + trade_off * S on the GIoU of each place, S the heat map's relative response.

    The paper gives the steps (the largest value over the classes, a softmax, the mask of the object's
    Gaussian) and equation 3, giou' = 1 - ((1 - lambda) + lambda * S) * giou, and leaves the rest open.
    Decided here:

    - The softmax runs over the places of one object, and these are the support of its truncated Gaussian:
      that is the mask. The Gaussian's values already weight the loss; as factors of S they would count twice.
      A place belongs to the object whose box is its target: where two overlap, to the smaller one.
    - It is taken of the heat map branch's output, the logits, as the figure draws it.
    - S is the softmax divided by its largest value in the object: exp(l - max l), in (0, 1]. The softmax
      itself sums to 1, so in an object of n places S would be about 1/n and the factor about 1 - lambda
      everywhere: a smaller weight of the whole loss, smallest for large objects, hardly a choice among
      places. Scaled, the most significant place keeps its full loss in objects of any size, and an untrained,
      flat heat map (S = 1) leaves TTFNet's loss as it is; the choice sets in as the heat map learns.
    - No gradient flows into the heat map, for which the loss would else reward a flat response.
    - lambda is 0.9, the constant in PaddleDetection's GIoU loss.
    """

    def __init__(self, trade_off: float = 0.9):
        if not 0 <= trade_off <= 1:
            raise UserError(f"AdaptiveGaussianSampling: trade_off {trade_off} is not in 0..1")
        self.trade_off = trade_off

    @paddle.no_grad()
    def __call__(self, logits: paddle.Tensor, places: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
        """Logits [B, K, H, W], places [P, 3] (image, y, x) and their target boxes [P, 4] -> factors [P]."""
        response = logits.max(axis=1).gather_nd(places)  # [P]
        relative = (response - largest_of_object(response, places, boxes)).exp()  # [P], in (0, 1]
        return (1 - self.trade_off) + self.trade_off * relative


@register
class ChannelSoftmaxAGS:
    """PaddleDetection's AGS: the softmax runs over the one channel that the maximum over classes left, so S
    is 1 everywhere and the loss is TTFNet's. `TTFHead: {ags_module: true}` means this."""

    def __init__(self, trade_off: float = 0.9):
        self.trade_off = trade_off

    @paddle.no_grad()
    def __call__(self, logits: paddle.Tensor, places: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
        """Logits [B, K, H, W], places [P, 3] (image, y, x) and their target boxes [P, 4] -> factors [P]."""
        softmax = F.softmax(logits.max(axis=1, keepdim=True), axis=1)  # [B, 1, H, W] of ones
        return (1 - self.trade_off) + self.trade_off * softmax.squeeze(1).gather_nd(places)


def largest_of_object(values: paddle.Tensor, places: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """The largest value [P] among the places of the same object: of one image and one target box."""
    keys = paddle.concat([places[:, :1].astype(boxes.dtype), boxes], axis=1)  # [P, 5]
    owner = paddle.unique(keys, axis=0, return_inverse=True)[1]  # [P]
    order = owner.argsort()
    largest = paddle.geometric.segment_max(values.gather(order), owner.gather(order))  # [objects]
    return largest.gather(owner)
