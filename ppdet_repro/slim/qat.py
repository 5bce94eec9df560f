"""Quantisation-aware training: a model learns while its convolutions compute with rounded inputs and weights.

Rounding has the gradient of the identity (the straight-through estimator of Bengio et al., 2013). The layers are
Paddle's own, which PaddleSlim wraps, as PaddleDetection does.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import register
from ppdet_repro.paddle_private.quantization import inference_graph, remove_preprocessing
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError

BITS = 8
WRAPPED = "._layer."  # in the names of weights: of a layer that is quantised
DEFAULTS = {
    "weight_preprocess_type": None,
    "activation_preprocess_type": None,
    "weight_quantize_type": "channel_wise_abs_max",
    "activation_quantize_type": "moving_average_abs_max",
    "weight_bits": BITS,
    "activation_bits": BITS,
    "dtype": "int8",
    "window_size": 10000,
    "moving_rate": 0.9,
    "quantizable_layer_type": ["Conv2D", "Linear"],
    "fuse_conv_bn": False,
    "onnx_format": True,
}
CHOICES = {
    "weight_preprocess_type": (None, "PACT"),
    "activation_preprocess_type": (None, "PACT"),
    "weight_quantize_type": ("abs_max", "channel_wise_abs_max"),
    "activation_quantize_type": ("moving_average_abs_max",),
    "weight_bits": (BITS,),
    "activation_bits": (BITS,),
    "dtype": ("int8",),
    "fuse_conv_bn": (False,),
    "onnx_format": (True,),
}
LAYERS = ("Conv2D", "Linear", "Conv2DTranspose")


class PACT(nn.Layer):
    """Clips its input to [-alpha, alpha], where alpha is learned (Choi et al., "PACT", 2018; first value and learning
    rate are PaddleSlim's)."""

    def __init__(self):
        super().__init__()
        first = nn.initializer.Constant(100.0)
        self.alpha = self.create_parameter([1], paddle.ParamAttr(initializer=first, learning_rate=1000.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x - F.relu(x - self.alpha) + F.relu(-self.alpha - x)


@register
class QAT:
    """The section `QAT` of PaddleDetection's configs for quantisation-aware training.

    quant_config  PaddleSlim's keys: activation_preprocess_type and weight_preprocess_type (null or PACT),
                  weight_quantize_type (abs_max, channel_wise_abs_max), activation_quantize_type
                  (moving_average_abs_max), moving_rate, quantizable_layer_type (of Conv2D, Linear, Conv2DTranspose);
                  weight_bits, activation_bits, dtype, fuse_conv_bn and onnx_format can only have the values that
                  deployment knows; window_size is accepted
    print_model   log the model's layers after quantisation
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
        self.settings = settings
        self.print_model = print_model

    def quantise(self, model: nn.Layer) -> None:
        """Replace the model's layers by such that round their inputs and weights, and hold the same weights."""
        from paddle.quantization import ImperativeQuantAware  # other trainings need not have it

        settings = self.settings
        ImperativeQuantAware(
            quantizable_layer_type=settings["quantizable_layer_type"],
            weight_quantize_type=settings["weight_quantize_type"],
            activation_quantize_type=settings["activation_quantize_type"],
            weight_bits=BITS,
            activation_bits=BITS,
            moving_rate=settings["moving_rate"],
            weight_preprocess_layer=PACT if settings["weight_preprocess_type"] else None,
            act_preprocess_layer=PACT if settings["activation_preprocess_type"] else None,
            onnx_format=True,
        ).quantize(model)


def plain_name(name: str) -> str:
    """What a weight of a quantised model is called in one that is not."""
    return name.replace(WRAPPED, ".")


def without_clipping(model: nn.Layer) -> nn.Layer:
    """A copy of a quantised model without PACT: an int8 model clips to its ranges by itself."""
    model = copy.deepcopy(model)
    remove_preprocessing(model, PACT)
    return model


def to_int8(folder: Path, _: Any = None) -> None:
    """Turn the saved training form of a quantised model, model.pdmodel and model.pdiparams in `folder`, into
    QuantizeLinear and DequantizeLinear with weights of eight bits."""
    from paddle.static.quantization import QuantWeightPass, ReplaceFakeQuantDequantPass

    prefix = str(folder / "model")
    with static_mode() as executor:
        scope, place = paddle.static.global_scope(), paddle.CPUPlace()
        program, feeds, fetches = paddle.static.load_inference_model(prefix, executor)
        graph = inference_graph(program)
        for one in graph.all_sub_graphs():
            ReplaceFakeQuantDequantPass(scope, place, quant_bits=BITS).apply(one)
        for one in graph.all_sub_graphs():
            QuantWeightPass(scope, place).apply(one)
        program = graph.to_program()
        variables = [program.global_block().var(name) for name in feeds]
        fetched = [program.global_block().var(fetch.name) for fetch in fetches]
        paddle.static.save_inference_model(prefix, variables, fetched, executor, program=program, clip_extra=True)
    (folder / "model.pdiparams.info").unlink(missing_ok=True)  # of the training form
