"""Draws the training targets of images: positive locations, ignored boxes, loss weights.

A head's `assignment` describes them. Images are RGB uint8 [H, W, 3].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import List, Optional, Sequence, Union

import cv2
import numpy as np
import paddle

from ppdet_repro.core.config import Config, build, build_model
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.transform.base import Sample
from ppdet_repro.engine.model_weights import load_exact
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, LevelBars, WeightMap
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import FONT, class_color, contact_sheet, enlarged, write_image

NO_OBJECT = (190, 190, 190)  # the color of boxes that belong to no object


def show_assignment(
    cfg: Config,
    output_dir: Union[str, Path],
    images: Sequence[str] = (),
    number: int = 4,
    weights: Optional[str] = None,
    seed: int = 0,
    offline: bool = False,
    progress: float = 1.0,
) -> List[str]:
    """Draw the training targets of images of TrainDataset, one file per image, and return a line of text per image.

    Raises UserError if an image is not in the dataset, or a file cannot be read or written.

    Args:
        images: The images as file names, with or without suffix, or image ids. Empty: the first `number` images.
        number: The number of images if `images` is empty.
        weights: The weights of the model. None: random initial weights, which matters if targets depend on predictions
            (what YOLOF matches and ignores, what YOLO ignores, AGS).
        seed: Random seed of the training transforms, which are applied before drawing, and of the initial weights.
        offline: Take weights that are a URL from the cache only.
        progress: The training progress to assume, from 0 to 1 (SAPD selects levels in another way in the first half).
    """
    source = build(cfg, "TrainDataset")
    chosen = [find_image(source, name) for name in images] or list(range(min(number, len(source))))
    paddle.seed(seed)
    model = build_model(cfg)
    if weights is not None:
        load_exact(model, resolve(weights, offline))
    model.eval()
    reader = build(cfg, "TrainReader", batch_size=1, shuffle=False, drop_last=False)
    first = Reordered(source, chosen + sorted(set(range(len(source))) - set(chosen)))
    batches = reader.batches(first, epoch=0, epochs_total=1, seed=seed, workers=0)
    lines = []
    for index, batch in zip(chosen, islice(batches, len(chosen))):
        batch["progress"] = paddle.to_tensor([progress], "float32")
        with paddle.no_grad():
            (assignment,) = model.head.assignment(model.raw(batch["image"]), batch)
        name = Path(source.record(index)["im_file"]).stem
        path = Path(output_dir) / f"{name}.jpg"
        write_image(path, draw(to_uint8(batch["image"][0].numpy()), assignment))
        lines.append(f"{path}: {summary(assignment)}")
    return lines


@dataclass
class Reordered:
    """A dataset in another order, for a reader that does not shuffle."""

    source: Source
    order: Sequence[int]

    def __len__(self) -> int:
        return len(self.order)

    def record(self, index: int) -> Sample:
        return self.source.record(self.order[index])


def find_image(source: Source, name: str) -> int:
    """The index of an image by its file name, with or without suffix, or by its id, else a `UserError`."""
    for index in range(len(source)):
        record = source.record(index)
        path = Path(record["im_file"])
        if name in (path.name, path.stem, str(path), str(int(record["im_id"][0]))):
            return index
    raise UserError(f"none of TrainDataset's {len(source)} images is {name!r}: give a file name or an image id")


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert a normalized image [3, H, W] to uint8 [H, W, 3]; its values are stretched to the range 0 to 255."""
    stretched = (image - image.min()) / max(np.ptp(image), 1e-6) * 255
    return np.ascontiguousarray(stretched.round().astype(np.uint8).transpose(1, 2, 0))


def summary(assignment: Assignment) -> str:
    """A line of text: the number of objects and of boxes of each kind, and the largest value of each map."""
    parts = [f"{len(assignment.objects)} objects"]
    parts += [f"{len(layer.boxes)} {layer.name}" for layer in assignment.boxes]
    parts += [f"{layer.name} up to {layer.values.max():.3g}" for layer in assignment.maps]
    return ", ".join(parts)


def draw(image: np.ndarray, assignment: Assignment) -> np.ndarray:
    """Draw the panels: one with the objects, and one per kind of boxes, per map and per kind of bars."""
    image, scale = enlarged(image)
    objects = AssignedBoxes("objects", assignment.objects, np.arange(len(assignment.objects)))
    panels = [box_panel(image, layer, scale) for layer in [objects, *assignment.boxes]]
    panels += [map_panel(image, layer) for layer in assignment.maps]
    panels += [bar_panel(image, layer, assignment.objects * scale) for layer in assignment.bars]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    return contact_sheet(panels, columns, cell=max(panels[0].shape[:2]) + 4)


def box_panel(image: np.ndarray, layer: AssignedBoxes, scale: float) -> np.ndarray:
    """The darkened image with each box in the color of its object, or gray if it has none."""
    panel = (image * 0.6).astype(np.uint8)
    thickness = max(1, round(max(panel.shape[:2]) / 400))
    for box, owner in zip(layer.boxes * scale, layer.owners):
        x1, y1, x2, y2 = (int(round(float(side))) for side in box.clip(-1e5, 1e5))
        color = NO_OBJECT if owner < 0 else class_color(int(owner))
        cv2.rectangle(panel, (x1, y1), (x2, y2), color, thickness)
    return captioned(panel, f"{layer.name}: {len(layer.boxes)}")


def map_panel(image: np.ndarray, layer: WeightMap) -> np.ndarray:
    """The image in gray and, where the map is not 0, its values in colors from dark (0) to yellow (the largest value).

    Colors show the square root, because the weights of large objects are much smaller than those of small ones.
    """
    size = image.shape[1], image.shape[0]
    gray = np.repeat((image * 0.6).mean(axis=2, keepdims=True), 3, axis=2)
    largest = float(layer.values.max())
    values = cv2.resize(layer.values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    levels = (np.sqrt(values.clip(min=0) / max(largest, 1e-12)) * 255).clip(0, 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = np.where(values > 0, 0.75, 0.0)[:, :, None]
    panel = (gray * (1 - opacity) + colors * opacity).astype(np.uint8)
    return captioned(panel, f"{layer.name}: 0 to {largest:.3g}")


def bar_panel(image: np.ndarray, layer: LevelBars, objects: np.ndarray) -> np.ndarray:
    """The darkened image with each object's box, and in its corner a bar per level, filled in proportion to the
    level's value from 0 to 1."""
    panel = (image * 0.6).astype(np.uint8)
    height = max(4, round(max(panel.shape[:2]) / 60))
    width = 4 * height
    for index, (box, values) in enumerate(zip(objects, layer.values)):
        x1, y1, x2, y2 = (int(round(float(side))) for side in box.clip(-1e5, 1e5))
        cv2.rectangle(panel, (x1, y1), (x2, y2), class_color(index), 1)
        for level, value in enumerate(values):
            top = y1 + level * height
            cv2.rectangle(panel, (x1, top), (x1 + width, top + height), (255, 255, 255), -1)
            cv2.rectangle(panel, (x1, top), (x1 + round(float(value) * width), top + height), (220, 30, 30), -1)
            cv2.rectangle(panel, (x1, top), (x1 + width, top + height), (0, 0, 0), 1)
    return captioned(panel, layer.name)


def captioned(panel: np.ndarray, text: str) -> np.ndarray:
    """A panel with a line of text above it."""
    strip = np.full((28, panel.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 20), FONT, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, panel])
