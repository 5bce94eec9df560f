"""Training in phases, which may differ in the layers that are trained and in the batch size."""

from __future__ import annotations

from typing import Dict, List, Optional

from paddle import nn

from ppdet_repro.core.registry import Part, register
from ppdet_repro.optimizer.schedules import RunLength, changed, stretched
from ppdet_repro.paddle_private.layers import is_frozen, set_frozen
from ppdet_repro.utils.errors import UserError

NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)


@register
class Phase:
    """Settings of the training from epoch `start` on.

    Args:
        start: first epoch of the phase, counted from 0
        freeze: names of layers that are not trained, such as `backbone` or `head.levels`. Their weights do not change,
            and their batch norms use the running statistics.
        freeze_norms: do the same with all batch norms
        batch_size: images per batch, instead of the one of TrainReader
    """

    def __init__(
        self,
        start: int = 0,
        freeze: Optional[List[str]] = None,
        freeze_norms: bool = False,
        batch_size: Optional[int] = None,
    ):
        self.start, self.freeze = start, list(freeze or [])
        self.freeze_norms, self.batch_size = freeze_norms, batch_size

    def __str__(self) -> str:
        frozen = [*self.freeze, *(["all batch norms"] if self.freeze_norms else [])]
        size = "" if self.batch_size is None else f", {self.batch_size} images per batch"
        return f"{' and '.join(frozen) or 'nothing'} frozen{size}"


@register
class TrainPhases:
    """The section `TrainPhases`: a list of phases, each of which lasts until the next one starts.

    By default there is one phase. Each phase starts with a new optimizer, without accumulated momentum; the learning
    rate schedule continues.

    Args:
        phases: `Phase` components in the order of their starts
    """

    def __init__(self, phases: Optional[List[Part[Phase]]] = None):
        self.phases: List[Phase] = list(phases or [Phase()])
        starts = [phase.start for phase in self.phases]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise UserError(
                f"TrainPhases: the phases start at epochs {starts}; the first must start at 0, "
                "each other one later than the one before"
            )

    def fitted(self, epochs: int, written_for: int) -> TrainPhases:
        """The phases of a run that has `epochs` epochs, from those for a run that has `written_for`.

        They start at the same fractions of the run, rounded to whole epochs; each lasts one epoch at least.
        """
        scaled = stretched([phase.start for phase in self.phases[1:]], RunLength(epochs, 1, written_for))
        starts = [0]
        for start in scaled:
            starts.append(max(starts[-1] + 1, round(start)))
        return TrainPhases([changed(phase, start=start) for phase, start in zip(self.phases, starts)])

    def at(self, epoch: int) -> Phase:
        """The phase of an epoch (counted from 0)."""
        return [phase for phase in self.phases if phase.start <= epoch][-1]


class PhaseFreezer:
    """Freezes layers of a model for a phase, and unfreezes them in a later one.

    Parameters and batch norms that are frozen when the model is built always stay frozen.
    """

    def __init__(self, model: nn.Layer):
        self.layers: Dict[str, nn.Layer] = dict(model.named_sublayers())
        self.parameters = [p for p in model.parameters() if not p.stop_gradient]
        self.norms = [layer for layer in self.layers.values() if isinstance(layer, NORMS) and not is_frozen(layer)]

    def apply(self, phase: Phase) -> None:
        """Freeze the layers that a phase freezes, and unfreeze all others.

        Raises a `UserError` if the model has no layer of that name, or if the phase freezes synchronized batch norms.
        """
        unknown = [name for name in phase.freeze if name not in self.layers]
        if unknown:
            outer = ", ".join(name for name in self.layers if "." not in name)
            raise UserError(f"Phase: freeze names {unknown[0]!r}, which the model does not have; it has {outer}")
        frozen = [layer for name in phase.freeze for layer in self.layers[name].sublayers(include_self=True)]
        frozen += self.norms if phase.freeze_norms else []
        checked = self.layers.values() if phase.freeze_norms else frozen
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in checked):
            raise UserError("Phase: norm_type sync_bn cannot be frozen for a phase; set norm_type: bn")
        frozen_parameters = {id(p) for layer in frozen for p in layer.parameters()}
        for parameter in self.parameters:
            parameter.stop_gradient = id(parameter) in frozen_parameters
        frozen_layers = {id(layer) for layer in frozen}
        for norm in self.norms:
            set_frozen(norm, id(norm) in frozen_layers)
