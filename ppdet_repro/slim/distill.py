"""Distillation: a detector (the student) learns from ground truth and from the feature maps of a trained teacher."""

from __future__ import annotations

from typing import Dict, List

import paddle
from paddle import nn

from ppdet_repro.core.contract import Batch
from ppdet_repro.modeling.architectures.detector import Detector


class Distilled(nn.Layer):
    """A student with its trained teacher.

    In training mode the model returns the student's losses and a distillation loss per feature map of the necks:
    `losses` has them by name, in the order of the neck's outputs. In evaluation mode it behaves like the student.
    """

    def __init__(self, student: Detector, teacher: Detector, losses: Dict[str, nn.Layer]):
        super().__init__()
        self.student = student
        self.distillation = nn.LayerDict(losses)
        teacher.eval()
        for parameter in teacher.parameters():
            parameter.stop_gradient = True
        # Paddle does not register a layer inside a tuple as a sublayer. So train() leaves the teacher in evaluation
        # mode, and its weights are neither in parameters() nor in state_dict(): they are not trained or saved.
        self._teacher = (teacher,)

    @property
    def teacher(self) -> Detector:
        return self._teacher[0]

    def forward(self, batch: Batch) -> Dict[str, paddle.Tensor]:
        """The losses in training mode, otherwise the student's detections."""
        if not self.training:
            return self.student(batch)
        maps: List[paddle.Tensor] = []
        hook = self.student.neck.register_forward_post_hook(lambda layer, inputs, output: maps.extend(output))
        try:
            losses = self.student(batch)
        finally:
            hook.remove()
        with paddle.no_grad():
            teacher_maps = self.teacher.neck(self.teacher.backbone(batch["image"]))
        distilled = {
            name: loss(student_map, teacher_map, batch)
            for (name, loss), student_map, teacher_map in zip(self.distillation.items(), maps, teacher_maps)
        }
        total = losses.pop("loss")
        return {**losses, **distilled, "loss": total + sum(distilled.values())}
