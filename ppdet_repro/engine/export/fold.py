"""Folding into the weights of convolutions: of batch norms and of the factor of TTFNet's distances. And folding of
BiFPN's learned weights into constants.

O output channels of a convolution, I input channels per group, k kernel size.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from typing import Any, Callable, DefaultDict, Dict, List, Sequence, Set, Tuple

import paddle
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling.heads.ttf_head import TTFHead
from ppdet_repro.modeling.necks.bifpn import Fusion
from ppdet_repro.paddle_private.layers import epsilon, replace_sublayer, running_statistics

CONVOLUTIONS = (nn.Conv2D, DeformConv2D)  # weights [O, I, k, k]


def fold_batch_norms(model: nn.Layer, run: Callable[[nn.Layer], Any]) -> nn.Layer:
    """A copy of the model in eval mode, with batch norms folded into the weights of the convolutions before them.

    A batch norm is folded if its input is always the output of one convolution, and if that convolution feeds no other
    batch norm. So convolutions that levels share, with a batch norm per level, stay. `run` calls a model on an example
    input, which shows which layer follows which.
    """
    model = copy.deepcopy(model)
    model.eval()
    for convolution, norm in find_pairs(model, run):
        fold(convolution, norm)
        replace_sublayer(model, norm, nn.Identity())
    return model


def find_pairs(model: nn.Layer, run: Callable[[nn.Layer], Any]) -> List[Tuple[nn.Layer, nn.BatchNorm2D]]:
    """The pairs of a convolution and a batch norm that can be folded."""
    origin: Dict[int, Tuple[Any, nn.Layer]] = {}  # id of a convolution's output -> output (kept alive), convolution
    sources: DefaultDict[nn.Layer, Set[Any]] = defaultdict(set)
    targets: DefaultDict[nn.Layer, Set[Any]] = defaultdict(set)
    calls: Counter[nn.Layer] = Counter()

    def record_output(layer: nn.Layer, _: Any, output: Any) -> None:
        origin[id(output)] = (output, layer)
        calls[layer] += 1

    def record_input(layer: nn.Layer, inputs: Tuple[Any, ...]) -> None:
        source = origin.get(id(inputs[0]), (None, None))[1]
        sources[layer].add(source)
        targets[source].add(layer)
        calls[layer] += 1

    hooks = []
    for layer in model.sublayers():
        if isinstance(layer, CONVOLUTIONS):
            hooks.append(layer.register_forward_post_hook(record_output))
        elif isinstance(layer, nn.BatchNorm2D):
            hooks.append(layer.register_forward_pre_hook(record_input))
    try:
        with paddle.no_grad():
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
    single = [(*found, norm) for norm, found in sources.items() if len(found) == 1]
    return [(s, n) for s, n in single if s is not None and targets[s] == {n} and calls[s] == calls[n]]


def fold(convolution: nn.Layer, norm: nn.BatchNorm2D) -> None:
    """Change the weights and the bias of the convolution so that it computes what both layers compute.

    norm(y) = (y - mean) * s + beta with s = gamma / sqrt(variance + eps). So the new weight is weight * s, and the new
    bias is (bias - mean) * s + beta.
    """
    mean, variance = running_statistics(norm)
    scale = norm.weight / paddle.sqrt(variance + epsilon(norm))  # [O]
    bias = 0.0 if convolution.bias is None else convolution.bias
    folded_bias = ((bias - mean) * scale + norm.bias).detach()  # [O]
    convolution.weight.set_value(convolution.weight * scale.reshape([-1, 1, 1, 1]))  # [O, I, k, k]
    if convolution.bias is None:
        convolution.bias = convolution.create_parameter([len(folded_bias)], is_bias=True)
    convolution.bias.set_value(folded_bias)


def fold_distance_factor(model: nn.Layer) -> None:
    """Multiply the last convolution of TTFNet's distances by the factor behind its ReLU, in place: f relu(x) is
    relu(f x) for a positive f.

    In bfloat16, and in int8 if the activation is rounded, oneDNN in Paddle 2.6's programs forgets a factor that follows
    a convolution and its activation: `cpu_quantize_squash_pass` moves it into a conversion to float32, which it then
    removes. Quantized layers stay as they are, because they know the range of their output.
    """
    for head in [layer for layer in model.sublayers() if isinstance(layer, TTFHead)]:
        convolution, factor = head.wh_head.head, head.wh_offset_base
        if isinstance(convolution, nn.Conv2D) and factor > 0:
            for parameter in (convolution.weight, convolution.bias):
                parameter.set_value(parameter * factor)
            head.wh_offset_base = 1.0


class FixedFusion(nn.Layer):
    """A `Fusion` whose weights are constants of the program."""

    def __init__(self, fusion: Fusion):
        super().__init__()
        self.shares = fusion.shares().tolist()
        self.fusion = fusion

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        return self.fusion.convolve(sum(share * x for share, x in zip(self.shares, maps)))


def with_replaced(model: nn.Layer, kind: type, new: Callable[[Any], nn.Layer]) -> nn.Layer:
    """A copy of the model in eval mode, in which `new(layer)` replaces every layer of class `kind`."""
    model = copy.deepcopy(model)
    for layer in [layer for layer in model.sublayers() if isinstance(layer, kind)]:
        replace_sublayer(model, layer, new(layer))
    model.eval()
    return model
