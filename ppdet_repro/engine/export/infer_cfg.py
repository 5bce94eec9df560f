"""What a config says about deployment: the network's input, and the content of infer_cfg.yml."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Union

import numpy as np

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.transform.base import Context
from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.data.transform.preprocess import Inputs, from_list, to_list
from ppdet_repro.utils.errors import UserError

# architecture -> its name in infer_cfg.yml, and the number of operators from which on TensorRT takes a subgraph
ARCHITECTURES = {
    "YOLOF": ("YOLOF", 40),
    "YOLOv3": ("YOLO", 3),
    "TTFNet": ("TTFNet", 60),
    "RetinaNet": ("RetinaNet", 40),
    "SAPD": ("SAPD", 40),
}


class NetworkInput(NamedTuple):
    """The network's input according to the section TestReader."""

    shape: List[Optional[int]]  # [B, 3, H, W], with None for a free size
    steps: List[Dict[str, Any]]  # from a decoded image to the exported network's input, as in infer_cfg.yml
    eager_steps: List[Dict[str, Any]]  # the same for the detector itself, which never normalizes
    normalize: Optional[NormalizeImage]  # what the exported network contains, if it normalizes
    black_padding: bool = False  # whether the exported network normalizes the padding, too

    def eager(self, image: Union[str, np.ndarray]) -> Inputs:
        """An image file, or an RGB image [H, W, 3], as the input of the detector itself."""
        if self.normalize is None or not self.black_padding:
            return from_list(self.eager_steps)([image])
        inputs = from_list(self.steps)([image])
        sample = self.normalize({"image": inputs.image[0].transpose(1, 2, 0)}, Context(np.random.default_rng(0)))
        return inputs._replace(image=sample["image"].transpose(2, 0, 1)[None])


def read_input(cfg: Config) -> NetworkInput:
    """Read the section TestReader. UserError if it is missing, if deployment has no counterpart of a transform, or if
    `inputs_def.image_shape` is not a shape."""
    reader = build(cfg, "TestReader")
    if not reader.preprocess:
        raise UserError(f"{cfg.path}: the config has no TestReader with transforms, which define the network's input")
    shape = check_shape(reader.image_shape, cfg)
    normalize = next((t for t in reader.preprocess if isinstance(t, NormalizeImage)), None)
    size = [-1 if side is None else side for side in shape[1:]]
    steps, eager_steps = (to_list(reader.preprocess, size, fused) for fused in (reader.fuse_normalize, False))
    if shape[2] != shape[3] and any(step["type"] == "Pad" for step in steps):
        raise UserError(
            f"{cfg.path}: the network's size {shape[2]} x {shape[3]} is fixed, but TestReader's Resize keeps the "
            "aspect ratio, so upright images would not fit; use a square size, or Resize with keep_ratio: false"
        )
    black = cfg.run.export.padding == "black"
    if black and not reader.fuse_normalize:
        raise UserError(f"{cfg.path}: export.padding: black needs TestReader.fuse_normalize: true")
    return NetworkInput(shape, steps, eager_steps, normalize if reader.fuse_normalize else None, black)


def check_shape(value: Any, cfg: Config) -> List[Optional[int]]:
    """The shape [B, 3, H, W] from an `image_shape`, which may lack B and has -1, not None, for a free size."""
    shape = [3, -1, -1] if value is None else list(value) if isinstance(value, (list, tuple)) else []
    if len(shape) == 3:
        shape = [-1, *shape]
    valid = all(isinstance(side, int) and (side == -1 or side > 0) for side in shape)
    if len(shape) != 4 or shape[1] != 3 or not valid or (shape[2] == -1) != (shape[3] == -1):
        raise UserError(
            f"{cfg.path}: TestReader.inputs_def.image_shape {value!r} is not [3, height, width], with -1 for "
            "both if the size is free"
        )
    return [None if side == -1 else side for side in shape]


def for_one_image(network_input: NetworkInput, cfg: Config) -> NetworkInput:
    """The same input for a batch size of 1. UserError if the image size is free."""
    if network_input.shape[2] is None:
        raise UserError(f"{cfg.path}: Paddle-Lite needs a fixed size; give --input_size HEIGHT WIDTH")
    return network_input._replace(shape=[1, *network_input.shape[1:]])


def with_batch(network_input: NetworkInput, batch: Optional[int]) -> NetworkInput:
    """The same input for a fixed number of images per batch; unchanged with None."""
    return network_input if batch is None else network_input._replace(shape=[batch, *network_input.shape[1:]])


def infer_config(cfg: Config, network_input: NetworkInput, post_process: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """The content of infer_cfg.yml. `post_process` is the suppression that has to follow the exported network, if any.
    UserError if the architecture cannot be exported, or TestDataset has another number of classes than the model."""
    architecture, num_classes = str(cfg.run.architecture), cfg.run.num_classes
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{cfg.path}: cannot export architecture {architecture}; these can be: {', '.join(ARCHITECTURES)}"
        )
    labels = build(cfg, "TestDataset").class_names
    if len(labels) != num_classes:
        raise UserError(
            f"{cfg.path}: TestDataset.anno_path names {len(labels)} classes, but num_classes of the model is "
            f"{num_classes}; make them agree"
        )
    arch, min_subgraph_size = ARCHITECTURES[architecture]
    content = {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": cfg.run.metric,
        "use_dynamic_shape": network_input.shape[2] is None,
        "arch": arch,
        "min_subgraph_size": min_subgraph_size,
        "Preprocess": network_input.steps,
        "label_list": labels,
    }
    return content if post_process is None else {**content, "PostProcess": post_process}
