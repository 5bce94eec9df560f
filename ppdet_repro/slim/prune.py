"""Filter pruning: whole filters of convolutions are removed, and what reads their outputs shrinks with them.

A trained detector is pruned once and then fine-tuned; PaddleSlim decides which filters go. The sections are
PaddleDetection's. `pruned_flops` is added: it finds the ratios for a share of the multiply-adds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from paddle import nn

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.slim.prune_network import Criterion, NetworkPruner
from ppdet_repro.slim.prune_shapes import Costs, Size, note_channels, remove_channels
from ppdet_repro.slim.qat import QAT
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

AUTOMATIC = re.compile(r"conv2d_(\d+)\.w_0")  # the name that Paddle gives to the weight of a convolution
# Convolutions that are created here at another time than in PaddleDetection: their names, the name of one near which
# PaddleDetection creates them, and whether before (negative) or after it.
MOVED = (
    (re.compile(r"\.short\..*"), ".branch2c.conv.weight", 0.5),  # the shortcut of a bottleneck
    (re.compile(r"\.spp\..*"), ".conv3.conv.weight", -0.5),  # SPP in the neck of PP-YOLO
    (re.compile(r"\.conv_module\..*"), ".conv3.conv.weight", 0.5),  # the inner part of a block in that of PP-YOLOv2
    (re.compile(r"_reg_tower_"), "_cls_tower_", 0.5),  # RetinaNet's towers, layer by layer
)
PAN_LEVEL = re.compile(r"\.pan(?:_transition)?\.(\d+)\.")  # of PP-YOLOv2, created from the last to the first
LARGEST_RATIO = 0.9  # of the filters of a layer
STEPS = 20  # of a bisection
NAMES_IN_MESSAGES = 4

Score = Callable[[], float]


@register
class Pruner:
    """The section `Pruner` of PaddleDetection's configs, with `pruned_flops` and `sensitivity_file` added.

    Args:
        criterion: which filters of a layer are removed: those with the smallest L1 norm (l1_norm), or those nearest to
            the geometric median of all filters of the layer (fpgm)
        pruned_params: names of weights of convolutions, either those of the state dict or Paddle's automatic names
            such as conv2d_56.w_0: the 57th convolution, deformable ones not counted, in the order in which
            PaddleDetection creates them
        pruned_ratios: the share of filters to remove, one for each name
        pruned_flops: the share of all multiply-adds to remove, instead of the two lists. All layers that can be pruned
            lose the same share of filters, rounded so that a multiple of 8 remains.
        sensitivity_file: with pruned_flops, take the ratios from a sensitivity analysis: more from layers whose pruning
            costs less AP. The analysis is in this JSON file; what is missing there is measured before training starts
            and added, and an interrupted analysis continues.
        print_params: log the names and shapes of all weights of convolutions
    """

    def __init__(
        self,
        criterion: Criterion = "l1_norm",
        pruned_params: Optional[List[str]] = None,
        pruned_ratios: Optional[List[float]] = None,
        print_params: bool = False,
        pruned_flops: Optional[float] = None,
        sensitivity_file: Optional[str] = None,
    ):
        lists = pruned_params is not None or pruned_ratios is not None
        if lists == (pruned_flops is not None):
            raise UserError("give either pruned_flops, or pruned_params with pruned_ratios")
        if sensitivity_file is not None and lists:
            raise UserError("sensitivity_file needs pruned_flops in place of pruned_params")
        names, ratios = list(pruned_params or []), [float(ratio) for ratio in pruned_ratios or []]
        if len(names) != len(ratios) or (lists and not names):
            raise UserError(f"{len(names)} pruned_params and {len(ratios)} pruned_ratios; give a ratio for each name")
        for ratio in ratios if pruned_flops is None else [pruned_flops]:
            if not 0 < ratio < 1:
                raise UserError(f"{'pruned_ratios' if lists else 'pruned_flops'}: {ratio:g} is not between 0 and 1")
        self.criterion, self.print_params = criterion, print_params
        self.named = dict(zip(names, ratios))
        if len(self.named) < len(names):
            raise UserError("pruned_params names a weight twice")
        self.pruned_flops, self.sensitivity_file = pruned_flops, sensitivity_file

    @property
    def measures(self) -> bool:
        """Whether it evaluates the detector to decide what to remove."""
        return self.sensitivity_file is not None

    def prune(self, detector: Detector, size: Size, score: Optional[Score] = None, writes: bool = True) -> None:
        """Remove filters from a trained detector, and log what that saves.

        Args:
            size: of the images for which multiply-adds are counted
            score: the AP of the detector, for a sensitivity analysis
            writes: whether this process writes the sensitivity file

        Raises:
            UserError: PaddleSlim is not installed, a name is unknown, a layer cannot be pruned, there is no way to
                remove so many multiply-adds, or an analysis is asked for without `score`.
        """
        if self.print_params:
            get_logger().info("convolutions:\n" + "\n".join(described_convolutions(detector)))
        pruner, costs = NetworkPruner(detector, self.criterion, size), Costs(detector, size)
        before = costs.total(detector)
        if self.pruned_flops is None:
            ratios = self.named_ratios(detector, pruner)
        else:
            ratios = self.searched_ratios(pruner, costs, score, writes)
        remove_channels(detector, pruner.masks(ratios))
        note_channels(detector)
        after = costs.total(detector)
        count = sum(isinstance(layer, nn.Conv2D) for layer in detector.sublayers())
        get_logger().info(
            f"pruned ({self.criterion}): {before / 1e9:.3f} -> {after / 1e9:.3f} G multiply-adds at {size[1]} x "
            f"{size[0]} px, {1 - after / before:.1%} fewer; filters of {len(ratios)} groups among {count} convolutions"
        )

    def named_ratios(self, detector: Detector, pruner: NetworkPruner) -> Dict[str, float]:
        """The ratios by the names of the state dict, from `pruned_params`."""
        automatic = automatic_names(detector)
        weights = set(automatic.values())
        ratios = {}
        for given, ratio in self.named.items():
            name = automatic.get(given, given)
            if name not in weights:
                last = f"conv2d_{len(weights) - 1}.w_0"
                raise UserError(
                    f"Pruner.pruned_params: the model has no convolution with the weight {given!r}; its convolutions "
                    f"are conv2d_0.w_0 to {last}, and print_params lists their names"
                )
            if not pruner.can_prune(name):
                also = "" if given == name else f" ({name})"
                raise UserError(
                    f"Pruner.pruned_params: {given}{also} cannot be pruned, because its channels are an output of the "
                    "network, or the input of a layer that cannot shrink (deformable convolution, group norm); leave "
                    "it out"
                )
            ratios[name] = ratio
        return ratios

    def searched_ratios(
        self, pruner: NetworkPruner, costs: Costs, score: Optional[Score], writes: bool
    ) -> Dict[str, float]:
        """Ratios that remove the share `pruned_flops` of the multiply-adds, or slightly more, found by bisection."""
        if self.sensitivity_file is not None:
            if score is None:
                raise UserError("Pruner.sensitivity_file: the sensitivity analysis evaluates the model; add --eval")
            pruner.sensitivities(measured(score), Path(self.sensitivity_file), writes)

        def ratios_at(severity: float) -> Dict[str, float]:
            if self.sensitivity_file is not None:
                return pruner.rounded(pruner.ratios_for_loss(severity))
            return pruner.rounded(dict.fromkeys(pruner.groups, severity * LARGEST_RATIO))

        total = costs.total(pruner.detector)

        def removed(ratios: Dict[str, float]) -> float:
            return 1 - costs.total(pruner.detector, pruner.masks(ratios)) / total

        wanted, most = self.pruned_flops or 0.0, removed(ratios_at(1.0))
        if most < wanted:
            raise UserError(f"Pruner.pruned_flops: {wanted:g} is more than can be removed from this model ({most:.0%})")
        low, high = 0.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if removed(ratios_at(middle)) < wanted else (low, middle)
        ratios, best = ratios_at(low), ratios_at(high)
        for name, ratio in reversed(ratios_at(high).items()):  # many layers round up at once: as few as are needed
            more = {**ratios, name: ratio}
            if removed(more) < wanted:
                ratios = more
            elif removed(more) < removed(best):
                best = more
        return {name: ratio for name, ratio in best.items() if ratio > 0}


@register
class PrunerQAT:
    """The section `PrunerQAT` of PaddleDetection's configs: pruning, then quantization-aware training.

    Args:
        criterion, pruned_params, pruned_ratios, pruned_flops: those of `Pruner`
        print_prune_params: its `print_params`
        quant_config: that of `QAT`
        print_qat_model: its `print_model`
    """

    def __init__(
        self,
        criterion: Criterion = "l1_norm",
        pruned_params: Optional[List[str]] = None,
        pruned_ratios: Optional[List[float]] = None,
        print_prune_params: bool = False,
        quant_config: Optional[Dict[str, Any]] = None,
        print_qat_model: bool = False,
        pruned_flops: Optional[float] = None,
    ):
        self.pruner = Pruner(criterion, pruned_params, pruned_ratios, print_prune_params, pruned_flops)
        self.qat = QAT(quant_config, print_qat_model)


def measured(score: Score) -> Score:
    """The same score, with a log line for each evaluation. UserError: it is zero at first, before pruning."""
    scores: List[float] = []

    def evaluated() -> float:
        scores.append(score())
        if scores[0] <= 0:
            raise UserError(
                "Pruner.sensitivity_file: AP is 0 before pruning; are pretrain_weights those of this model?"
            )
        get_logger().info(f"sensitivity analysis, evaluation {len(scores)}: AP {scores[-1]:.4f}")
        return scores[-1]

    return evaluated


def described_convolutions(detector: Detector) -> List[str]:
    """A line for each convolution: the automatic name of its weight, that of the state dict, and its shape."""
    shapes = {name: parameter.shape for name, parameter in detector.named_parameters()}
    return [f"{automatic}  {name} {shapes[name]}" for automatic, name in automatic_names(detector).items()]


def automatic_names(detector: Detector) -> Dict[str, str]:
    """The names of convolutions' weights in the state dict, by the names that Paddle gives them in PaddleDetection.

    Paddle numbers the layers of a process as they are created, beginning with 0. Here they are created in
    PaddleDetection's order, with the exceptions in `MOVED`.
    """
    created = {}
    for name, layer in detector.named_sublayers():
        found = AUTOMATIC.fullmatch(layer.weight.name) if isinstance(layer, nn.Conv2D) else None
        if found:
            created[f"{name}.weight"] = int(found[1])
    ordered: Sequence[str] = sorted(created, key=lambda name: creation_key(name, created))
    return {f"conv2d_{i}.w_0": name for i, name in enumerate(ordered)}


def creation_key(name: str, created: Dict[str, int]) -> Tuple[float, float, int]:
    """What sorts a convolution among others as PaddleDetection creates them."""
    when: float = created[name]
    for pattern, neighbour, offset in MOVED:
        near = pattern.sub(neighbour, name)
        if near != name and near in created:
            when = created[near] + offset
    level = PAN_LEVEL.search(name)
    if level is None:
        return when, when, created[name]
    last = max(number for other, number in created.items() if PAN_LEVEL.search(other))
    return last - int(level[1]) / 100, when, created[name]
