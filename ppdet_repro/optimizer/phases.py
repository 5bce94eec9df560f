"""Trainings in several steps: which layers learn, and from how many images an update, from which epoch on."""

from __future__ import annotations

from typing import Dict, List, Optional

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.paddle_private.layers import is_frozen, set_frozen
from ppdet_repro.utils.errors import UserError

NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)


@register
class Phase:
    """What is different from epoch `start` (counted from 0) on.

    freeze        layers of the model that do not learn (`backbone`, `head.levels`): their weights stay, and their batch
                  norms use their running statistics
    freeze_norms  so do all batch norms
    batch_size    instead of the TrainReader's
    """

    def __init__(
        self,
        start: int = 0,
        freeze: Optional[List[str]] = None,
        freeze_norms: bool = False,
        batch_size: Optional[int] = None,
    ):
        self.start = start
        self.freeze = list(freeze or [])
        self.freeze_norms = freeze_norms
        self.batch_size = batch_size

    def __str__(self) -> str:
        frozen = [*self.freeze, *(["all batch norms"] if self.freeze_norms else [])]
        size = "" if self.batch_size is None else f", {self.batch_size} images a batch"
        return f"{' and '.join(frozen) or 'nothing'} frozen{size}"


@register
class TrainPhases:
    """The section `TrainPhases`: phases, each until the next one starts. Without the section there is one.

    The optimizer begins anew with each phase, without what it gathered before; the schedule of learning rates goes on.
    """

    def __init__(self, phases: Optional[List[Part[Phase]]] = None):
        self.phases: List[Phase] = list(phases or [Phase()])
        starts = [phase.start for phase in self.phases]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise UserError(f"TrainPhases: the phases start at epochs {starts}; they want 0 first, then later ones")

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch (counted from 0)."""
        return [phase for phase in self.phases if phase.start <= epoch][-1]


class Learners:
    """What of a model learns: everything that does as it was built, less what a phase freezes."""

    def __init__(self, model: nn.Layer):
        self.layers: Dict[str, nn.Layer] = dict(model.named_sublayers())
        self.parameters = [p for p in model.parameters() if not p.stop_gradient]
        self.norms = [layer for layer in self.layers.values() if isinstance(layer, NORMS) and not is_frozen(layer)]

    def enter(self, phase: Phase) -> None:
        """Freeze what the phase freezes, thaw what it does not. UserError: the model has no such layer, or norms that
        cannot be frozen."""
        unknown = [name for name in phase.freeze if name not in self.layers]
        if unknown:
            outer = ", ".join(name for name in self.layers if "." not in name)
            raise UserError(f"Phase: freeze names {unknown[0]!r}, which the model does not have; it has {outer}")
        frozen = [layer for name in phase.freeze for layer in self.layers[name].sublayers(include_self=True)]
        frozen += self.norms if phase.freeze_norms else []
        concerned = self.layers.values() if phase.freeze_norms else frozen
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in concerned):
            raise UserError("Phase: norm_type sync_bn cannot be frozen for a phase; set norm_type: bn")
        stopped = {id(p) for layer in frozen for p in layer.parameters()}
        for parameter in self.parameters:
            parameter.stop_gradient = id(parameter) in stopped
        inside = {id(layer) for layer in frozen}
        for norm in self.norms:
            set_frozen(norm, id(norm) in inside)
