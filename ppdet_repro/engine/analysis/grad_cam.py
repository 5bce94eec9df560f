"""Grad-CAM: heat maps of the parts of an image that raise the score of a detected box.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
C channels, h x w the size of a feature map, H x W that of an image, N candidate boxes, K classes.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence

import cv2
import numpy as np
import paddle
from paddle import Tensor, nn

from ppdet_repro.data.transform.preprocess import Inputs, Preprocess
from ppdet_repro.engine.models import mode
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.runtime.pipeline import read
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.visualize import output_names, write_image

HEAT_SHARE = 0.4  # of the heat map in a drawing
BOX_COLOR = (0, 0, 255)


class Explained(NamedTuple):
    """A detected box, and the heat map of its score."""

    row: np.ndarray  # [6]: class, score, x1, y1, x2, y2 in pixels of the original image
    heat: np.ndarray  # [h, w] from 0 to 1, over the network's input


def grad_cam(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The heat map [h, w], from 0 to 1, of a score for the feature maps [C, h, w] and its gradients by them.

    A channel's weight is the mean of its gradients (equation 1), the heat is the positive part of the weighted sum
    (equation 2), here divided by its maximum.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    heat = np.maximum((weights * maps).sum(axis=0), 0)
    return heat / (heat.max() or 1)


def find_layer(model: nn.Layer, name: str) -> nn.Layer:
    """The layer of a model with this name, such as backbone or model.neck. UserError if there is none."""
    layers = dict(model.named_sublayers())
    found = layers.get(name[len("model.") :] if name.startswith("model.") else name)
    if found is None:
        known = ", ".join(f"model.{child}" for child, _ in model.named_children())
        raise UserError(
            f"--target_feature_layer_name {name}: the model has no such layer; it has {known} and their parts"
        )
    return found


def explain(model: Detector, layer: nn.Layer, inputs: Inputs, threshold: float) -> List[Explained]:
    """The boxes of one image that score at least `threshold`, and their heat maps by the output of a layer.

    If the layer returns several feature maps, or is run several times, the map on which the score depends most is
    taken. `inputs` are those of one image. UserError if the layer returns no feature maps.
    """
    image, im_shape, scale_factor = (paddle.to_tensor(value) for value in inputs)
    image.stop_gradient = False
    with mode(model, training=False), outputs_of(layer) as maps:
        boxes, scores = model.decode(model.raw(image), im_shape, scale_factor)  # [1, N, 4], [1, K, N]
    if not maps:
        raise UserError("--target_feature_layer_name: this layer returns no feature maps; take model.backbone")
    found = model.suppress(boxes.detach(), scores.detach())
    ((_, rows),) = split_batch(np.zeros(1, np.int64), found.bbox.numpy(), found.bbox_num.numpy())
    explained = []
    for row in rows[rows[:, 1] >= threshold]:
        label = int(row[0])
        score = scores[0, label, candidate_of(row, boxes[0].numpy(), scores[0, label].numpy())]
        explained.append(Explained(row, heat_of(score, maps)))
    return explained


def heat_of(score: Tensor, maps: Sequence[Tensor]) -> np.ndarray:
    """The heat map [h, w] of a score for that of the feature maps [1, C, h, w] on which it depends most."""
    gradients = paddle.grad(score, maps, retain_graph=True, allow_unused=True)
    pairs = [(x.numpy()[0], np.zeros(x.shape[1:]) if dx is None else dx.numpy()[0]) for x, dx in zip(maps, gradients)]
    finite = [pair for pair in pairs if np.isfinite(pair[1]).all()]
    if not finite:  # 0 times infinity, from candidates whose sigmoid is 0
        raise UserError("the gradients of a score are not finite, so it has no heat map; train the model further")
    return grad_cam(*max(finite, key=lambda pair: float(np.abs(pair[0] * pair[1]).sum())))


@contextmanager
def outputs_of(layer: nn.Layer) -> Iterator[List[Tensor]]:
    """The feature maps [1, C, h, w] that a layer returns within the block."""
    found: List[Tensor] = []

    def keep(layer: nn.Layer, inputs: object, output: object) -> None:
        found.extend(x for x in paddle.utils.flatten(output) if isinstance(x, Tensor) and x.ndim == 4)

    hook = layer.register_forward_post_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def candidate_of(row: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> int:
    """The candidate, of boxes [N, 4] with scores [N], that became the final box `row` [6]: the nearest box, and of
    equal boxes the best. (Some suppressions change scores, none changes boxes.)"""
    distances = np.abs(boxes - row[2:]).max(axis=1).round(3)
    return int(np.lexsort((-scores, distances))[0])


def draw_heat(image: np.ndarray, explained: Explained, inputs: Inputs) -> np.ndarray:
    """An RGB image [H, W, 3] with a box and the heat within it; the rest is darker. `inputs` are those of the image."""
    height, width = inputs.image.shape[2:]
    inside_height, inside_width = inputs.im_shape[0].round().astype(int)  # without the padding
    heat = cv2.resize(explained.heat.astype(np.float32), (width, height))[:inside_height, :inside_width]
    heat = cv2.resize(heat, image.shape[1::-1])
    colors = cv2.cvtColor(cv2.applyColorMap(np.uint8(255 * heat), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    x1, y1, x2, y2 = (max(0, int(side)) for side in explained.row[2:])
    within = np.zeros((*image.shape[:2], 1), bool)
    within[y1:y2, x1:x2] = True
    drawn = (HEAT_SHARE * colors * within + (1 - HEAT_SHARE) * image).astype(np.uint8)
    return cv2.rectangle(drawn, (x1, y1), (x2, y2), BOX_COLOR, 2)


def draw_heat_maps(
    model: Detector, layer_name: str, preprocess: Preprocess, files: Sequence[str], threshold: float, output_dir: str
) -> List[Path]:
    """Draw the heat map of every box that scores at least `threshold`; return the paths.

    The drawings of one image are `output_dir`/0.jpg, 1.jpg, ..., those of several `output_dir`/IMAGE/0.jpg, ... For the
    other arguments see `explain`. UserError if a file is no image, a drawing cannot be written, or there is no such
    layer.
    """
    layer, written = find_layer(model, layer_name), []
    for file, name in zip(files, output_names(files)):
        folder = Path(output_dir) if len(files) == 1 else Path(output_dir, name)
        image = read(file)
        inputs = preprocess([image])
        explained = explain(model, layer, inputs, threshold)
        for i, box in enumerate(explained):
            written.append(folder / f"{i}.jpg")
            write_image(written[-1], draw_heat(image, box, inputs))
        get_logger().info(f"{file}: {len(explained)} boxes that score at least {threshold:g}, drawn in {folder}")
    return written
