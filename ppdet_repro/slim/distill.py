"""Distillation: a detector (the student) learns from ground truth and from a trained one (the teacher).

B images, C channels; H, W size of a feature map.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence

import paddle
from paddle import nn

from ppdet_repro.core.contract import Batch
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.slim.distill_pass import PassLoss, resized, run


class LevelPair(NamedTuple):
    """A feature map of the student's neck and one of the teacher's: their positions in the necks' outputs."""

    student: int
    teacher: int


def level_pairs(student: Sequence[ShapeSpec], teacher: Sequence[ShapeSpec]) -> List[LevelPair]:
    """The levels of equal strides, in the student's order. Without any, the two levels whose strides are closest."""
    strides = [shape.stride for shape in teacher]
    pairs = [LevelPair(i, strides.index(one.stride)) for i, one in enumerate(student) if one.stride in strides]
    if pairs:
        return pairs
    every = [LevelPair(i, j) for i in range(len(student)) for j in range(len(teacher))]
    ratios = [student[pair.student].stride / strides[pair.teacher] for pair in every]
    return [min(zip((max(ratio, 1 / ratio) for ratio in ratios), every))[1]]


class Distilled(nn.Layer):
    """A student with its trained teacher.

    In training mode the model returns the student's losses and the distillation losses, each under its own name. One
    batch costs one forward pass of each; the teacher's has no gradients. In evaluation mode the model behaves like the
    student.

    Args:
        feature_losses: by name, losses of a student's and a teacher's feature map [B, C, H, W] and the batch.
        levels: for each of them, which feature maps of the necks it compares.
        pass_losses: by name, losses of the two passes.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        feature_losses: Dict[str, nn.Layer],
        levels: Dict[str, LevelPair],
        pass_losses: Dict[str, PassLoss],
    ):
        super().__init__()
        self.student = student
        self.distillation = nn.LayerDict({**feature_losses, **pass_losses})
        self.levels, self.compared = levels, list(pass_losses)
        watched = [loss.watched for loss in pass_losses.values()]
        self.student_layers = sorted({name for names, _ in watched for name in names})
        self.teacher_layers = sorted({name for _, names in watched for name in names})
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
        student = run(self.student, batch["image"], self.student_layers)
        losses = self.student.losses(student.raw, batch)
        with paddle.no_grad():
            teacher = run(self.teacher, batch["image"], self.teacher_layers)
        distilled: Dict[str, paddle.Tensor] = {}
        for name, (own, theirs) in self.levels.items():
            feature = student.maps[own]
            distilled[name] = self.distillation[name](feature, resized(teacher.maps[theirs], feature.shape[2:]), batch)
        for name in self.compared:
            distilled.update(self.distillation[name](student, teacher))
        total = losses.pop("loss")
        return {**losses, **distilled, "loss": total + sum(distilled.values())}
