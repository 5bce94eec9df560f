"""PaddleSlim's distillation losses between named layers of a student and a teacher.

PaddleSlim's `Distill` would run both networks itself, the first batch twice, and the detector's own losses would need
another pass. Here both networks have run already: `Distill` gets stand-ins, which hand out the recorded tensors.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import Tensor, nn

from ppdet_repro.core.contract import Losses
from ppdet_repro.core.registry import register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.slim.distill_pass import Call, Pass, PassLoss, resized
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.utils.errors import UserError

KEYS = "layers_name", "io", "idx"  # of an entry of `layers`; all others are the loss function's
RELATIONS = "RKDLoss", "RKdAngle", "RkdDistance"  # compare relations between the images of a batch


class Place(NamedTuple):
    """A tensor in a network: an input or the output of a layer; its position if there are several."""

    layer: str
    io: str
    position: Optional[int]

    def tensor(self, calls: Sequence[Call]) -> Tensor:
        """The tensor in float32. Raises UserError if the layer ran several times, or `idx` is missing or wrong."""
        if len(calls) != 1:
            times = f"runs {len(calls)} times in a forward pass"
            raise UserError(f"PaddleSlimLoss: the layer {self.layer} {times}; name layers that run once")
        inputs, output = calls[0]
        value = inputs if self.io == "input" else output
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if self.position is None and len(values) > 1:
            raise UserError(f"PaddleSlimLoss: the layer {self.layer} has {len(values)} {self.io}s; give their idx")
        position = self.position or 0
        if position >= len(values) or not isinstance(values[position], paddle.Tensor):
            raise UserError(f"PaddleSlimLoss: {self.io} {position} of the layer {self.layer} is not a tensor")
        return values[position].astype("float32")


class Pair(NamedTuple):
    """What a loss compares."""

    student: Place
    teacher: Place
    any_shape: bool  # PaddleSlim makes the channels equal (`align_params`), or compares relations of images (RKD)


@register
class PaddleSlimLoss(PassLoss):
    """The losses of `paddleslim.dygraph.dist.Distill`: L1Loss, MSELoss, SmoothL1Loss, KLLoss, DMLLoss, CELoss, RKDLoss.

    A teacher's map [B, C, H, W] of another size than the student's is resized. The layers that `align_params` adds are
    trained, and saved in checkpoints.

    Args:
        configs: PaddleSlim's list: `loss_function`, `weight`, `temperature`, `align_params`, the loss function's own
            parameters, and `layers`, each with `layers_name` [student's, teacher's], `io` and `idx`. The names are
            those of `named_sublayers()` of the detectors, such as neck.lateral_conv.
    """

    def __init__(self, configs: List[Dict[str, Any]]):
        super().__init__()
        self.configs = configs
        self.pairs: Dict[str, List[Pair]] = {}
        self.losses = nn.LayerDict()
        self.standins: Dict[str, Tuple[StandIn, StandIn]] = {}

    def connect(self, student: Detector, teacher: Detector) -> None:
        """Raises UserError if a config is wrong, or a layer does not exist."""
        functions = [config.get("loss_function") for config in self.configs]
        for i, config in enumerate(self.configs):
            layers = [{**config, **layer} for layer in config.get("layers") or []]
            if not layers:
                raise UserError("PaddleSlimLoss: an entry of configs needs layers: [{layers_name: [student, teacher]}]")
            pairs = [read_pair(layer, student, teacher) for layer in layers]
            repeated = functions.count(functions[i]) > 1
            name = f"distill_{functions[i]}" + (f"_{i}" if repeated else "")
            self.pairs[name] = pairs
            self.standins[name] = StandIn(len(pairs)), StandIn(len(pairs))
            self.losses[name] = distill(config, layers, *self.standins[name])

    @property
    def watched(self) -> Tuple[Sequence[str], Sequence[str]]:
        pairs = [pair for several in self.pairs.values() for pair in several]
        return [pair.student.layer for pair in pairs], [pair.teacher.layer for pair in pairs]

    def forward(self, student: Pass, teacher: Pass) -> Losses:
        """The losses by name: distill_L1Loss, or distill_L1Loss_0, ... if several entries of `configs` have one."""
        losses = {}
        for name, pairs in self.pairs.items():
            tensors = [comparable(pair, student, teacher) for pair in pairs]
            for standin, values in zip(self.standins[name], zip(*tensors)):
                standin.tensors = values
            losses[name] = self.losses[name]()
        return losses


class StandIn(nn.Layer):
    """A network for `Distill`, with the sublayers 0, 1, ...; when it runs, each of them returns its tensor."""

    def __init__(self, count: int):
        super().__init__()
        self.layers = nn.LayerList([nn.Identity() for _ in range(count)])
        self.tensors: Sequence[Tensor] = ()

    def forward(self) -> List[Tensor]:
        for layer, tensor in zip(self.layers, self.tensors):
            layer(tensor)
        return list(self.tensors)


def read_pair(layer: Dict[str, Any], student: Detector, teacher: Detector) -> Pair:
    """What an entry of `layers` compares. UserError: it is not PaddleSlim's form, or a layer does not exist."""
    names, io, index = (layer.get(key, default) for key, default in zip(KEYS, ([], ["output"] * 2, [None] * 2)))
    for key, value in zip(KEYS, (names, io, index)):
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise UserError(f"PaddleSlimLoss: {key} must be a list of two, the student's and the teacher's")
    if not set(io) <= {"input", "output"}:
        raise UserError(f"PaddleSlimLoss: io must be input or output, got {' and '.join(map(str, io))}")
    for name, whose, detector in zip(names, ("student", "teacher"), (student, teacher)):
        known = [key for key, _ in detector.named_sublayers()]
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 3) or [key for key in known if "." not in key]
            raise UserError(f"PaddleSlimLoss: the {whose} has no layer {name}; similar: {', '.join(close)}")
    own, theirs = (Place(str(names[i]), str(io[i]), index[i]) for i in (0, 1))
    return Pair(own, theirs, bool(layer.get("align_params")) or layer.get("loss_function") in RELATIONS)


