"""Distillation losses between a feature map of the student and the same map of the teacher.

B images, C channels; H, W size of a feature map; G ground truth boxes of an image.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.contract import Batch
from ppdet_repro.core.registry import register
from ppdet_repro.modeling.boxes import has_area

EPSILON = 1e-5  # keeps logarithms finite


class Align(nn.Layer):
    """Convert a student's map to the teacher's number of channels, by a learned 1x1 convolution if they differ.

    With `normalize` both maps are then standardized.
    """

    def __init__(self, student_channels: int, teacher_channels: int, normalize: bool):
        super().__init__()
        self.align: Optional[nn.Layer] = None
        if student_channels != teacher_channels:
            self.align = nn.Conv2D(student_channels, teacher_channels, 1)
        self.normalize = normalize

    def forward(self, student: paddle.Tensor, teacher: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Maps [B, C, H, W] of the student and the teacher -> two maps of the same shape."""
        if self.align is not None:
            student = self.align(student)
        return (standardized(student), standardized(teacher)) if self.normalize else (student, teacher)


def standardized(x: paddle.Tensor) -> paddle.Tensor:
    """Give each channel mean 0 and variance 1 over the batch: [B, C, H, W] -> the same shape."""
    mean = x.mean(axis=[0, 2, 3], keepdim=True)
    deviation = x.std(axis=[0, 2, 3], keepdim=True, unbiased=True)
    return (x - mean) / (deviation + 1e-6)


@register
class CWDFeatureLoss(nn.Layer):
    """Channel-wise distillation: each channel is a distribution over the locations of the map.

    The loss is KL(teacher || student), summed over channels and divided by the number of the student's channels and of
    images. Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, section 3.2;
    without their factor tau^2, as in PaddleDetection.

    Args:
        student_channels, teacher_channels: of the maps. Training takes those of the necks, whatever the YAML says.
        normalize: standardize channels first
        tau: temperature
        weight: factor on the loss
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        normalize: bool = False,
        tau: float = 1.0,
        weight: float = 1.0,
    ):
        super().__init__()
        self.align = Align(student_channels, teacher_channels, normalize)
        self.student_channels, self.tau, self.weight = student_channels, tau, weight

    def forward(self, student: paddle.Tensor, teacher: paddle.Tensor, batch: Batch) -> paddle.Tensor:
        """Maps [B, C, H, W] of the same size -> the loss."""
        images = len(student)
        student, teacher = self.align(student, teacher)
        p, q = (F.softmax(x.flatten(2) / self.tau, axis=2) for x in (teacher, student))  # [B, C, H * W]
        divergence = (p * (paddle.log(p + EPSILON) - paddle.log(q + EPSILON))).sum()
        return self.weight * divergence / (self.student_channels * images)


@register
class FGDFeatureLoss(nn.Layer):
    """Focal and global distillation (Yang et al., CVPR 2022).

    The focal part has squared differences of the maps, weighted by the teacher's attention to locations and channels
    and separated into objects and background (equation 8), and differences of the attentions themselves (equation 9).
    The global part has squared differences after a global context block (equation 11). As in PaddleDetection, images
    without boxes are ignored.

    Args:
        student_channels, teacher_channels: of the maps. Training takes those of the necks, whatever the YAML says.
        normalize: standardize channels first
        loss_weight: factor on the whole loss
        temp: temperature of the attentions
        alpha_fgd, beta_fgd: factors on the differences at objects and at the background
        gamma_fgd: factor on the differences of the attentions
        lambda_fgd: factor on the global part
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        normalize: bool = False,
        loss_weight: float = 1.0,
        temp: float = 0.5,
        alpha_fgd: float = 0.001,
        beta_fgd: float = 0.0005,
        gamma_fgd: float = 0.001,
        lambda_fgd: float = 0.000005,
    ):
        super().__init__()
        self.align = Align(student_channels, teacher_channels, normalize)
        self.student_context = GlobalContext(teacher_channels)
        self.teacher_context = GlobalContext(teacher_channels)
        self.loss_weight, self.temp = loss_weight, temp
        self.weights = (alpha_fgd, beta_fgd, gamma_fgd, lambda_fgd)

    def forward(self, student: paddle.Tensor, teacher: paddle.Tensor, batch: Batch) -> paddle.Tensor:
        """Maps [B, C, H, W] of the same size, and a batch with `image` and `gt_bbox` -> the loss."""
        boxes = [one[has_area(one)] if len(one) else one for one in batch["gt_bbox"]]  # without padding
        with_boxes = [i for i, one in enumerate(boxes) if len(one)]
        if not with_boxes:
            return student.sum() * 0.0
        chosen = paddle.to_tensor(with_boxes)
        student, teacher = self.align(student.index_select(chosen), teacher.index_select(chosen))
        images, _, height, width = teacher.shape
        inside = [cells(boxes[i], batch["image"].shape[2:], (height, width)) for i in with_boxes]
        objects = paddle.stack(inside).unsqueeze(1)  # [B, 1, H, W]
        background = (objects == 0).astype("float32")
        background = background / background.sum(axis=[2, 3], keepdim=True).clip(min=1.0)

        locations, channels = attention(teacher, self.temp)
        student_locations, student_channels = attention(student, self.temp)
        difference = (student - teacher).square() * locations * channels
        parts = (
            (difference * objects).sum(),
            (difference * background).sum(),
            (student_locations - locations).abs().sum() + (student_channels - channels).abs().sum(),
            (self.student_context(student) - self.teacher_context(teacher)).square().sum(),
        )
        return self.loss_weight * sum(weight * part for weight, part in zip(self.weights, parts)) / images


