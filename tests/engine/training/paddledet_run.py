"""A training of PaddleDetection: its config, its pictures, and checkpoint files as PaddleDetection writes them.

The numbers in the files are functions of their names, so that a recording only holds what training made of them:
`tests/fixtures/paddledet_resume.json` was recorded by PaddleDetection, which resumed from files made here.
"""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any, Dict, Sequence

import cv2
import numpy as np
from paths import ROOT

RECORDED: Dict[str, Any] = json.loads((ROOT / "tests/fixtures/paddledet_resume.json").read_text(encoding="utf-8"))
NAMES, SHAPES = "StructuredToParameterName@@", {name: shape for name, (_, shape) in RECORDED["variables"].items()}
CONFIG = """
metric: COCO
num_classes: 2
use_gpu: false
cpu_kernels: paddle
log_iter: 1
worker_num: 0
epoch: 3
snapshot_epoch: 1
save_dir: FOLDER/output
architecture: YOLOv3
norm_type: bn
use_ema: true
ema_decay: 0.9998
YOLOv3: {backbone: MobileNetV3, neck: PPYOLOTinyFPN, yolo_head: YOLOv3Head, post_process: BBoxPostProcess}
MobileNetV3:
  {model_name: small, scale: 0.1, with_extra_blocks: false, extra_block_filters: [], feature_maps: [4, 9, 12]}
PPYOLOTinyFPN: {detection_block_channels: [8, 8, 8], spp: true, drop_block: false}
YOLOv3Head:
  anchors: &anchors [[10, 15], [24, 36], [72, 42], [35, 87], [102, 96], [60, 170], [220, 125], [128, 222], [264, 266]]
  anchor_masks: &masks [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
  loss: YOLOv3Loss
YOLOv3Loss: {ignore_thresh: 0.5, downsample: [32, 16, 8], label_smooth: false, scale_x_y: 1.05, iou_loss: IouLoss}
IouLoss: {loss_weight: 2.5, loss_square: true}
BBoxPostProcess:
  decode: {name: YOLOBox, conf_thresh: 0.005, downsample_ratio: 32, clip_bbox: true, scale_x_y: 1.05}
  nms: {name: MultiClassNMS, keep_top_k: 100, nms_threshold: 0.45, nms_top_k: 1000, score_threshold: 0.005}
LearningRate:
  base_lr: 0.02
  schedulers:
  - !PiecewiseDecay {gamma: 0.1, milestones: [2]}
  - !LinearWarmup {start_factor: 0.1, steps: 3}
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0005, type: L2}
TrainDataset:
  name: COCODataSet
  dataset_dir: FOLDER/data
  image_dir: images
  anno_path: truth.json
  data_fields: [image, gt_bbox, gt_class, is_crowd]
EvalDataset: {name: COCODataSet, dataset_dir: FOLDER/data, image_dir: images, anno_path: truth.json}
TestDataset: {name: ImageFolder, anno_path: FOLDER/data/truth.json}
TrainReader:
  sample_transforms:
    - Decode: {}
    - Resize: {target_size: [64, 64], keep_ratio: false, interp: 2}
  batch_transforms:
    - NormalizeBox: {}
    - PadBox: {num_max_boxes: 10}
    - BboxXYXY2XYWH: {}
    - NormalizeImage: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}
    - Permute: {}
    - Gt2YoloTarget: {anchor_masks: *masks, anchors: *anchors, downsample_ratios: [32, 16, 8]}
  batch_size: 2
  shuffle: false
  drop_last: true
EvalReader:
  sample_transforms: &sample
    - Decode: {}
    - Resize: {target_size: [64, 64], keep_ratio: false, interp: 2}
    - NormalizeImage: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}
    - Permute: {}
  batch_size: 1
TestReader: {inputs_def: {image_shape: [3, 64, 64]}, sample_transforms: *sample, batch_size: 1}
"""


def write_config(folder: Path) -> Path:
    """`folder`/tiny.yml, a PP-YOLO-tiny of 24,541 weights, and its four pictures, which have the network's size."""
    (folder / "data/images").mkdir(parents=True)
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    truth: Dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    y, x = np.mgrid[:64, :64]
    for i in range(4):
        image = np.stack([(x * (i + 1) + y * c) % 256 for c in range(3)], -1).astype(np.uint8)
        left, top, width, height = 4 + 5 * i, 8 + 3 * i, 20 + 4 * i, 30 - 3 * i
        image[top : top + height, left : left + width] = 255 - 60 * i
        cv2.imwrite(str(folder / f"data/images/{i}.png"), image)
        truth["images"].append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 64})
        box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        truth["annotations"].append({"id": i + 1, "image_id": i + 1, "category_id": 1 + i % 2, **box})
    (folder / "data/truth.json").write_text(json.dumps(truth))
    path = folder / "tiny.yml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    return path


def number(name: str, shape: Sequence[int], part: str = "") -> np.ndarray:
    """The numbers of a weight of the state dict, float32, or of a `part` such as its velocity."""
    size = int(np.prod(shape))
    wave = np.sin(0.7 * np.arange(size) + zlib.crc32(f"{name}{part}".encode()) % 1000).reshape(shape)
    if part == "velocity":
        return (0.02 * wave).astype(np.float32)
    if name.endswith(("_variance", ".weight")) and len(shape) == 1:
        return (1 + 0.3 * wave).astype(np.float32)
    return (wave * (0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:])))).astype(np.float32)


def write_checkpoint(folder: Path, average: bool = True, epochs: int = 2) -> Path:
    """The files `folder`/out/1.* of a run of PaddleDetection on Paddle 2.6, and their common path without suffix."""
    path = folder / "out" / "1"
    path.parent.mkdir(parents=True, exist_ok=True)
    variables = {name: variable for name, (variable, _) in RECORDED["variables"].items()}
    raw = {name: number(name, shape) for name, shape in SHAPES.items()}
    averaged = {name: number(name, shape, "average") for name, shape in SHAPES.items()}
    optimizer: Dict[str, Any] = {
        f"{variables[name]}_velocity_0": (f"{variables[name]}_velocity_0", number(name, SHAPES[name], "velocity"))
        for name in RECORDED["trained"]
    }
    optimizer.update({"LR_Scheduler": {"last_epoch": 2 * epochs, "last_lr": 0.002}, "last_epoch": epochs})
    if average:
        copies = {name: f"{variable}_deepcopy_{i}" for i, (name, variable) in enumerate(variables.items(), 302)}
        dump(path, ".pdema", {**raw, NAMES: copies})
    dump(path, ".pdparams", {**(averaged if average else raw), NAMES: variables})
    dump(path, ".pdopt", optimizer)
    return path


def dump(path: Path, suffix: str, content: Any) -> None:
    """Write what Paddle's `save` writes for a dict of tensors and numbers."""
    path.with_name(path.name + suffix).write_bytes(pickle.dumps(content, protocol=4))


def digest(values: np.ndarray) -> float:
    """A number that changes with any of the values."""
    flat = np.asarray(values, np.float64).ravel()
    return float((flat * (1 + np.arange(flat.size) % 7)).sum())