def distill(config: Dict[str, Any], layers: List[Dict[str, Any]], student: StandIn, teacher: StandIn) -> nn.Layer:
    """PaddleSlim's `Distill` of one entry of `configs`, over two stand-ins. UserError: PaddleSlim refuses the entry."""
    if "model_name_pairs" in config:
        raise UserError("PaddleSlimLoss: leave model_name_pairs out; there is one student and one teacher")
    dist = import_paddleslim().dygraph.dist
    shared = {key: value for key, value in config.items() if key not in (*KEYS, "layers")}
    own = [{key: value for key, value in layer.items() if key not in (*KEYS, "layers", *shared)} for layer in layers]
    entries = [{**extra, "layers_name": [f"layers.{i}"] * 2} for i, extra in enumerate(own)]
    try:
        return dist.Distill(
            [copy.deepcopy({**shared, "layers": entries})],
            [student],
            [teacher],
            convert_fn=False,
            return_model_outputs=False,
        )
    except (AssertionError, NotImplementedError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"PaddleSlimLoss: {config.get('loss_function')}: {error}") from error


def comparable(pair: Pair, student: Pass, teacher: Pass) -> Tuple[Tensor, Tensor]:
    """The student's tensor, and the teacher's in the same size. UserError: their shapes do not fit."""
    own = pair.student.tensor(student.calls[pair.student.layer])
    theirs = pair.teacher.tensor(teacher.calls[pair.teacher.layer])
    if own.ndim == 4 and theirs.ndim == 4:
        theirs = resized(theirs, own.shape[2:])
    if own.shape != theirs.shape and not pair.any_shape:
        shapes = f"{own.shape} of {pair.student.layer} and {theirs.shape} of {pair.teacher.layer}"
        raise UserError(f"PaddleSlimLoss: the shapes {shapes} differ; give align_params")
    return own, theirs
