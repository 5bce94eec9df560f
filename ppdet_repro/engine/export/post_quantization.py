"""Post-training quantisation of a config's model: calibrate, export, compare.

post_quant(model, load_config("configs/demo/yolof_demo.yml", slim_config="configs/slim/post_quant/ptq.yml"))
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
import paddle

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.verify import PaddleNetwork
from ppdet_repro.modeling.architectures.detector import Detector
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
    """Write the detector's int8 export to `output_dir`/NAME (see `export_model`) and return that folder.

    image_dir   where to take the calibration images from, instead of TrainDataset
    compare     evaluate the detector and the int8 model on EvalDataset, and say both

    UserError: the config asks for something else (`slim`), there are no images, or what `export_model` refuses.
    """
    if cfg.run.slim != "PTQ":
        where = cfg.slim_path or cfg.path
        raise UserError(f"{where}: slim is {cfg.run.slim}; post-training quantisation wants slim: PTQ")
    ptq: PTQ = build(cfg, "PTQ")
    cfg = replace(cfg, run=replace(cfg.run, export=replace(cfg.run.export, fuse_conv_bn=True)))
    count = ptq.quant_batch_num * (build(cfg, "EvalReader").batch_size or 1)
    files = calibration_files(cfg, count, image_dir)
    get_logger().info(f"calibrating with {len(files)} images")
    folder = export_model(
        detector, cfg, output_dir, target, quantise=lambda folder, read: ptq.quantise(folder, files, read)
    )
    if compare:
        before = evaluate(detector, cfg)
        after = evaluate(Int8Detector(folder), cfg)
        get_logger().info(f"AP {before['bbox_mAP']:.4f} in float32, {after['bbox_mAP']:.4f} in int8")
    return folder


def without_slim(cfg: Config) -> Config:
    """The config of the float32 model."""
    return replace(cfg, run=replace(cfg.run, slim=None))


def calibration_files(cfg: Config, count: int, image_dir: Optional[str]) -> List[str]:
    """`count` images at even distances in the folder, or in TrainDataset; fewer if there are not so many."""
    files = find_images(image_dir) if image_dir else list(build(cfg, "TrainDataset").table.files)
    if not files:
        raise UserError(f"{image_dir or 'TrainDataset'} has no images to calibrate with")
    chosen = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return [files[i] for i in chosen]


class Int8Detector(paddle.nn.Layer):
    """A quantised Paddle export as a detector: a batch in, `bbox` and `bbox_num` out."""

    def __init__(self, folder: Path):
        super().__init__()
        self.network = PaddleNetwork(folder, int8=True)

    def forward(self, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        inputs = {name: batch[name].numpy() for name in ("image", "im_shape", "scale_factor")}
        bbox, bbox_num = self.network.run(inputs)
        return {"bbox": paddle.to_tensor(bbox), "bbox_num": paddle.to_tensor(bbox_num)}