class GlobalContext(nn.Layer):
    """Global context block (GCNet, ICCV 2019): add to each location a function of the map's weighted mean.

    The weights of the mean are a learned attention; the function is a bottleneck, whose output is 0 at first.
    """

    def __init__(self, channels: int):
        super().__init__()
        middle, zero = channels // 2, nn.initializer.Constant(0.0)
        self.mask = nn.Conv2D(channels, 1, 1, weight_attr=nn.initializer.KaimingUniform())
        self.block = nn.Sequential(
            nn.Conv2D(channels, middle, 1, weight_attr=paddle.ParamAttr(initializer=zero)),
            nn.LayerNorm([middle, 1, 1]),
            nn.ReLU(),
            nn.Conv2D(middle, channels, 1, weight_attr=paddle.ParamAttr(initializer=zero)),
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        weights = F.softmax(self.mask(x).flatten(2), axis=2)  # [B, 1, H * W]
        context = paddle.matmul(x.flatten(2), weights, transpose_y=True)  # [B, C, 1]
        return x + self.block(context.unsqueeze(3))


def attention(x: paddle.Tensor, temperature: float) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The attention of a map [B, C, H, W] to its locations [B, 1, H, W] and channels [B, C, 1, 1]; 1 on average."""
    size, (_, channels, height, width) = x.abs(), x.shape
    of_locations = F.softmax(size.mean(axis=1).flatten(1) / temperature, axis=1) * (height * width)
    of_channels = F.softmax(size.mean(axis=[2, 3]) / temperature, axis=1) * channels
    return of_locations.reshape([-1, 1, height, width]), of_channels.reshape([-1, channels, 1, 1])


def cells(boxes: paddle.Tensor, image: List[int], size: Tuple[int, int]) -> paddle.Tensor:
    """Give each cell of a feature map 1 / (cells of the smallest box that contains it), or 0 outside of all boxes.

    `boxes` are [G, 4] xyxy, in pixels of the network's input; `image` is the height and width of that input, padding
    included. `size` is H and W of the feature map and of the result.
    """
    height, width = size
    scale = paddle.to_tensor([width / image[1], height / image[0]] * 2, "float32")
    left, top, right, bottom = (boxes * scale).unbind(axis=1)  # each [G]
    left, top, right, bottom = left.floor().clip(min=0), top.floor().clip(min=0), right.ceil(), bottom.ceil()
    rows, columns = (paddle.arange(length, dtype="float32") for length in size)
    in_rows = (rows >= top.unsqueeze(1)).logical_and(rows <= bottom.unsqueeze(1))  # [G, H]
    in_columns = (columns >= left.unsqueeze(1)).logical_and(columns <= right.unsqueeze(1))  # [G, W]
    inside = in_rows.unsqueeze(2).logical_and(in_columns.unsqueeze(1)).astype("float32")  # [G, H, W]
    share = 1.0 / ((bottom + 1 - top) * (right + 1 - left))
    return (inside * share.reshape([-1, 1, 1])).max(axis=0).detach()
