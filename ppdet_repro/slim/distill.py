"""Distillation: a detector, the student, learns from its ground truth and from a teacher's feature maps."""

from __future__ import annotations

from typing import Any, Dict, List

import paddle
from paddle import nn

from ppdet_repro.modeling.architectures.detector import Detector


class Distilled(nn.Layer):
    """A student beside a trained teacher. In training it gives the student's losses and one for each feature map of the
    necks; else it is the student.

    The teacher is none of its sublayers: it is never trained, counted or saved.
    """

    def __init__(self, student: Detector, teacher: Detector, losses: Dict[str, nn.Layer]):
        super().__init__()
        self.student = student
        self.distillation = nn.LayerDict(losses)
        teacher.eval()
        for parameter in teacher.parameters():
            parameter.stop_gradient = True
        self._teacher = (teacher,)  # in a tuple, so that it is no sublayer

    @property
    def teacher(self) -> Detector:
        return self._teacher[0]

    def forward(self, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        if not self.training:
            return self.student(batch)
        maps: List[paddle.Tensor] = []
        hook = self.student.neck.register_forward_post_hook(lambda layer, inputs, output: maps.extend(listed(output)))
        try:
            losses = self.student(batch)
        finally:
            hook.remove()
        with paddle.no_grad():
            wanted = listed(self.teacher.neck(self.teacher.backbone(batch["image"])))
        distilled = {
            name: loss(own, theirs, batch) for (name, loss), own, theirs in zip(self.distillation.items(), maps, wanted)
        }
        total = losses.pop("loss")
        return {**losses, **distilled, "loss": total + sum(distilled.values())}


def listed(output: Any) -> List[paddle.Tensor]:
    """A neck's one map, or its maps, as a list."""
    return paddle.utils.flatten(output)
