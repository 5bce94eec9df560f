"""Quantization-aware training: a model is trained while its convolutions compute with rounded inputs and weights.

Rounding has the gradient of the identity (the straight-through estimator of Bengio et al., 2013). PaddleSlim replaces
the layers, as it does for PaddleDetection.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import paddle
from paddle import nn
from paddle.static.quantization import QuantWeightPass, ReplaceFakeQuantDequantPass

from ppdet_repro.core.registry import register
from ppdet_repro.paddle_private.quantization import inference_graph, leave_batch_norms_exact, remove_preprocessing
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

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
        if settings["fuse_conv_bn"]:
            raise UserError(
                "QAT.quant_config.fuse_conv_bn: PaddleSlim folds batch norms in a copy of the model and throws it "
                "away; leave the key out: engines fold them when they load the export"
            )
        for key, known in CHOICES.items():
            if settings[key] not in known:
                raise UserError(f"QAT.quant_config.{key} {settings[key]!r} is not one of {list(known)}")
        kinds = settings["quantizable_layer_type"]
        if not isinstance(kinds, list) or not kinds or set(kinds) - set(LAYERS):
            raise UserError(f"QAT.quant_config.quantizable_layer_type {kinds!r} is not a list of {', '.join(LAYERS)}")
        if not isinstance(settings["moving_rate"], float) or not 0 < settings["moving_rate"] < 1:
            raise UserError(f"QAT.quant_config.moving_rate {settings['moving_rate']!r} is not in (0, 1)")
        if not isinstance(settings["window_size"], int):
            raise UserError(f"QAT.quant_config.window_size {settings['window_size']!r} is not a whole number")
        self.settings, self.print_model = settings, print_model

    def quantize(self, model: nn.Layer) -> None:
        """Make the model's convolutions and linear layers round their inputs and weights, in place.

        Raises UserError if PaddleSlim is not installed.
        """
        import_paddleslim().dygraph.quant.QAT(self.settings).quantize(model)


def plain_name(name: str) -> str:
    """The name that a weight of a quantized model has in the model before quantization."""
    return name.replace(WRAPPED, ".")


def without_clipping(model: nn.Layer) -> nn.Layer:
    """A copy of a quantized model without PACT layers, because int8 arithmetic clips to its ranges anyway. Weights that
    they clip are clipped in the copy."""
    model = copy.deepcopy(model)
    remove_preprocessing(model)
    return model


def note_simulation(slim: Optional[str]) -> None:
    """Log that a model computes like int8 in float32, if the config's `slim` is QAT or PrunerQAT."""
    if slim in ("QAT", "PrunerQAT"):
        get_logger().info("int8 is simulated in float32; ppdet-repro export writes the model that computes in int8")


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
        leave_batch_norms_exact(program)
        variables = [program.global_block().var(name) for name in feeds]
        fetched = [program.global_block().var(fetch.name) for fetch in fetches]
        paddle.static.save_inference_model(prefix, variables, fetched, executor, program=program, clip_extra=True)
    (folder / "model.pdiparams.info").unlink(missing_ok=True)  # describes the training form
