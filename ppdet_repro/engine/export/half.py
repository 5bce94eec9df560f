"""ONNX files in FP16, and ONNX files without shape arithmetic.

Between the first convolution and the last ones, a network computes in FP16. What comes before (normalization) and after
(decoding, with coordinates and indices that FP16 cannot hold) stays in float32, and so do the sampling of deformable
convolutions with its coordinates, and the inputs and outputs. ONNX Runtime's package does the conversion.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Set, Tuple

from ppdet_repro.runtime.networks import first_line, missing
from ppdet_repro.utils.errors import UserError

CONVOLUTIONS = ("Conv", "ConvTranspose")


def to_half(path: Path) -> None:
    """Convert an ONNX file in float32 to FP16, in place. UserError if a package is missing or the conversion fails."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing(package, "onnx")
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(str(path))
    copy_constant_outputs(model.graph, onnx.helper.make_node)
    name_nodes(model.graph.node)
    blocked = exact_nodes([(n.name, n.op_type, list(n.input), list(n.output)) for n in model.graph.node])
    options: Dict[str, Any] = {"op_block_list": DEFAULT_OP_BLOCK_LIST, "node_block_list": sorted(blocked)}
    try:
        half = convert_float_to_float16(model, keep_io_types=True, **options)
        pass_on_exact_values(half.graph)
        OnnxModel(half).topological_sort()  # the conversion appends what it inserts
        onnx.checker.check_model(half)
    except Exception as error:  # classes of an extension module
        raise UserError(f"ONNX Runtime cannot convert {path.name} to FP16: {first_line(error)}") from error
    onnx.save(half, str(path))


def copy_constant_outputs(graph: Any, make_node: Callable[..., Any]) -> None:
    """Let outputs that are weights, such as the anchors of images of a fixed size, come from nodes: the conversion
    looks for a node that writes each output."""
    weights = {weight.name: weight for weight in graph.initializer}
    for name in {output.name for output in graph.output} & weights.keys():
        for node in graph.node:
            node.input[:] = [f"{name}.weight" if value == name else value for value in node.input]
        weights[name].name = f"{name}.weight"
        graph.node.append(make_node("Identity", [f"{name}.weight"], [name]))


def pass_on_exact_values(graph: Any) -> None:
    """Remove roundings between nodes in float32.

    The conversion casts everything that such a node reads from FP16 and everything that it writes to FP16, also where
    another one in float32 reads it or it is an output. Coordinates above 1024 would lose their fractions.
    """
    inserted = [node for node in graph.node if node.op_type == "Cast" and re.search("_(in|out)put_cast", node.name)]
    rounding = [node for node in inserted if re.match("graph_input_cast|(?!graph_).*_output_cast", node.name)]
    exact = {node.output[0]: node.input[0] for node in rounding}
    outputs = {output.name for output in graph.output}
    instead: Dict[str, str] = {}
    for node in inserted:
        if node.input[0] not in exact or node.output[0] in exact:
            continue
        if node.output[0] in outputs:
            node.op_type, node.input[0] = "Identity", exact[node.input[0]]
            del node.attribute[:]
        else:
            instead[node.output[0]] = exact[node.input[0]]
    for node in [node for node in inserted if node.output[0] in instead]:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [instead.get(value, value) for value in node.input]
    read = {value for node in graph.node for value in node.input} | outputs
    for node in [node for node in rounding if node.output[0] not in read]:
        graph.node.remove(node)


def name_nodes(nodes: Iterable[Any]) -> None:
    """Give every node a name of its own, by which the conversion knows it."""
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}_{i}"


Node = Tuple[str, str, Sequence[str], Sequence[str]]  # name, operator, inputs, outputs


def exact_nodes(nodes: Sequence[Node]) -> Set[str]:
    """The names of the nodes that stay in float32. `nodes` are in execution order.

    All nodes do that do not lie between two convolutions, nor are one. So do the samplings of deformable convolutions,
    and what lies between their coordinates and the convolutions that predict these.
    """
    behind, ahead = carried(nodes, CONVOLUTIONS), carried(reversed_nodes(nodes), CONVOLUTIONS)
    exact = {name for name, kind, *_ in nodes if kind not in CONVOLUTIONS and not (name in behind and name in ahead)}
    writers = {value: node for node in nodes for value in node[3]}
    waiting = [node[2][1] for node in nodes if node[1] == "GridSample"]  # the values of the coordinates
    exact |= {name for name, kind, *_ in nodes if kind == "GridSample"}
    while waiting:
        node = writers.get(waiting.pop())
        if node is not None and node[1] not in CONVOLUTIONS and not (node[0] in exact and node[0] in behind):
            exact.add(node[0])
            waiting += node[2]
    return exact


def carried(nodes: Iterable[Node], kinds: Sequence[str]) -> Set[str]:
    """The names of the nodes with a node of these kinds among their ancestors."""
    marked: Set[str] = set()  # values
    found: Set[str] = set()
    for name, kind, inputs, outputs in nodes:
        if not marked.isdisjoint(inputs):
            found.add(name)
        if name in found or kind in kinds:
            marked.update(outputs)
    return found


def reversed_nodes(nodes: Sequence[Node]) -> List[Node]:
    """The nodes in reverse order, with inputs for outputs and outputs for inputs."""
    return [(name, kind, outputs, inputs) for name, kind, inputs, outputs in reversed(nodes)]


def simplify(path: Path) -> None:
    """Compute what is constant in an ONNX file, in place: with a fixed batch and input size, all shape arithmetic.

    The rewriting is that of ONNX Runtime that is independent of the hardware. UserError if ONNX Runtime is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", "onnx") from None
    if b"QuantizeLinear" in path.read_bytes():
        return  # constant folding would compute int8 weights back to float32
    simple = path.with_suffix(".simple.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(simple)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    simple.replace(path)
