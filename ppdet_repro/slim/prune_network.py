"""PaddleSlim's filter pruners, applied to the network of a detector: backbone, neck, and the head's raw outputs.

PaddleSlim finds, in the traced program, what must shrink with the filters of a convolution: its batch norm, the inputs
of the convolutions that read its output, and what is added to that output. Added here are what it cannot follow
although the detectors have it (concatenation, the Mish activation), and a distance for FPGM that NumPy 2 can compute.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Literal, Mapping, Optional, Set, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.paddle_private.channels import groups
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.paddle_private.translation import quick_to_trace
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.slim.prune_shapes import Masks, Size, probe_masks, tensors
from ppdet_repro.utils.files import atomic_file

Criterion = Literal["l1_norm", "fpgm"]
FILTERS, INPUTS = 0, 1  # axes of a convolution's weight
PROBE_RATIO = 0.5
MULTIPLE = 8  # rounded layers keep a multiple of so many channels
UNCHANGED = ("mish",)  # operators, unknown to PaddleSlim, whose output has the channels of their input
WARNS_ABOUT_SKIPPED = ("paddleslim.prune.collections", "paddleslim.dygraph.prune.filter_pruner")


class Network(nn.Layer):
    """A detector without decoding and suppression: an image [B, 3, H, W] -> the head's outputs."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, image: paddle.Tensor) -> Any:
        return self.detector.raw(image)


def network_program(detector: Detector, size: Size) -> Tuple[Any, List[str]]:
    """The program, in Paddle 2's format, of a detector's network for one image of this size, in evaluation mode, and
    the names of its outputs."""
    traced = copy.deepcopy(detector)  # because tracing leaves rewritten functions in the layers
    for parameter, original in zip(traced.parameters(), detector.parameters()):
        parameter.name = original.name
    network = quick_to_trace(Network(traced))
    network.eval()
    with protobuf_tracing():
        image = paddle.static.InputSpec([1, 3, *size], "float32", "image")
        program = paddle.jit.to_static(network, input_spec=[image], full_graph=True).forward.concrete_program
        return program.main_program, [value.name for value in tensors(program.outputs)]


class NetworkPruner:
    """What PaddleSlim's pruner does, in terms of the names of a detector's parameters.

    `groups` are the names of the weights that can be pruned: one for each set of convolutions whose filters are removed
    together, because their outputs are added.

    Args:
        criterion: which filters are removed: those with the smallest l1_norm, or those with the smallest sum of
            distances to the others (fpgm)
        size: of the image for which the network is traced; it does not matter for what is removed

    Raises:
        UserError: PaddleSlim is not installed.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", 2017; He et al., "Filter Pruning via Geometric Median",
    2019.
    """

    def __init__(self, detector: Detector, criterion: Criterion, size: Size):
        self.slim = import_paddleslim()
        self.detector = detector
        self.names = {parameter.name: name for name, parameter in detector.named_parameters()}
        self.variables = {name: variable for variable, name in self.names.items()}
        program, outputs = network_program(detector, size)
        self.pruner = slim_pruner(self.slim, detector, criterion, Groups(self.slim, detector, program, outputs))
        self.groups = self.working([self.names[group.master_name] for group in self.pruner.collections])
        self.pruner.collections.keep({self.variables[name] for name in self.groups})

    def working(self, names: List[str]) -> List[str]:
        """Those of these groups with which the network really runs, and keeps the shapes of its outputs."""
        if probe_masks(self.detector, self.masks(dict.fromkeys(names, PROBE_RATIO))):
            return names
        return [name for name in names if probe_masks(self.detector, self.masks({name: PROBE_RATIO}))]

    def can_prune(self, name: str) -> bool:
        """Whether filters of this weight can be removed, alone or in a group."""
        return self.pruner.collections.find_collection_by_master(self.variables[name], FILTERS) is not None

    def masks(self, ratios: Mapping[str, float]) -> Masks:
        """Which channels stay if this share of the filters of each weight is removed, for all parameters concerned.

        The first weight of a group that is named decides for the group. Weights that cannot be pruned are ignored.
        """
        plan = self.pruner.prune_vars({self.variables[name]: ratios[name] for name in ratios}, FILTERS, apply=None)
        found: Masks = {}
        for variable, masks in plan.masks.items():
            if variable in self.names:  # others are values between layers
                found[self.names[variable]] = {mask.dims: np.asarray(mask.mask).astype(bool) for mask in masks}
        return found

    def rounded(self, ratios: Mapping[str, float]) -> Dict[str, float]:
        """The nearest ratios with which each weight keeps a multiple of `MULTIPLE` filters, or all."""
        by_variable = {self.variables[name]: ratio for name, ratio in ratios.items()}
        return {self.names[name]: ratio for name, ratio in self.pruner.rounded(by_variable).items()}

    def sensitivities(self, score: Any, file: Path, writes: bool) -> Dict[str, Dict[float, float]]:
        """For each group, the share of the score that is lost at each ratio from 0.1 to 0.9.

        What is in the file already is not measured again, so an interrupted analysis continues.

        Args:
            score: evaluates the detector, in which one group is pruned
            file: JSON, written after each evaluation
            writes: whether this process writes the file
        """
        found = self.pruner.measure(score, file, writes, self.names)
        return {name: found[variable] for name, variable in self.variables.items() if variable in found}

    def ratios_for_loss(self, loss: float) -> Dict[str, float]:
        """The largest ratio for each group at which, alone, it loses at most this share of the score."""
        return {self.names[variable]: ratio for variable, ratio in self.pruner.ratios_for_loss(loss).items()}


