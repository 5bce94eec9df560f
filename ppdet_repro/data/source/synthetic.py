"""A detection set made on the spot: textured shapes over cluttered backgrounds, in COCO's format.

The classes differ by shape; most objects also wear their class's hue, as real classes have their looks (with
`likeness` 0 the shape alone tells). Texture, size, angle, proportions and light say nothing. Backgrounds hold
what misleads: irregular blobs with the same textures, lines, arcs, letters, none of them labelled. Sizes are
spread over COCO's small, medium and large; objects cover each other and are cut by the image's border. Image
number i of a split depends on the seed, the split and i alone.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

import cv2
import numpy as np
from pycocotools import mask as rle

from ppdet_repro.data.source.base import files_checked
from ppdet_repro.data.source.shapes import SHAPES, Outline, blob, coverage, pose, texture, value_noise
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

MANIFEST = "synthetic.json"
VERSION = 2  # of the pictures: raise it when the same options give others

MIN_VISIBLE = 0.4  # of an object's area, for it to be in the picture at all
MIN_SIDE, SMALL, MEDIUM = 10.0, 32.0, 96.0  # px, square root of the area; COCO's limits
MAX_SIDE = 0.55  # of the image's shorter side
TRIES = 8  # places tried for an object before it is given up
LETTERS = "AEFGHKMNPRSWZ2347"  # none of which looks like a shape

Side = Union[int, tuple[int, int]]


class Recipe(NamedTuple):
    """What the pictures of a set depend on, besides their number."""

    size: tuple[tuple[int, int], tuple[int, int]]  # height and width, from - to in pixels
    classes: tuple[str, ...]
    objects: tuple[int, int]  # tried for in an image, from - to
    scales: tuple[float, float, float]  # shares of small, medium, large objects
    noise: float  # standard deviation of the pixel noise, 0..255, at most
    clutter: float  # how much of the unlabelled blobs, lines and letters, 1 is all
    contrast: float  # of the textures on objects and blobs, 0 is plain
    likeness: float  # share of objects in their class's hue
    image_format: str
    seed: int


class Picture(NamedTuple):
    """One image and what is in it."""

    image: np.ndarray  # [H, W, 3] uint8 BGR
    owner: np.ndarray  # [H, W] int16: the index of the object seen at each pixel, -1 for none
    labels: list[int]  # each object's class id
    areas: np.ndarray  # each object's area in pixels, with nothing cut off or covered


def generate(
    root: Union[str, os.PathLike],
    *,
    train: int = 400,
    val: int = 100,
    size: tuple[Side, Side] = (256, 256),
    classes: Union[int, Sequence[str]] = 6,
    objects: tuple[int, int] = (1, 8),
    scales: tuple[float, float, float] = (0.3, 0.3, 0.4),
    noise: float = 10.0,
    clutter: float = 0.5,
    contrast: float = 0.5,
    likeness: float = 0.8,
    image_format: str = "jpg",
    seed: int = 0,
) -> Path:
    """Make a set in `root`, or find that it is there already, and return `root`.

    Writes train/ and val/ (images), annotations/instances_{train,val}.json (boxes and RLE masks of the
    visible part of each object) and synthetic.json (the options). Equal options give equal files.

    train, val: numbers of images. size: height and width, each a number or (from, to).
    classes: names out of `shapes.SHAPES`, or how many of them. objects: tried for in an image, (from, to).
    scales: shares of small (area < 32^2 px), medium and large (> 96^2 px) objects; sizes are
        log-uniform inside each, up to 0.55 of the image's shorter side.
    noise: largest standard deviation of the pixel noise. image_format: "jpg" or "png".
    clutter, contrast: 0 to 1, how many things without label there are, and how strong the textures are. They
        set how much must be seen before the shapes are told from what misleads.
    likeness: share of objects whose colour has their class's hue; at 0 colours say nothing, and a detector
        has to see many more images.

    An object is placed only where at least 40 % of it, and of each object that it covers, stays visible:
    it is tried in 8 places and then given up, so that no picture holds an unlabelled fragment.

    Raises `UserError` if `root` holds a set with other options, or anything else.
    """
    recipe = _recipe(size, classes, objects, scales, noise, clutter, contrast, likeness, image_format, seed)
    if train < 0 or val < 0 or train + val == 0:
        raise UserError(f"cannot make {train} training and {val} validation images: ask for at least one")
    manifest = {"version": VERSION, "train": train, "val": val, **json.loads(json.dumps(recipe._asdict()))}
    root = Path(root)
    if _is_made(root, manifest):
        get_logger().info(f"synthetic set in {root}: as asked for, used as it is")
        return root

    start = time.perf_counter()
    with files_checked(root, "written"):
        root.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        try:
            for index, (split, number) in enumerate((("train", train), ("val", val))):
                if number:
                    _write_split(unfinished, split, index, number, recipe)
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            unfinished.chmod(0o755)
            if not _is_made(root, manifest):  # another process may have been faster
                unfinished.rename(root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    rate = (train + val) / (time.perf_counter() - start)
    get_logger().info(f"synthetic set in {root}: made {train} + {val} images, {rate:.0f} images/s")
    return root


def _recipe(
    size: tuple[Side, Side],
    classes: Union[int, Sequence[str]],
    objects: tuple[int, int],
    scales: tuple[float, float, float],
    noise: float,
    clutter: float,
    contrast: float,
    likeness: float,
    image_format: str,
    seed: int,
) -> Recipe:
    """The checked options."""
    height, width = ((side, side) if isinstance(side, int) else tuple(side) for side in size)
    if not all(32 <= low <= high for low, high in (height, width)):
        raise UserError(f"synthetic images cannot have the size {size}: at least 32 px, 'from' before 'to'")
    if isinstance(classes, int):
        if not 1 <= classes <= len(SHAPES):
            raise UserError(f"there are 1 to {len(SHAPES)} synthetic classes, not {classes}")
        classes = list(SHAPES)[:classes]
    if not classes or not set(classes) <= set(SHAPES) or len(set(classes)) < len(classes):
        raise UserError(f"classes must be different ones of {', '.join(SHAPES)}, not {', '.join(classes)}")
    if not 0 <= objects[0] <= objects[1]:
        raise UserError(f"objects is (from, to) in an image, not {objects}")
    if len(scales) != 3 or min(scales) < 0 or sum(scales) <= 0:
        raise UserError(f"scales is the shares of small, medium and large objects, not {scales}")
    smallest = min(low for low, share in zip((MIN_SIDE, SMALL, MEDIUM), scales) if share)
    if MAX_SIDE * min(height[0], width[0]) <= smallest:
        raise UserError(f"scales {scales}: images of {size} px have no room for such large objects")
    if image_format not in ("jpg", "png"):
        raise UserError(f"image_format is jpg or png, not {image_format!r}")
    if seed < 0 or noise < 0:
        raise UserError(f"seed and noise cannot be negative, but are {seed} and {noise}")
    for name, share in (("clutter", clutter), ("contrast", contrast), ("likeness", likeness)):
        if not 0 <= share <= 1:
            raise UserError(f"{name} goes from 0 to 1, but is {share}")
    shares = tuple(share / sum(scales) for share in scales)
    looks = float(noise), float(clutter), float(contrast), float(likeness)
    return Recipe((height, width), tuple(classes), tuple(objects), shares, *looks, image_format, seed)


def _is_made(root: Path, manifest: dict) -> bool:
    """True if the set is there, False if the place is free; `UserError` if it is taken by something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{root} exists and is no synthetic set: choose another folder") from None
    differing = sorted(key for key in {*manifest, *found} if manifest.get(key) != found.get(key))
    if differing:
        changes = ", ".join(f"{key} {found.get(key)} instead of {manifest.get(key)}" for key in differing)
        raise UserError(f"{root} holds a set made with {changes}: remove it or choose another folder")
    return True


