"""Post-training quantization of a config's model: calibration, export and comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional, Union

import numpy as np
import paddle

from ppdet_repro.core.config import Config, build
from ppdet_repro.core.contract import Batch
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.slim.ptq import PTQ
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger


def post_quant(
    detector: Detector,
    cfg: Config,
    output_dir: Union[str, Path] = "output_inference",
    target: str = "paddle",
    image_dir: Optional[str] = None,
    compare: bool = False,
) -> Path:
    """Quantize a detector to int8 and export it; see `export_model`. UserError if there are no images.

    Args:
        detector: The float32 model of the config.
        cfg: A config with `slim: PTQ`.
        output_dir: The parent of the new folder, which is returned.
        target: "paddle" or "onnx".
        image_dir: The folder of the calibration images; those of TrainDataset without it.
        compare: Evaluate the detector and the int8 model on EvalDataset, and log both results.
    """
    if cfg.run.slim != "PTQ":
        slim = f"{cfg.slim_path or cfg.path}: slim is {cfg.run.slim}"
        raise UserError(f"{slim}; post-training quantization needs slim: PTQ")
    ptq: PTQ = build(cfg, "PTQ")
    cfg = replace(cfg, run=replace(cfg.run, export=replace(cfg.run.export, fuse_conv_bn=True)))
    count = ptq.quant_batch_num * (build(cfg, "EvalReader").batch_size or 1)
    files = calibration_files(cfg, count, image_dir)
    get_logger().info(f"calibrating with {len(files)} images")
    folder = export_model(
        detector, cfg, output_dir, target, quantize=lambda folder, read: ptq.quantize(folder, files, read)
    )
    if compare:
        before, after = (evaluate(model, cfg)["bbox_mAP"] for model in (detector, Int8Detector(folder)))
        get_logger().info(f"AP {before:.4f} in float32, {after:.4f} in int8")
    return folder


def without_slim(cfg: Config) -> Config:
    """The config of the float32 model."""
    return replace(cfg, run=replace(cfg.run, slim=None))


def calibration_files(cfg: Config, count: int, image_dir: Optional[str]) -> List[str]:
    """`count` evenly spaced images of the folder, or of TrainDataset without one; all images if there are fewer."""
    files = find_images(image_dir) if image_dir else list(build(cfg, "TrainDataset").table.files)
    if not files:
        raise UserError(f"{image_dir or 'TrainDataset'} has no images to calibrate with")
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return [files[i] for i in chosen]


class Int8Detector(paddle.nn.Layer):
    """A quantized Paddle export with the interface of a detector: from a batch to `bbox` and `bbox_num`."""

    def __init__(self, folder: Path):
        super().__init__()
        self.network = PaddleNetwork(folder / "model.pdmodel")

    def forward(self, batch: Batch) -> Dict[str, paddle.Tensor]:
        given = {"image": batch["image"], "im_shape": batch["im_shape"], "scale_factor": batch["scale_factor"]}
        bbox, bbox_num = self.network.run({name: tensor.numpy() for name, tensor in given.items()})
        return {"bbox": paddle.to_tensor(bbox), "bbox_num": paddle.to_tensor(bbox_num)}
