"""What train_cpu.py measures with Paddle, and what it writes for PyTorch to compare with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import paddle
from paddle import Tensor

from ppdet_repro import build_model
from ppdet_repro.core.config import Config, build
from ppdet_repro.core.contract import Batch, TargetTransform
from ppdet_repro.data.reader.batches import collate
from ppdet_repro.data.reader.readers import to_tensors
from ppdet_repro.data.transform.base import Context, Sample, apply_to_batch
from ppdet_repro.data.transform.boxes import BboxXYXY2XYWH, NormalizeBox, PadBox
from ppdet_repro.data.transform.normalize import Permute
from ppdet_repro.engine.analysis.counting import count_input
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.training.cpu_kernels import choose_kernels
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import RUNNING_STATISTICS

BOXES = 4  # per image
OF_BOXES = (NormalizeBox, PadBox, BboxXYXY2XYWH, Permute)
IN_LOSS = "head.levels."  # SAPD's network that selects levels is a part of the loss


def updates_per_second(
    config: Config, batch_size: int, size: Tuple[int, int], steps: int, lr: float, network_only: bool
) -> float:
    """The speed of `steps` updates after a warm-up update on batches of one size (height, width)."""
    update = make_update(config, batch_size, size, lr, network_only)
    update()
    start = time.perf_counter()
    for _ in range(steps):
        loss = update()
    seconds = time.perf_counter() - start
    if not np.isfinite(float(loss)):
        raise RuntimeError("the loss is not finite")
    return steps / seconds


def make_update(
    config: Config, batch_size: int, size: Tuple[int, int], lr: float, network_only: bool = False
) -> Callable[[], Tensor]:
    """A function that makes one update of a new model, always with the same batch, and returns the loss."""
    paddle.set_device("cpu")
    paddle.seed(0)
    model = build_model(config)
    choose_kernels(model, config, World(rank=0, size=1, gpu=False))
    model.train()
    optimizer = paddle.optimizer.Momentum(lr, parameters=model.parameters())
    batch = training_batch(config, batch_size, size)

    def update() -> Tensor:
        loss = network_loss(model, batch["image"]) if network_only else model(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)  # as in training
        return loss

    return update


def network_loss(model: Detector, image: Tensor) -> Tensor:
    """The sum over the head's outputs of the mean of their squares."""
    return paddle.add_n([output.square().mean() for output in outputs_of(model, image)])


def outputs_of(model: Detector, image: Tensor) -> List[Tensor]:
    """The head's outputs that depend on the weights, that is, without its anchors."""
    return [t for t in paddle.utils.flatten(model.raw(image)) if isinstance(t, Tensor) and not t.stop_gradient]


def write_reference(config: Config, size: Tuple[int, int], file: Path) -> Dict[str, int]:
    """Write weights, an image, the outputs for it in evaluation mode, and the gradients of `network_loss` in training
    mode to an .npz file, for PyTorch to compare with. Returns the numbers of parameters of the network and of those
    that get a gradient."""
    paddle.set_device("cpu")
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = build_model(config)
    for name, values in model.state_dict().items():
        if len(values.shape) == 1:  # of norms, and biases: what every channel has in a new network shows no mistake
            positive = name.endswith((".weight", "._variance"))
            drawn = rng.uniform(0.5, 1.5, values.shape) if positive else rng.normal(0, 0.1, values.shape)
            values.set_value(drawn.astype(np.float32))
    image = rng.standard_normal((2, 3, *size))
    model.to(dtype="float64")
    weights = {name: v.numpy() for name, v in model.state_dict().items() if not name.startswith(IN_LOSS)}
    arrays = {"image/": image, **{f"weight/{name}": values for name, values in weights.items()}}
    model.eval()
    arrays.update({f"output/{i}": t.numpy() for i, t in enumerate(outputs_of(model, paddle.to_tensor(image)))})
    model.train()
    network_loss(model, paddle.to_tensor(image)).backward()
    gradients = {f"gradient/{n}": p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    np.savez(file, **arrays, **gradients)
    learned = sum(values.size for values in gradients.values())
    parameters = sum(values.size for name, values in weights.items() if not name.endswith(RUNNING_STATISTICS))
    return {"parameters": parameters, "trained": learned}


def multiply_adds(config: Config, size: Tuple[int, int]) -> int:
    """Of the network for one image, forward; see `ppdet-repro info`."""
    paddle.set_device("cpu")
    return count_input(build_model(config), size).total


def training_batch(config: Config, images: int, size: Tuple[int, int]) -> Batch:
    """A batch of noise with boxes of a quarter to half of the image size, and the targets that the config's
    TrainReader makes of them."""
    reader, rng = build(config, "TrainReader"), np.random.default_rng(0)
    transforms: List[Any] = [t for t in reader.preprocess if isinstance(t, (*OF_BOXES, TargetTransform))]
    samples = [random_sample(rng, size, config.run.num_classes) for _ in range(images)]
    batch = collate(apply_to_batch(transforms, samples, Context(rng)), reader.collate_batch)
    return to_tensors({**batch, "progress": np.ones(1, np.float32)})


def random_sample(rng: np.random.Generator, size: Tuple[int, int], num_classes: int) -> Sample:
    """An image of noise with its boxes."""
    height, width = size
    corner, side = rng.random((BOXES, 2)) * 0.5, 0.25 + rng.random((BOXES, 2)) * 0.25
    boxes = np.concatenate([corner, corner + side], axis=1) * [width, height, width, height]
    return {
        "image": rng.standard_normal((height, width, 3), np.float32),
        "im_shape": np.array(size, np.float32),
        "scale_factor": np.ones(2, np.float32),
        "gt_bbox": boxes.astype(np.float32),
        "gt_class": rng.integers(0, num_classes, (BOXES, 1), np.int32),
    }
