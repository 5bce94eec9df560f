"""FP16 ONNX files whose roundings a CPU cannot skip.

ONNX Runtime's CPU has few FP16 kernels: it computes neighboring nodes in float32 and drops the conversions between
them. Here every value that the file declares as FP16 is a float32 that is rounded to FP16's 11 significant bits, as a
GPU would store it. Sums inside a node stay in float32, as in the tensor cores of GPUs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np

SPLIT = float(2**13 + 1)  # x * SPLIT - (x * SPLIT - x) is x in 24 - 13 = 11 bits (Veltkamp 1968)
LARGEST = 65504.0


def round_like_half(path: Path, target: Path) -> None:
    """Write the FP16 file `path` as a float32 file that rounds like it; values above 65504 become infinite."""
    import onnx
    from onnx import TensorProto, numpy_helper, shape_inference

    model = shape_inference.infer_shapes(onnx.load(str(path)))
    infos = [*model.graph.value_info, *model.graph.output]
    halves = {v.name for v in infos if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    node_of = onnx.helper.make_node
    nodes: List[Any] = []
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                attribute.t.CopyFrom(to_float(attribute.t))
        rounded = [name for name in node.output if name in halves and node.op_type != "Constant"]
        nodes.append(node)
        for name in rounded:
            raw = f"{name}_exact"
            node.output[:] = [raw if output == name else output for output in node.output]
            nodes += [
                node_of("Mul", [raw, "half_split"], [f"{name}_a"]),
                node_of("Sub", [f"{name}_a", raw], [f"{name}_b"]),
                node_of("Sub", [f"{name}_a", f"{name}_b"], [f"{name}_c"]),
                node_of("Abs", [raw], [f"{name}_d"]),
                node_of("Greater", [f"{name}_d", "half_largest"], [f"{name}_e"]),
                node_of("Where", [f"{name}_e", "half_infinite", f"{name}_c"], [name]),
            ]
    weights = [to_float(weight) for weight in model.graph.initializer]
    for name, value in (("split", SPLIT), ("largest", LARGEST), ("infinite", np.inf)):
        weights.append(numpy_helper.from_array(np.array(value, np.float32), f"half_{name}"))
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    onnx.save(model, str(target))


def to_float(tensor: Any) -> Any:
    """A tensor of an ONNX file, in float32 if it was in FP16."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