def slim_pruner(slim: Any, detector: Detector, criterion: Criterion, found: Groups) -> Any:
    """PaddleSlim's pruner of that criterion for these groups."""
    criteria = {"l1_norm": slim.dygraph.L1NormFilterPruner, "fpgm": slim.dygraph.FPGMFilterPruner}
    base = criteria[criterion]

    class Pruner(base):  # type: ignore[misc, valid-type]
        """Without PaddleSlim's own tracing, which Paddle 3 does not have."""

        def __init__(self) -> None:
            slim.dygraph.prune.Pruner.__init__(self, detector, None)
            self.num_head, self.skip_leaves = -1, True
            self.skip_vars: List[str] = []
            self.collections = found
            self._distances: Dict[int, np.ndarray] = {}

        def get_distance_sum(self, value: np.ndarray, out_idx: int) -> float:
            """The sum of the distances of one filter to all others. PaddleSlim's needs np.product, which NumPy 2 lacks,
            and computes all distances again for each filter."""
            if id(value) not in self._distances:
                rows = value.reshape(len(value), -1).astype(np.float64)
                squares = (rows**2).sum(1)
                between = squares[:, None] + squares - 2 * rows @ rows.T
                self._distances[id(value)] = np.sqrt(np.maximum(between, 0)).sum(1)
            return float(self._distances[id(value)][out_idx])

        def rounded(self, ratios: Dict[str, float]) -> Dict[str, float]:
            return self._round_to(ratios, FILTERS, MULTIPLE)

        def measure(self, score: Any, file: Path, writes: bool, names: Dict[str, str]) -> Dict[str, Dict[float, float]]:
            self._status = SensitivityFile(names, writes)
            return self.sensitive(score, str(file))

        def ratios_for_loss(self, loss: float) -> Dict[str, float]:
            return self._get_ratios_by_loss(self._status.sensitivies, loss)

    return Pruner()


class SensitivityFile:
    """What PaddleSlim knows about sensitivities, in a JSON file: name of a weight -> ratio -> share of the score lost.

    PaddleSlim's own file is a pickle, with names that depend on what was built before. `sensitivies` and `is_ckp` are
    the attributes that PaddleSlim uses.
    """

    def __init__(self, names: Mapping[str, str], writes: bool):
        self.names, self.writes = names, writes
        self.sensitivies: Dict[str, Dict[float, float]] = {}
        self.is_ckp = True

    def save(self, path: str) -> None:
        if self.writes:
            content = {self.names[variable]: losses for variable, losses in self.sensitivies.items()}
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(path)) as file:
                file.write(json.dumps(content, indent=1).encode())

    def load(self, path: str) -> None:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        variables = {name: variable for variable, name in self.names.items()}
        self.sensitivies = {
            variables[name]: {float(ratio): float(loss) for ratio, loss in losses.items()}
            for name, losses in content.items()
        }


