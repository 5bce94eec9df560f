"""Corrections of quantized ONNX files.

A quantized Paddle program rounds the output of a convolution before its bias is added, in the range that the output has
there. paddle2onnx moves the bias into the convolution and leaves the rounding behind it, so whatever the bias adds to
that range is cut off: the scores of a heat map whose bias is -4.6 rise from 0.01 to 0.25, for example.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Dict

from ppdet_repro.runtime.networks import missing
from ppdet_repro.utils.logger import get_logger

CONVOLUTIONS = ("Conv", "ConvTranspose")


def leave_outputs_exact(path: Path) -> None:
    """Remove the rounding of the outputs of convolutions from a quantized ONNX file, in place; inputs and weights stay
    rounded, which is what int8 arithmetic needs. A file that is not quantized stays as it is. UserError if `onnx` is
    missing."""
    if b"QuantizeLinear" not in path.read_bytes():
        return
    if importlib.util.find_spec("onnx") is None:
        raise missing("onnx", "onnx")
    import onnx

    model = onnx.load(str(path))
    nodes = model.graph.node
    writers: Dict[str, Any] = {output: node for node in nodes for output in node.output}
    exact: Dict[str, str] = {}  # a rounded output -> the output
    rounding = set()  # the values of its nodes
    for node in nodes:
        quantize = writers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue  # its values are integers in the file, as those of biases
        source = writers.get(quantize.input[0])
        if source is not None and source.op_type in CONVOLUTIONS:
            exact[node.output[0]] = quantize.input[0]
            rounding |= {quantize.output[0], node.output[0]}
    kept = [node for node in nodes if not rounding.intersection(node.output)]
    for node in kept:
        node.input[:] = [exact.get(name, name) for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    convolutions = [node for node in kept if node.op_type in CONVOLUTIONS]
    rounded = [
        node for node in convolutions if getattr(writers.get(node.input[0]), "op_type", "") == "DequantizeLinear"
    ]
    if len(rounded) < len(convolutions) / 2:  # paddle2onnx drops the rounding of convolutions with a batch norm behind
        left = f"only {len(rounded)} of {len(convolutions)} convolutions of the ONNX file compute in int8"
        get_logger().warning(f"{left}, the others in float32; the Paddle export computes all of them in int8")