def _write_split(root: Path, split: str, index: int, number: int, recipe: Recipe) -> None:
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if recipe.image_format == "jpg" else []
    for i in range(number):
        picture = draw(np.random.default_rng([recipe.seed, index, i]), recipe)
        height, width = picture.owner.shape
        name = f"{i:06d}.{recipe.image_format}"
        if not cv2.imwrite(str(root / split / name), picture.image, quality):
            raise UserError(f"{root / split / name} cannot be written: is the disk full?")
        images.append({"id": i + 1, "file_name": name, "width": width, "height": height})
        annotations += _annotations(picture, i + 1, first_id=len(annotations) + 1)
    document = {
        "info": {"description": f"synthetic shapes, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(recipe.classes, 1)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _annotations(picture: Picture, image_id: int, first_id: int) -> list[dict]:
    """COCO annotations: box, area and RLE of the visible pixels of each object."""
    if not picture.labels:
        return []
    visible = picture.owner[..., None] == np.arange(len(picture.labels))  # [H, W, objects]
    codes = rle.encode(np.asfortranarray(visible, dtype=np.uint8))
    return [
        {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": rle.toBbox(code).tolist(),
            "area": int(rle.area(code)),
            "iscrowd": 0,
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
        }
        for annotation_id, (label, code) in enumerate(zip(picture.labels, codes), first_id)
    ]


def draw(rng: np.random.Generator, recipe: Recipe) -> Picture:
    """Draw one picture."""
    height, width = (int(rng.integers(low, high + 1)) for low, high in recipe.size)
    image = _background(rng, height, width, recipe)
    owner = np.full((height, width), -1, dtype=np.int16)
    areas, visible = np.zeros((2, 0))  # of each object: all of it, and what is seen
    labels: list[int] = []
    number = int(rng.integers(recipe.objects[0], recipe.objects[1] + 1))
    for side in _sides(rng, number, min(height, width), recipe.scales):
        label = int(rng.integers(len(recipe.classes)))
        outline = pose(rng, SHAPES[recipe.classes[label]], side, stretch=0.3)
        for _ in range(TRIES):
            window, mask = _place(outline, rng.uniform(0, 1, 2) * (width, height), height, width)
            inside, below = mask >= 128, owner[window]
            hidden = np.bincount(below[inside & (below >= 0)], minlength=len(areas))
            if inside.sum() >= MIN_VISIBLE * side * side and (visible - hidden >= MIN_VISIBLE * areas).all():
                hue = label / len(recipe.classes) if rng.random() < recipe.likeness else None
                _paint(rng, image[window], mask, side, recipe.contrast, apart=45, hue=hue)
                below[inside] = len(areas)
                areas, visible = np.append(areas, side * side), np.append(visible - hidden, inside.sum())
                labels.append(label)
                break
    return Picture(_develop(rng, image, recipe.noise), owner, labels, areas)


def _sides(rng: np.random.Generator, number: int, shorter: int, scales: Sequence[float]) -> list[float]:
    """Square roots of the areas to draw, large ones mostly first (so that small ones end up in front)."""
    limit = MAX_SIDE * shorter
    ranges = [(MIN_SIDE, min(SMALL, limit)), (SMALL, min(MEDIUM, limit)), (MEDIUM, limit)]
    share = np.array([scale if low < high else 0 for scale, (low, high) in zip(scales, ranges)])
    picks = rng.choice(3, number, p=share / share.sum())
    sides = [math.exp(rng.uniform(*np.log(ranges[pick]))) for pick in picks]
    return sorted(sides, key=lambda side: side * math.exp(rng.normal(0, 0.5)), reverse=True)


def _place(outline: Outline, centre: np.ndarray, height: int, width: int) -> tuple[tuple, np.ndarray]:
    """The window of the image (its slices) that holds the outline put at `centre`, and the coverage there."""
    points = outline[0] + centre
    x1, y1 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x2, y2 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
    local = [contour + centre - (x1, y1) for contour in outline]
    return (slice(y1, y2), slice(x1, x2)), coverage(local, y2 - y1, x2 - x1)


def _paint(
    rng: np.random.Generator,
    window: np.ndarray,
    mask: np.ndarray,
    side: float,
    contrast: float,
    apart: float,
    hue: Optional[float] = None,
) -> None:
    """Fill the mask in `window` (float32 [h, w, 3], changed) with a random surface under a random light.

    contrast: of its texture, 0 to 1. apart: how far, at least, its first colour is from the mean of what it
    covers. hue: of that colour, 0 to 1, or any.
    """
    height, width = mask.shape
    behind = window.mean((0, 1))
    first = _colour(rng, hue)
    while np.linalg.norm(first - behind) < apart:
        first = _colour(rng, hue)
    second = first + contrast * (rng.uniform(0, 255, 3) - first)
    surface = texture(rng, height, width, side)[..., None] * (second - first).astype(np.float32)
    surface += first.astype(np.float32)
    slope = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    light = 1 + slope[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = light + slope[1] * np.linspace(-1, 1, width, dtype=np.float32)
    if rng.random() < 0.3:  # a rim
        radius = max(1, int(side * rng.uniform(0.02, 0.05)))
        core = cv2.erode(mask, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8), borderValue=0)
        light[core < 128] *= rng.choice([0.5, 1.6])
    alpha = mask[..., None] * np.float32(1 / 255)
    window += alpha * (surface * light[..., None] - window)


def _colour(rng: np.random.Generator, hue: Optional[float]) -> np.ndarray:
    """A random colour, BGR 15..240, of about the hue if one is given."""
    if hue is None:
        return rng.uniform(15, 240, 3)
    turn, saturation, value = hue + rng.normal(0, 0.02), rng.uniform(0.45, 1), rng.uniform(80, 240)
    return np.array(colorsys.hsv_to_rgb(turn % 1, saturation, value))[::-1]


def _background(rng: np.random.Generator, height: int, width: int, recipe: Recipe) -> np.ndarray:
    """A cluttered background, float32 [height, width, 3]."""
    image = np.empty((height, width, 3), dtype=np.float32)
    centre, spread = rng.uniform(50, 205, 3), rng.uniform(10, 60)
    for channel in range(3):
        coarse = value_noise(rng, height, width, int(rng.integers(2, 5)))
        image[..., channel] = centre[channel] + 2 * spread * (coarse - 0.5)
    cells = int(rng.integers(12, 50))
    image += (rng.uniform(10, 70) * (value_noise(rng, height, width, cells) - 0.5))[..., None]

    for _ in range(round(recipe.clutter * rng.integers(3, 9))):
        side = math.exp(rng.uniform(math.log(MIN_SIDE), math.log(0.5 * min(height, width))))
        outline = pose(rng, blob(rng), side, stretch=0.8)
        window, mask = _place(outline, rng.uniform(0, 1, 2) * (width, height), height, width)
        _paint(rng, image[window], mask, side, recipe.contrast, apart=0)

    drawing = image.clip(0, 255).astype(np.uint8)  # OpenCV antialiases 8-bit images only
    for _ in range(round(recipe.clutter * rng.integers(3, 12))):
        _scribble(rng, drawing)
    return drawing.astype(np.float32)


def _scribble(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw a line, an arc or some letters on the uint8 image."""
    height, width = image.shape[:2]
    colour, thickness = rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 4))
    x, y, x2, y2 = (rng.uniform(0, 1, 4) * (width, height, width, height)).astype(int).tolist()
    kind = rng.choice(["line", "arc", "letters"], p=[0.5, 0.25, 0.25])
    if kind == "line":
        cv2.line(image, (x, y), (x2, y2), colour, thickness, cv2.LINE_AA)
    elif kind == "arc":
        axes = rng.integers(6, max(8, min(height, width) // 3), 2).tolist()
        turn, start, length = rng.uniform((0, 0, 40), (180, 360, 220)).tolist()
        cv2.ellipse(image, (x, y), axes, turn, start, start + length, colour, thickness, cv2.LINE_AA)
    else:
        text = "".join(rng.choice(list(LETTERS), rng.integers(1, 5)))
        size = float(rng.uniform(0.4, 1.5))
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)


def _develop(rng: np.random.Generator, image: np.ndarray, noise: float) -> np.ndarray:
    """Exposure, colour cast, now and then a blur, pixel noise; uint8."""
    image *= (rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)).astype(np.float32)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(rng.uniform(0, noise))
    return (image + grain[..., None]).clip(0, 255).astype(np.uint8)
