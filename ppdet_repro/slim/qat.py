"""Quantization-aware training: a model is trained while its convolutions compute with rounded inputs and weights.

Rounding has the gradient of the identity (the straight-through estimator of Bengio et al., 2013). The layers are
Paddle's own, which PaddleSlim, and with it PaddleDetection, uses too.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.quantization import ImperativeQuantAware
from paddle.static.quantization import QuantWeightPass, ReplaceFakeQuantDequantPass

from ppdet_repro.core.registry import register
from ppdet_repro.paddle_private.quantization import inference_graph, remove_preprocessing
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError

BITS = 8
WRAPPED = "._layer."  # what quantization inserts in the names of a layer's weights
CHOICES: Dict[str, Tuple[Any, ...]] = {  # the values of a key, the default first
    "weight_preprocess_type": (None, "PACT"),
    "activation_preprocess_type": (None, "PACT"),
    "weight_quantize_type": ("channel_wise_abs_max", "abs_max"),
    "activation_quantize_type": ("moving_average_abs_max",),
    "weight_bits": (BITS,),
    "activation_bits": (BITS,),
    "dtype": ("int8",),
    "fuse_conv_bn": (False,),
    "onnx_format": (True,),
}
DEFAULTS: Dict[str, Any] = {
    **{key: known[0] for key, known in CHOICES.items()},
    "window_size": 10000,
    "moving_rate": 0.9,
    "quantizable_layer_type": ["Conv2D", "Linear"],
}
LAYERS = ("Conv2D", "Linear", "Conv2DTranspose")


class PACT(nn.Layer):
    """Clip the input to [-alpha, alpha], where alpha is learned.

    Source: Choi et al., "PACT", 2018; initial value and learning rate are those of PaddleSlim.
    """

    def __init__(self) -> None:
        super().__init__()
        initial = nn.initializer.Constant(100.0)
        self.alpha = self.create_parameter([1], paddle.ParamAttr(initializer=initial, learning_rate=1000.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x - F.relu(x - self.alpha) + F.relu(-self.alpha - x)


@register
class QAT:
    """The section `QAT` of PaddleDetection's configs for quantization-aware training.

    Args:
        quant_config: a mapping with PaddleSlim's keys:
            activation_preprocess_type, weight_preprocess_type: null or PACT;
            weight_quantize_type: abs_max or channel_wise_abs_max;
            activation_quantize_type: moving_average_abs_max, whose rate is moving_rate;
            quantizable_layer_type: a list of Conv2D, Linear, Conv2DTranspose;
            weight_bits, activation_bits, dtype, fuse_conv_bn and onnx_format can only have the values that deployment
            supports; window_size is ignored
        print_model: log the model's layers after quantization
    """

    def __init__(self, quant_config: Optional[Dict[str, Any]] = None, print_model: bool = False):
        given = dict(quant_config or {})
        unknown = sorted(set(given) - set(DEFAULTS))
        if unknown:
            raise UserError(f"QAT.quant_config has no key {unknown[0]!r}; it has {', '.join(DEFAULTS)}")
        settings = {**DEFAULTS, **given}
        for key, known in CHOICES.items():
            if settings[key] not in known:
                raise UserError(f"QAT.quant_config.{key} {settings[key]!r} is not one of {list(known)}")
        kinds = settings["quantizable_layer_type"]
        if not isinstance(kinds, list) or not kinds or set(kinds) - set(LAYERS):
            raise UserError(f"QAT.quant_config.quantizable_layer_type {kinds!r} is not a list of {', '.join(LAYERS)}")
        if not 0 < settings["moving_rate"] < 1:
            raise UserError(f"QAT.quant_config.moving_rate {settings['moving_rate']} is not in (0, 1)")
        self.settings, self.print_model = settings, print_model

    def quantize(self, model: nn.Layer) -> None:
        """Make the model's convolutions and linear layers round their inputs and weights, in place."""
        names = ("quantizable_layer_type", "weight_quantize_type", "activation_quantize_type", "moving_rate")
        ImperativeQuantAware(
            **{name: self.settings[name] for name in names},
            weight_bits=BITS,
            activation_bits=BITS,
            weight_preprocess_layer=PACT if self.settings["weight_preprocess_type"] else None,
            act_preprocess_layer=PACT if self.settings["activation_preprocess_type"] else None,
            onnx_format=True,
        ).quantize(model)


def plain_name(name: str) -> str:
    """The name that a weight of a quantized model has in the model before quantization."""
    return name.replace(WRAPPED, ".")


def without_clipping(model: nn.Layer) -> nn.Layer:
    """A copy of a quantized model without PACT, because int8 arithmetic clips to its ranges anyway."""
    model = copy.deepcopy(model)
    remove_preprocessing(model, PACT)
    return model


def to_int8(folder: Path, _: Any = None) -> None:
    """Convert the saved training form of a quantized model, model.pdmodel and model.pdiparams in `folder`, to int8.

    The result has QuantizeLinear and DequantizeLinear operators, as in ONNX, and int8 weights. The second argument is
    not used: this is a `quantize` argument of `export_model`, which passes a reader of images.
    """
    prefix = str(folder / "model")
    with static_mode() as executor:
        scope, place = paddle.static.global_scope(), paddle.CPUPlace()
        program, feeds, fetches = paddle.static.load_inference_model(prefix, executor)
        graph = inference_graph(program)
        for part in graph.all_sub_graphs():
            ReplaceFakeQuantDequantPass(scope, place, quant_bits=BITS).apply(part)
        for part in graph.all_sub_graphs():
            QuantWeightPass(scope, place).apply(part)
        program = graph.to_program()
        variables = [program.global_block().var(name) for name in feeds]
        fetched = [program.global_block().var(fetch.name) for fetch in fetches]
        paddle.static.save_inference_model(prefix, variables, fetched, executor, program=program, clip_extra=True)
    (folder / "model.pdiparams.info").unlink(missing_ok=True)  # describes the training form
