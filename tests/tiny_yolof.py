"""A YOLOF small enough for tests, with its config and a set of little pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import paddle

from ppdet_repro.core.config import build, build_model, load_config

CATEGORIES = [{"id": 3, "name": "square"}, {"id": 5, "name": "disc"}]
CONFIG = """
architecture: YOLOF
num_classes: 2
metric: COCO
worker_num: 0
epoch: 1
YOLOF: {backbone: ResNet, neck: DilatedEncoder, head: YOLOFHead}
ResNet: {depth: 18, return_idx: [3], freeze_at: -1, freeze_norm: false}
DilatedEncoder: {in_channels: [512], out_channels: [32], block_mid_channels: 16, block_dilations: [1, 2],
                 num_residual_blocks: 2}
YOLOFHead:
  conv_feat: {name: YOLOFFeat, feat_in: 32, feat_out: 32, num_cls_convs: 1, num_reg_convs: 1}
  anchor_generator: {name: AnchorGenerator, anchor_sizes: [[16, 32, 64]], aspect_ratios: [1.0], strides: [32]}
  bbox_assigner: {name: UniformAssigner, pos_ignore_thr: 0.15, neg_ignore_thr: 0.7}
  nms_pre: 40
  nms: {name: MultiClassNMS, nms_top_k: 1000, keep_top_k: 20, score_threshold: 0.05, nms_threshold: 0.6}
EvalDataset:
  name: COCODataSet
  dataset_dir: DATA
  image_dir: images
  anno_path: truth.json
  allow_empty: true
TestDataset: {name: ImageFolder, anno_path: DATA/truth.json}
EvalReader: &reader
  sample_transforms:
    - Decode: {}
    - Resize: {target_size: [96, 128], keep_ratio: true, interp: 1}
    - NormalizeImage: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}
    - Permute: {}
  batch_transforms:
    - PadBatch: {pad_to_stride: 32}
  batch_size: 1
TestReader: *reader
"""
TRAINING = """
TrainReader:
  sample_transforms:
    - Decode: {}
    - Resize: {target_size: [96, 96], keep_ratio: false, interp: 1}
    - NormalizeImage: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}
    - Permute: {}
  batch_size: 3
  collate_batch: false
LearningRate:
  base_lr: 0.0005
  schedulers:
  - !PiecewiseDecay {gamma: 0.1, milestones: [30]}
OptimizerBuilder: {optimizer: {type: Momentum, momentum: 0.9}}
"""


def write_images(folder: Path, count: int = 6, seed: int = 0) -> Path:
    """`folder`/images/*.png of several sizes with squares and discs, and `folder`/truth.json."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": CATEGORIES}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = (int(side) for side in rng.integers(60, 140, 2))
        image = rng.integers(0, 120, (height, width, 3), np.uint8)
        for _ in range(int(rng.integers(1, 4))):
            side = int(rng.integers(14, 40))
            x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            label = int(rng.integers(2))
            color = tuple(int(c) for c in rng.integers(120, 255, 3))
            if label == 0:
                cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), color, -1)
            else:
                cv2.circle(image, (x + side // 2, y + side // 2), side // 2, color, -1)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": 10 + i,
                    "category_id": CATEGORIES[label]["id"],
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                }
            )
        cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), image)
        truth["images"].append({"id": 10 + i, "file_name": f"{i:03d}.png", "height": height, "width": width})
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def write_config(folder: Path, data: Path) -> Path:
    """`folder`/tiny.yml over the pictures in `data`."""
    path = folder / "tiny.yml"
    path.write_text(CONFIG.replace("DATA", str(data)))
    return path


def write_training_config(folder: Path) -> Path:
    """`folder`/tiny.yml that can be trained, for two epochs, on the pictures in `folder`/data, which are made too."""
    path = write_config(folder, write_images(folder / "data"))
    text = path.read_text().replace("epoch: 1", "epoch: 2")
    dataset = text[text.index("EvalDataset:") : text.index("TestDataset:")].replace("EvalDataset", "TrainDataset")
    path.write_text(text + TRAINING + dataset + "  data_fields: [image, gt_bbox, gt_class]\n")
    return path


def tiny_model(config: Path) -> paddle.nn.Layer:
    """The config's model, neck and head trained for a second: it finds boxes of all scores, a few right."""
    paddle.seed(0)
    cfg = load_config(config)
    model = build_model(cfg)
    reader = build(cfg, "EvalReader", batch_size=100)
    dataset = build(cfg, "EvalDataset", data_fields=["image", "gt_bbox", "gt_class"])
    (batch,) = reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)
    model.eval()
    with paddle.no_grad():
        features = model.backbone(batch["image"])
    parts = [model.neck, model.head]
    optimizer = paddle.optimizer.Adam(5e-3, parameters=[p for part in parts for p in part.parameters()])
    for part in parts:
        part.train()
    for _ in range(40):
        model.head.losses(model.head(model.neck(features)), batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    return model
