"""Optimizers from YAML: class, regularizer, gradient clipping, parameter groups.

What a layer asks for its own parameters (`ParamAttr`: learning rate factor, L2 coefficient, trainable or
not) is honoured: its own coefficient replaces the optimizer's, its factor multiplies the rate. Gradients
are clipped before decay is added to them. Parameters without gradient are left alone, decay included.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Union

import paddle
from paddle import nn
from paddle.optimizer.lr import LRScheduler
from paddle.regularizer import L1Decay, L2Decay

from ppdet_repro.core.registry import Part, register
from ppdet_repro.utils.errors import UserError

Clip = Union[nn.ClipGradByGlobalNorm, nn.ClipGradByValue, None]
Decay = Union[L1Decay, L2Decay, None]
Groups = List[Dict[str, Any]]


class Update(NamedTuple):
    """What every optimizer class is made from, besides its own parameters."""

    learning_rate: LRScheduler
    parameters: Union[List[paddle.Tensor], Groups]
    grad_clip: Clip
    decay: Decay


@register
class L2:
    """Decay towards zero in proportion to the weight: `factor` * weight is added to the gradient."""

    def __init__(self, factor: float = 0.0001):
        self.decay = L2Decay(factor)


@register
class L1:
    """Decay towards zero at a constant pace: `factor` * sign(weight) is added to the gradient."""

    def __init__(self, factor: float = 0.0001):
        self.decay = L1Decay(factor)


@register
class SGD:
    """Gradient descent."""

    def __init__(self, param_groups: Optional[List[Dict[str, Any]]] = None):
        self.param_groups = param_groups

    def build(self, update: Update) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.SGD(
            update.learning_rate, update.parameters, weight_decay=update.decay, grad_clip=update.grad_clip
        )


@register
class Momentum:
    """v = momentum * v + gradient + decay; weight -= rate * v."""

    def __init__(
        self, momentum: float = 0.9, use_nesterov: bool = False, param_groups: Optional[List[Dict[str, Any]]] = None
    ):
        self.momentum = momentum
        self.use_nesterov = use_nesterov
        self.param_groups = param_groups

    def build(self, update: Update) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            update.learning_rate,
            self.momentum,
            update.parameters,
            use_nesterov=self.use_nesterov,
            weight_decay=update.decay,
            grad_clip=update.grad_clip,
        )


@register
class Adam:
    """Adam; the regularizer's decay is part of the gradient. Source: Kingma and Ba, ICLR 2015."""

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        param_groups: Optional[List[Dict[str, Any]]] = None,
    ):
        self.betas = (beta1, beta2)
        self.epsilon = epsilon
        self.param_groups = param_groups

    def build(self, update: Update) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Adam(
            update.learning_rate,
            *self.betas,
            self.epsilon,
            update.parameters,
            weight_decay=update.decay,
            grad_clip=update.grad_clip,
        )


@register
class AdamW:
    """Adam whose decay is `weight_decay` alone, apart from the gradient: the regularizer is ignored.

    Source: Loshchilov and Hutter, ICLR 2019.
    """

    def __init__(
        self,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        param_groups: Optional[List[Dict[str, Any]]] = None,
    ):
        self.weight_decay = weight_decay
        self.betas = (beta1, beta2)
        self.epsilon = epsilon
        self.param_groups = param_groups

    def build(self, update: Update) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.AdamW(
            update.learning_rate,
            *self.betas,
            self.epsilon,
            update.parameters,
            weight_decay=self.weight_decay,
            grad_clip=update.grad_clip,
        )


@register
class OptimizerBuilder:
    """The section `OptimizerBuilder`.

    clip_grad_by_norm   gradients are scaled so that the norm of all together is at most this
    clip_grad_by_value  without the above: each component is clipped to +- this
    regularizer         L2 or L1; false or null for none
    optimizer           one of the classes of this file

    `param_groups` of an optimizer is a list of {params: [patterns], learning_rate: factor, weight_decay:
    value}: parameters whose name contains a pattern (a regular expression) get that factor and that
    decay; what a group does not say, and all other parameters, stay as the layers and the optimizer have
    it. Each group is clipped by its own norm, as Paddle does.
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
            raise UserError("OptimizerBuilder: regularizer wants L2, L1, false or null, not true")
        self.decay: Decay = regularizer.decay if regularizer else None
        self.optimizer = optimizer

    def build(self, learning_rate: LRScheduler, model: nn.Layer) -> paddle.optimizer.Optimizer:
        """The optimizer of a model's trainable parameters.

        UserError: a group names no parameter, or two name the same.
        """
        named = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
        if not named:
            raise UserError("OptimizerBuilder: the model has no trainable parameter")
        groups = self.optimizer.param_groups
        if not groups:
            return self.optimizer.build(Update(learning_rate, list(named.values()), self.grad_clip, self.decay))
        grouped = group_parameters(groups, named)
        own = {name: (p.optimize_attr["learning_rate"], p.regularizer) for name, p in named.items()}
        optimizer = self.optimizer.build(
            Update(learning_rate, [dict(group) for group in grouped], self.grad_clip, self.decay)
        )
        restore_own(grouped, named, own)
        return optimizer


def group_parameters(groups: Groups, named: Dict[str, paddle.Tensor]) -> Groups:
    """The groups with parameters in place of patterns, and a last one of the parameters that are in none."""
    rest = dict(named)
    grouped: Groups = []
    for index, group in enumerate(groups):
        where = f"param_groups[{index}]"
        unknown = set(group) - {"params", "learning_rate", "weight_decay"}
        if unknown or not isinstance(group.get("params"), list):
            raise UserError(
                f"{where} wants params (a list of patterns), learning_rate, weight_decay, not {sorted(group)}"
            )
        members = {}
        for pattern in group["params"]:
            found = {name: p for name, p in named.items() if re.search(pattern, name)}
            if not found:
                raise UserError(f"{where}: no trainable parameter's name contains {pattern!r}")
            members.update(found)
        taken = [name for name in members if name not in rest]
        if taken:
            raise UserError(f"{where}: {taken[0]} is in an earlier group, too")
        rest = {name: p for name, p in rest.items() if name not in members}
        grouped.append({**group, "params": list(members.values())})
    if rest:
        grouped.append({"params": list(rest.values())})
    return grouped


def restore_own(grouped: Groups, named: Dict[str, paddle.Tensor], own: Dict[str, Any]) -> None:
    """Undo that Paddle's groups forget the layers' own factors and coefficients where the group has none."""
    names = {id(p): name for name, p in named.items()}
    for group in grouped:
        for parameter in group["params"]:
            factor, decay = own[names[id(parameter)]]
            if "learning_rate" not in group:
                parameter.optimize_attr["learning_rate"] = factor
            if "weight_decay" not in group:
                parameter.regularizer = decay
