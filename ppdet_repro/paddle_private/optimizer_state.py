"""An optimizer's accumulators by the names of the model's parameters, such as `neck.conv.weight|velocity`.

Paddle names them after variables (`conv2d_7.w_0_velocity_0`), with numbers that depend on what else the process built.
"""

from __future__ import annotations

from typing import Dict, Mapping

import numpy as np
import paddle
from paddle import nn
from paddle.base.layer_helper import LayerHelper


def optimizer_state(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> Dict[str, np.ndarray]:
    """The accumulators as arrays. Parameters that never had a gradient have none."""
    names = {p.name: name for name, p in model.named_parameters()}
    return {
        f"{names[variable]}|{accumulator}": tensor.numpy()
        for accumulator, tensors in optimizer._accumulators.items()
        for variable, tensor in tensors.items()
    }


def restore_optimizer(optimizer: paddle.optimizer.Optimizer, model: nn.Layer, state: Mapping[str, np.ndarray]) -> None:
    """Load a saved state into a new optimizer. ValueError if it belongs to another optimizer class or model."""
    wanted = {key.split("|")[0] for key in state}
    parameters = {name: p for name, p in model.named_parameters() if name in wanted}
    optimizer.helper = LayerHelper(type(optimizer).__name__)
    optimizer._create_accumulators(paddle.static.default_main_program().global_block(), list(parameters.values()))
    targets = {
        f"{name}|{accumulator}": tensors[p.name]
        for accumulator, tensors in optimizer._accumulators.items()
        for name, p in parameters.items()
    }
    if set(targets) != set(state):
        differing = ", ".join(sorted(set(targets) ^ set(state))[:4])
        raise ValueError(f"the saved state belongs to another optimizer or model; difference: {differing}")
    for key, tensor in targets.items():
        tensor.set_value(state[key])
