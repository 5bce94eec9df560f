"""Optimizers from YAML: class, regularizer, gradient clipping, parameter groups.

The attributes that a layer gives its own parameters (`ParamAttr`: learning rate factor, L2 coefficient, trainable or
not) are respected: the L2 coefficient replaces that of the optimizer, and the factor multiplies the learning rate.
Gradients are clipped before weight decay is added to them. Parameters without a gradient do not change, not even by
weight decay.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import paddle
from paddle import nn
from paddle.optimizer.lr import LRScheduler
from paddle.regularizer import L1Decay, L2Decay

from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError

Clip = Union[nn.ClipGradByGlobalNorm, nn.ClipGradByValue, None]
Decay = Union[L1Decay, L2Decay, None]
Groups = List[Dict[str, Any]]
"""Parameter groups as Paddle's optimizers take them: `params`, and optionally `learning_rate` and `weight_decay`."""


class Settings(NamedTuple):
    """The arguments that all of Paddle's optimizers have in common, under their names."""

    learning_rate: LRScheduler
    parameters: Union[List[paddle.Tensor], Groups]
    grad_clip: Clip
    weight_decay: Union[L1Decay, L2Decay, float, None]


@register
class L2:
    """L2 weight decay: `factor` * weight is added to the gradient."""

    def __init__(self, factor: float = 0.0001):
        self.decay = L2Decay(factor)


@register
class L1:
    """L1 weight decay: `factor` * sign(weight) is added to the gradient."""

    def __init__(self, factor: float = 0.0001):
        self.decay = L1Decay(factor)


class Optimizer:
    """Builds the class of `paddle.optimizer` that has the same name, with these options."""

    def __init__(self, param_groups: Optional[Groups], **options: Any):
        self.param_groups, self.options = param_groups, options

    def build(self, settings: Settings) -> paddle.optimizer.Optimizer:
        return getattr(paddle.optimizer, type(self).__name__)(**{**settings._asdict(), **self.options})


@register
class SGD(Optimizer):
    """Stochastic gradient descent."""

    def __init__(self, param_groups: Optional[Groups] = None):
        super().__init__(param_groups)


@register
class Momentum(Optimizer):
    """Gradient descent with momentum: v = momentum * v + gradient + decay; weight -= learning rate * v.

    Args:
        momentum: what is kept of the previous step
        use_nesterov: take the gradient as if the step had been taken already
    """

    def __init__(self, momentum: float = 0.9, use_nesterov: bool = False, param_groups: Optional[Groups] = None):
        super().__init__(param_groups, momentum=momentum, use_nesterov=use_nesterov)


@register
class Adam(Optimizer):
    """Adam, where the regularizer's decay is added to the gradient. Source: Kingma and Ba, ICLR 2015.

    Args:
        beta1, beta2: decay of the average of the gradient, and of its square
        epsilon: added to the root of the average square
    """

    def __init__(
        self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, param_groups: Optional[Groups] = None
    ):
        super().__init__(param_groups, beta1=beta1, beta2=beta2, epsilon=epsilon)


@register
class AdamW(Optimizer):
    """Adam with decoupled weight decay, `weight_decay`; the regularizer is ignored.

    Source: Loshchilov and Hutter, ICLR 2019.

    Args:
        beta1, beta2: decay of the average of the gradient, and of its square
        epsilon: added to the root of the average square
    """

    def __init__(
        self,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        param_groups: Optional[Groups] = None,
    ):
        super().__init__(param_groups, weight_decay=weight_decay, beta1=beta1, beta2=beta2, epsilon=epsilon)


@register
class OptimizerBuilder:
    """The section `OptimizerBuilder`.

    `param_groups` of an optimizer is a list of {params: [patterns], learning_rate: factor, weight_decay: value}. It
    applies to parameters whose names contain a match of a pattern (a regular expression). Settings that a group leaves
    out, and all other parameters, remain as their layers and the optimizer define them. As in Paddle, each group is
    clipped by its own norm.

    Args:
        clip_grad_by_norm: scale gradients so that their common norm is at most this
        clip_grad_by_value: clip each component to +- this; ignored with `clip_grad_by_norm`
        regularizer: L2 or L1; false or null for none
        optimizer: an optimizer class of this module
    """

    def __init__(
        self,
        clip_grad_by_norm: Optional[float] = None,
        clip_grad_by_value: Optional[float] = None,
        regularizer: Union[Part[Any], bool, None] = "L2",
        optimizer: Part[Any] = "Momentum",
    ):
        self.grad_clip: Clip = None
        if clip_grad_by_norm is not None:
            self.grad_clip = nn.ClipGradByGlobalNorm(clip_grad_by_norm)
        elif clip_grad_by_value is not None:
            self.grad_clip = nn.ClipGradByValue(abs(clip_grad_by_value))
        if regularizer is True:
            raise UserError("OptimizerBuilder: regularizer must be L2, L1, false or null, not true")
        self.decay: Decay = regularizer.decay if regularizer else None
        self.optimizer = optimizer

    def build(self, learning_rate: LRScheduler, model: nn.Layer) -> paddle.optimizer.Optimizer:
        """An optimizer of a model's trainable parameters.

        Raises a `UserError` if the model has none, a pattern of a group matches none, or two groups match the same one.
        """
        named = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if not named:
            raise UserError("OptimizerBuilder: the model has no trainable parameter")
        groups = self.optimizer.param_groups
        if not groups:
            return self.optimizer.build(Settings(learning_rate, list(named.values()), self.grad_clip, self.decay))
        grouped = group_parameters(groups, named)
        own = {name: (p.optimize_attr["learning_rate"], p.regularizer) for name, p in named.items()}
        copies = [dict(group) for group in grouped]
        optimizer = self.optimizer.build(Settings(learning_rate, copies, self.grad_clip, self.decay))
        restore_own(grouped, named, own)
        return optimizer


def group_parameters(groups: Groups, named: Dict[str, paddle.Tensor]) -> Groups:
    """Replace patterns by the parameters they match; a last group holds the parameters that no other group has."""
    rest = dict(named)
    grouped: Groups = []
    for index, group in enumerate(groups):
        where = f"param_groups[{index}]"
        unknown = set(group) - {"params", "learning_rate", "weight_decay"}
        if unknown or not isinstance(group.get("params"), list):
            raise UserError(
                f"{where} needs params (a list of patterns), and may have learning_rate and weight_decay; "
                f"it has {sorted(group)}"
            )
        members: Dict[str, paddle.Tensor] = {}
        for pattern in group["params"]:
            found = {name: p for name, p in named.items() if re.search(pattern, name)}
            if not found:
                raise UserError(f"{where}: no trainable parameter's name contains {pattern!r}")
            members.update(found)
        taken = [name for name in members if name not in rest]
        if taken:
            raise UserError(f"{where}: {taken[0]} is also in an earlier group")
        rest = {name: p for name, p in rest.items() if name not in members}
        grouped.append({**group, "params": list(members.values())})
    if rest:
        grouped.append({"params": list(rest.values())})
    return grouped


def restore_own(grouped: Groups, named: Dict[str, paddle.Tensor], own: Dict[str, Tuple[float, Decay]]) -> None:
    """Restore the `own` learning rate factor and decay of parameters whose group has none: Paddle overwrites them."""
    names = {id(p): name for name, p in named.items()}
    for group in grouped:
        for parameter in group["params"]:
            factor, decay = own[names[id(parameter)]]
            if "learning_rate" not in group:
                parameter.optimize_attr["learning_rate"] = factor
            if "weight_decay" not in group:
                parameter.regularizer = decay