class Groups:
    """The groups of convolutions that are pruned together; in place of PaddleSlim's collections.

    PaddleSlim looks for the groups of all weights at once, and an operator that it cannot follow may end that with an
    AssertionError. Here each weight is tried alone, so that only this weight cannot be pruned.

    Args:
        program: the traced network, and the names of its outputs, whose channels stay
    """

    def __init__(self, slim: Any, detector: Detector, program: Any, outputs: List[str]):
        for name in WARNS_ABOUT_SKIPPED:  # what cannot be pruned is reported by us
            logging.getLogger(name).setLevel(logging.ERROR)
        add_operators(slim)
        self.graph = indexed_graph(slim, program)
        self.collections = slim.prune.PruningCollections()
        layers = [layer for layer in detector.sublayers() if isinstance(layer, nn.Conv2D)]
        self.fixed = [*outputs, *(layer.weight.name for layer in layers if is_grouped(layer))]
        self.values = {parameter.name: parameter.numpy() for parameter in detector.parameters()}
        self.weights = [layer.weight.name for layer in layers]
        self.found: Dict[str, Any] = {}
        covered: Set[str] = set()
        for name in self.weights:
            if name not in covered:
                group = self.find_collection_by_master(name, FILTERS)
                if group is not None:
                    self.found[name] = group
                    covered |= filters_of(group)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.found.values())

    def keep(self, names: Set[str]) -> None:
        """Forget all groups but those of these weights."""
        self.found = {name: group for name, group in self.found.items() if name in names}
        self.weights = [name for group in self for name in filters_of(group) if name in self.weights]

    def find_collection_by_master(self, var_name: str, axis: int) -> Optional[Any]:
        """The group of a weight, None if it cannot be pruned. Name and arguments are PaddleSlim's."""
        if axis != FILTERS or var_name not in self.weights:
            return None
        if var_name in self.found:
            return self.found[var_name]
        try:
            found: List[Any] = self.collections.create_pruning_collections(
                [var_name], self.graph, skip_vars=list(self.fixed), skip_leaves=False
            )
        except (AssertionError, IndexError, TypeError, ValueError):  # an operator that PaddleSlim cannot follow
            return None
        for group in found:
            group.values = self.values
        return found[0] if found else None


def filters_of(group: Any) -> Set[str]:
    """The names of the weights whose filters a group removes."""
    return {detail.name for detail in group.all_pruning_details() if detail.axis == FILTERS}


def is_grouped(layer: nn.Conv2D) -> bool:
    """Whether a convolution has groups of several channels, which cannot shrink. Those of one channel can."""
    return groups(layer) > 1 and layer.weight.shape[INPUTS] > 1


def indexed_graph(slim: Any, program: Any) -> Any:
    """PaddleSlim's view of a program, which here looks up what reads or writes a value, instead of searching it each
    time among all operators: 4 times as fast."""

    class Value(slim.core.VarWrapper):
        def inputs(self) -> List[Any]:
            return self._graph.writers.get(self.name(), [])

        def outputs(self) -> List[Any]:
            return self._graph.readers.get(self.name(), [])

    class Graph(slim.core.GraphWrapper):
        def __init__(self) -> None:
            super().__init__(program)
            block = program.global_block()
            self.values = {name: Value(variable, self) for name, variable in block.vars.items()}
            self.readers: Dict[str, List[Any]] = {}
            self.writers: Dict[str, List[Any]] = {}
            for operator in self.ops():
                for values, users in ((operator.all_inputs(), self.readers), (operator.all_outputs(), self.writers)):
                    for name in {value.name() for value in values}:
                        users.setdefault(name, []).append(operator)

        def var(self, name: str) -> Any:
            return self.values.get(name)

    return Graph()


def add_operators(slim: Any) -> None:
    """Teach PaddleSlim, once, operators that the detectors have and it does not know."""
    module = slim.prune.prune_worker
    registry = module.PRUNE_WORKER
    module.OPS_UNCHANGE_SHAPE += [name for name in UNCHANGED if name not in module.OPS_UNCHANGE_SHAPE]
    if registry.get("concat") is not None:
        return

    class concat(module.PruneWorker):  # type: ignore[name-defined]  # PaddleSlim finds it by its name
        """Pruned channels of an input are pruned channels of the output, further back."""

        visited: Any

        def _prune(self, var: Any, pruned_axis: int, transforms: List[Any]) -> None:
            inputs, output = self.op.inputs("X"), self.op.outputs("Out")[0]
            if self.op.attr("axis") != pruned_axis or var not in inputs:
                raise module.UnsupportOpError("concat is followed forward and along its own axis only")
            widths = [value.shape()[pruned_axis] for value in inputs]
            start, width = sum(widths[: inputs.index(var)]), widths[inputs.index(var)]
            place = {"src_start": 0, "src_end": width, "target_start": start, "target_end": start + width}
            place["target_len"] = sum(widths)
            before = self.visited
            for op in output.outputs():  # visited for each pruned input, because each has its own place
                self.visited = {}
                self._visit(output, pruned_axis)
                self._prune_op(op, output, pruned_axis, [*transforms, place])
            self.visited = before

    class reduce_mean(module.activation):  # type: ignore[name-defined]
        """The mean over height and width, which PaddleSlim takes for the end of the network."""

        def _prune(self, var: Any, pruned_axis: int, transforms: List[Any]) -> None:
            if pruned_axis in self.op.attr("dim") or not self.op.attr("keep_dim"):
                raise module.UnsupportOpError("reduce_mean is followed where the pruned axis stays")
            super()._prune(var, pruned_axis, transforms)

    registry.register(concat)
    registry.register(reduce_mean)
