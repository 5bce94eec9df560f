"""docs/add_a_detector.md, followed: the smallest sixth detector, like FCOS, trains, evaluates and is exported.

B images, L levels, N points of all levels, K classes, G objects of an image.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, List, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paths import ROOT
from tiny_yolof import write_training_config

from ppdet_repro import load_config
from ppdet_repro.core.contract import Batch, Losses
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.models import load_trained
from ppdet_repro.engine.training.train import train
from ppdet_repro.modeling.anchor_points import make_points, rows
from ppdet_repro.modeling.boxes import (
    area,
    clip_to_image,
    distances_from_xyxy,
    iou,
    to_original_image,
    xyxy_from_distances,
)
from ppdet_repro.modeling.ground_truth import one_hot_targets, without_padding
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.paddle_network import PaddleNetwork


class PointOutputs(NamedTuple):
    """Per level: class logits [B, K, H, W], and distances [B, 4, H, W] to left, top, right, bottom in strides."""

    logits: List[paddle.Tensor]
    distances: List[paddle.Tensor]


@register
class PointHead(nn.Layer):
    """Every location of a level predicts the classes and the sides of the object that it lies in."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        num_classes: Shared[int] = 80,
        loss_class: Part[nn.Layer] = "FocalLoss",
        nms: Part[Any] = "MultiClassNMS",
    ):
        super().__init__()
        self.strides, self.num_classes = strides, num_classes
        self.loss_class, self.nms = loss_class, nms
        prior = nn.initializer.Constant(-4.6)  # a score of 0.01 at the start (RetinaNet, section 4.1)
        self.classes = nn.Conv2D(in_channels[0], num_classes, 3, padding=1, bias_attr=prior)
        self.sides = nn.Conv2D(in_channels[0], 4, 3, padding=1)

    def forward(self, feats: List[paddle.Tensor]) -> PointOutputs:
        """Feature maps [B, C, H, W], one per level, finest first."""
        return PointOutputs([self.classes(f) for f in feats], [F.softplus(self.sides(f)) for f in feats])

    def assign(self, points: Any, boxes: paddle.Tensor) -> paddle.Tensor:
        """For each point [N] the index of the smallest box [G, 4] around it that its level learns, or -1."""
        sides = distances_from_xyxy(points.centers.unsqueeze(1), boxes.unsqueeze(0))  # [N, G, 4]
        reach = paddle.to_tensor([0.0, *(8.0 * stride for stride in self.strides[:-1]), np.inf])  # FCOS, section 3.2
        low, high = reach.gather(points.levels).unsqueeze(1), reach.gather(points.levels + 1).unsqueeze(1)  # [N, 1]
        longest = sides.max(axis=2)
        learns = (sides.min(axis=2) > 0) & (longest >= low) & (longest < high)  # [N, G]
        areas = paddle.where(learns, area(boxes).expand(learns.shape), paddle.full(learns.shape, np.inf))  # [N, G]
        return paddle.where(learns.any(axis=1), areas.argmin(axis=1), paddle.full([len(learns)], -1, "int64"))

    def losses(self, raw: PointOutputs, batch: Batch) -> Losses:
        """Focal loss of the classes and -ln IoU of the boxes, over the number of positive points."""
        points = make_points(raw.logits, self.strides, z=1.0)
        logits, distances = (paddle.concat([rows(level) for level in maps], axis=1) for maps in raw)
        classes, sides, positives = [], [], 0
        for i, (boxes, labels) in enumerate(zip(batch["gt_bbox"], batch["gt_class"])):
            boxes, labels = without_padding(boxes, labels)
            none = paddle.full([len(points.centers)], -1, "int64")
            owners = self.assign(points, boxes) if len(boxes) else none
            classes.append(self.loss_class(logits[i], one_hot_targets(owners, labels, self.num_classes)).sum())
            learns = paddle.nonzero(owners >= 0).reshape([-1])
            if len(learns):
                predicted = xyxy_from_distances(points.centers, distances[i] * points.units).gather(learns)
                sides.append(-iou(predicted, boxes.gather(owners.gather(learns))).clip(min=1e-6).log().sum())
            positives += len(learns)
        loss_cls = paddle.add_n(classes) / max(positives, 1)
        loss_reg = (paddle.add_n(sides) if sides else distances.sum() * 0) / max(positives, 1)
        return {"loss_cls": loss_cls, "loss_reg": loss_reg, "loss": loss_cls + loss_reg}

    def decode(self, raw: PointOutputs, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Boxes [B, N, 4] in pixels of the original images and scores [B, K, N]."""
        points = make_points(raw.logits, self.strides, z=1.0)
        distances = paddle.concat([rows(level) for level in raw.distances], axis=1)  # [B, N, 4]
        boxes = clip_to_image(xyxy_from_distances(points.centers, distances * points.units), im_shape)
        scores = paddle.concat([F.sigmoid(level.flatten(2)) for level in raw.logits], axis=2)  # [B, K, N]
        return to_original_image(boxes, scale_factor), scores

    @property
    def suppress(self) -> Any:
        """Boxes and scores -> `Detections`."""
        return self.nms


CONFIG = """
architecture: RetinaNet
num_classes: 2
metric: COCO
worker_num: 0
RetinaNet: {backbone: ResNet, neck: FPN, head: PointHead}
ResNet: {depth: 18, width_mult: 0.25, return_idx: [2, 3], freeze_at: -1, freeze_norm: false}
FPN: {out_channel: 32}
PointHead: {nms: {name: MultiClassNMS, score_threshold: 0.05, nms_threshold: 0.6, keep_top_k: 50}}
"""


def write_detector_config(folder: Path) -> Path:
    """A config of the sixth detector with the readers and the images of the tests' small YOLOF."""
    path = write_training_config(folder)
    path.write_text(CONFIG + "".join(path.read_text().partition("EvalDataset:")[1:]))
    return path


def test_the_sixth_detector_trains_evaluates_and_exports(tmp_path):
    config = write_detector_config(tmp_path)
    settings = ["epoch=60", "snapshot_epoch=60", "use_gpu=false", f"save_dir={tmp_path}", "LearningRate.base_lr=0.01"]
    train(load_config(config, settings))
    cfg = load_config(config, [*settings, f"weights={tmp_path / 'tiny/model_final.pdparams'}"])
    model = load_trained(cfg)
    assert evaluate(model, cfg)["bbox_mAP_50"] > 0.1
    network = PaddleNetwork(open_model_folder(export_model(model, cfg, tmp_path / "exported")).network_file)
    image, ones = np.random.default_rng(0).normal(size=[1, 3, 128, 128]), np.ones([1, 2], "float32")
    inputs = {"image": image.astype("float32"), "im_shape": 128 * ones, "scale_factor": ones}
    found, _ = network.run(inputs)
    eager = model({name: paddle.to_tensor(value) for name, value in inputs.items()})
    assert np.allclose(found, eager["bbox"].numpy(), atol=1e-3)


def test_the_page_shows_this_code():
    page, code = (path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "add_a_detector.md", Path(__file__)))
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks and all(block in code for block in blocks) and len(code.splitlines()) <= 150
