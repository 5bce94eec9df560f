"""The packaged recipes that `init` builds on, and how a dataset and a machine change them.

The figures behind the choices are in the first lines of the recipes' files.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ppdet_repro.data.source.labelled import Picture
from ppdet_repro.utils.packaged_weights import SCHEME, shipped

STRIDE = 32  # pixels; sides of the network's input are multiples
LONGEST = 416, 640  # pixels: the longest side of the input on a CPU and on a GPU
LARGER = 1.6  # the most that the sides of the input grow for small objects
EPOCHS = 12, 200  # fewest and most


class Recipe(NamedTuple):
    """A packaged recipe."""

    base: str  # its config
    what: str  # one line about it
    area: int  # pixels of the network's input
    smallest: int  # pixels in the input: objects with smaller sides are detected badly
    views: int  # pictures seen in a training, all epochs together
    batch_size: int
    tuning_views: Optional[int] = None  # the same in a training from `weights`; None: as many
    weights: Optional[str] = None  # to start from, of the same network: package://NAME; None: those of the config
    anchors: int = 0  # number of anchors to cluster


CPU: Dict[str, Recipe] = {
    "pafnet": Recipe(
        "ttfnet/pafnet_r18vd_256_bccd.yml",
        "PAFNet on a half-width ResNet18-vd: no anchors, and of the three small recipes the quickest to a good AP",
        area=192 * 256, smallest=10, views=7000, batch_size=2,
        weights="package://pafnet_r18vd", tuning_views=4000,
    ),
    "ppyolov2": Recipe(
        "ppyolo/ppyolov2_r18vd_256_bccd.yml",
        "PP-YOLOv2 on a half-width ResNet18-vd: the highest AP of the three small recipes, at twice the time",
        area=256 * 256, smallest=12, views=9000, batch_size=2, weights="package://ppyolov2_r18vd", anchors=9,
    ),
    "yolof": Recipe(
        "yolof/yolof_r18vd_bccd.yml",
        "YOLOF on two stages of a half-width ResNet18-vd: the fewest weights of the three small recipes",
        area=192 * 256, smallest=12, views=9000, batch_size=2, weights="package://yolof_r18vd",
    ),
}  # fmt: skip
GPU: Dict[str, Recipe] = {
    "pafnet": Recipe(
        "ttfnet/pafnet_10x_coco.yml", "PAFNet on ResNet50-vd, from weights trained on ImageNet",
        area=512 * 512, smallest=10, views=60_000, batch_size=12,
    ),
    "ppyolov2": Recipe(
        "ppyolo/ppyolov2_r50vd_dcn_voc.yml",
        "PP-YOLOv2 on ResNet50-vd with deformable convolutions, from weights trained on ImageNet",
        area=640 * 640, smallest=12, views=60_000, batch_size=8, anchors=9,
    ),
    "yolof": Recipe(
        "yolof/yolof_r50_c5_1x_coco.yml", "YOLOF on ResNet50, from weights trained on ImageNet",
        area=800 * 1066, smallest=16, views=60_000, batch_size=4,
    ),
}  # fmt: skip
DEFAULT = {False: "pafnet", True: "ppyolov2"}  # by whether there is a GPU
NAMES = tuple(CPU)


class Measures(NamedTuple):
    """Sizes in a dataset, in pixels."""

    width: int  # median of the pictures
    height: int
    smallest: float  # 10% of the objects have a smaller square root of their area
    median: float  # of the square roots of the objects' areas
    most: int  # objects in a picture


class Run(NamedTuple):
    """The length of a training."""

    epochs: int
    batch_size: int  # pictures of one process
    processes: int
    updates: int  # of an epoch
    warmup: int  # updates

    @property
    def milestones(self) -> List[int]:
        """The epochs at which a stepwise rate falls: after 2/3 and 8/9 of the run, as in the 1x schedules."""
        return [max(1, round(self.epochs * share)) for share in (2 / 3, 8 / 9)]


def recipe_for(kind: str, gpu: bool) -> Recipe:
    """The recipe of a detector, from its weights if they come with the package."""
    recipe = (GPU if gpu else CPU)[kind]
    if recipe.weights in [f"{SCHEME}{name}" for name in shipped()]:
        return recipe._replace(views=recipe.tuning_views or recipe.views)
    return recipe._replace(weights=None)


def measured(pictures: List[Picture]) -> Measures:
    """Measure the pictures and their objects, of which there is at least one."""
    width, height = (round(float(np.median([side(p) for p in pictures]))) for side in (_width, _height))
    boxes = np.array([item.box for picture in pictures for item in picture.objects], np.float64)
    sides = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1))
    smallest, median = np.percentile(sides, [10, 50]).tolist()
    return Measures(width, height, smallest, median, max(len(picture.objects) for picture in pictures))


def _width(picture: Picture) -> float:
    return picture.width


def _height(picture: Picture) -> float:
    return picture.height


def input_size(recipe: Recipe, sizes: Measures, longest: int) -> Tuple[int, int]:
    """Choose height and width of the network's input, in multiples of `STRIDE`.

    The input has the shape of the pictures and the recipe's area, more if a tenth of the objects would be too small.
    Its longest side has at most `longest` pixels, and it is not larger than the pictures, unless the recipe's area is.

    Example:
        >>> input_size(CPU["pafnet"], Measures(640, 480, 60.0, 90.0, 30), 416)
        (192, 256)
    """
    shrink = math.sqrt(recipe.area / (sizes.width * sizes.height))
    grow = min(LARGER, max(1.0, recipe.smallest / max(sizes.smallest * shrink, 1e-6)))
    shrink = min(shrink * grow, longest / max(sizes.width, sizes.height), max(1.0, shrink))
    height, width = (max(2 * STRIDE, STRIDE * round(side * shrink / STRIDE)) for side in (sizes.height, sizes.width))
    return height, width


def object_side(side: float, sizes: Measures, size: Tuple[int, int]) -> int:
    """The side of an object in the network's input [height, width], in pixels."""
    return round(side * math.sqrt(size[0] * size[1] / (sizes.width * sizes.height)))


def run_for(recipe: Recipe, pictures: int, processes: int) -> Run:
    """Choose the length of a training on so many pictures: the recipe's number of views, within `EPOCHS`.

    Example:
        >>> run_for(CPU["pafnet"], 205, 2)
        Run(epochs=34, batch_size=2, processes=2, updates=51, warmup=173)
    """
    batch_size = recipe.batch_size
    if pictures < 2 * batch_size * processes:
        batch_size, processes = 1, 1  # otherwise an epoch would have no or one update
    epochs = min(max(round(recipe.views / pictures), EPOCHS[0]), EPOCHS[1])
    updates = max(1, math.ceil(pictures / processes) // batch_size)  # each process has as many pictures
    return Run(epochs, batch_size, processes, updates, max(1, min(200, epochs * updates // 10)))
