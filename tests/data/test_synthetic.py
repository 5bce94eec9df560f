"""The synthetic dataset: it is reproducible, its labels are exact, and it never overwrites other files."""

from __future__ import annotations

import hashlib
import json
import os

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from ppdet_repro.data.source import synthetic
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.shapes import SHAPES, area, coverage, pose
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.data.source.synthetic_images import ImageOptions, _sides, draw
from ppdet_repro.utils.errors import UserError

SMALL_SET = {"train": 6, "val": 2, "size": (64, 96), "seed": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "set"
    return generate(root, train=40, val=6, size=(128, (128, 160)), classes=12)


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def annotations(root, split="train"):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_equal_options_give_equal_files(tmp_path):
    one, other = generate(tmp_path / "a", **SMALL_SET), generate(tmp_path / "b" / "c", **SMALL_SET)
    assert digests(one) == digests(other)
    assert len(digests(one)) == 6 + 2 + 2 + 1
    third = generate(tmp_path / "d", **{**SMALL_SET, "seed": 4})
    assert digests(third)["train/000000.jpg"] != digests(one)["train/000000.jpg"]


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path):
    one, other = generate(tmp_path / "a", **SMALL_SET), generate(tmp_path / "b", worker_num=3, **SMALL_SET)
    assert digests(one) == digests(other)


def test_a_folder_that_cannot_be_written_is_named_by_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "draw", lambda rng, options: os.rmdir(tmp_path / "none"))
    with pytest.raises(UserError, match=r"^data worker 1 of 2 failed: FileNotFoundError: .*; set worker_num=0 to see"):
        generate(tmp_path / "a", worker_num=2, **SMALL_SET)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = generate(tmp_path / "a", **SMALL_SET), generate(tmp_path / "b", **{**SMALL_SET, "train": 9})
    assert digests(few)["train/000005.jpg"] == digests(many)["train/000005.jpg"]
    assert digests(few)["train/000000.jpg"] != digests(few)["val/000000.jpg"]


def test_the_boxes_are_those_of_the_masks(made):
    document = annotations(made)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for item in document["annotations"]:
        mask = rle.decode(item["segmentation"])
        assert mask.shape == sizes[item["image_id"]]
        y, x = np.nonzero(mask)
        # the pixel in column x covers x to x + 1
        assert item["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
        assert item["area"] == mask.sum()


def test_no_pixel_belongs_to_two_objects(made):
    document = annotations(made)
    for image in document["images"]:
        codes = [a["segmentation"] for a in document["annotations"] if a["image_id"] == image["id"]]
        assert rle.decode(codes).sum(2).max() == 1


def options(**changes):
    looks = 0.0, 1.0, 1.0, 0.0
    base = ImageOptions(((96, 96), (96, 96)), tuple(SHAPES), (8, 8), (0, 1, 0), *looks, "png", 0)
    return base._replace(**changes)


def test_objects_stay_visible():
    """At least 40 % of each object is visible, where parts outside the image count as hidden; some are half hidden."""
    shares = []
    for seed in range(20):
        drawn = draw(np.random.default_rng(seed), options())
        seen = np.bincount(drawn.owner[drawn.owner >= 0], minlength=len(drawn.labels))
        shares += list(seen / drawn.areas)
    assert min(shares) >= 0.4 and sum(share < 0.7 for share in shares) > 10


def test_sizes_are_spread_over_small_medium_and_large():
    """Sizes are log-uniform inside each group: half of the small ones are below sqrt(10 * 32)."""
    sides = _sides(np.random.default_rng(0), 3000, 256, (0.5, 0.3, 0.2))
    shares = np.histogram(sides, [10, np.sqrt(320), 32, 96, 0.55 * 256])[0] / 3000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.3, 0.2], atol=0.03)


def test_sizes_without_room_are_not_drawn():
    sides = _sides(np.random.default_rng(0), 500, 100, (0.2, 0.4, 0.4))
    assert max(sides) <= 55 and min(sides) >= 10  # no large ones in 100 px: their share goes to the others
    assert np.mean(np.array(sides) > 32) == pytest.approx(2 / 3, abs=0.07)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_has_the_area_asked_for(name):
    outline = pose(np.random.default_rng(1), SHAPES[name], side=60, stretch=0.3)
    assert area(outline) == pytest.approx(3600)
    # the same in pixels, to 4 %: antialiasing draws borders a little wide
    mask = coverage([contour + 128 for contour in outline], 256, 256)
    assert (mask >= 128).sum() == pytest.approx(3600, rel=0.04)


def test_coverage_is_exact_to_a_quarter_pixel():
    """Pixel k spans k - 0.5 to k + 0.5: this rectangle covers columns 2 to 4 and half of rows 1 and 3."""
    corners = np.array([[1.5, 1.0], [4.5, 1.0], [4.5, 3.0], [1.5, 3.0]])
    mask = coverage([corners], 6, 7) / 255
    np.testing.assert_allclose(mask[:, 3], [0, 0.5, 1, 0.5, 0, 0], atol=0.26)
    np.testing.assert_allclose(mask[2], [0, 0, 1, 1, 1, 0, 0], atol=0.26)


def test_shapes_differ():
    """Their Hu moments, which are invariant to angle and size, are different."""

    def moments(outline):
        scale = 60 / np.sqrt(area(outline))
        mask = coverage([contour * scale + 128 for contour in outline], 256, 256)
        return cv2.HuMoments(cv2.moments(mask)).ravel()

    values = {name: np.log(np.abs(moments(outline)) + 1e-9) for name, outline in SHAPES.items()}
    for one in SHAPES:
        for other in SHAPES:
            assert one == other or np.abs(values[one] - values[other]).max() > 0.02, (one, other)


def test_sets_load_as_coco(made):
    source = COCODataSet(str(made), "train", "annotations/instances_train.json", ["gt_bbox", "gt_class"])
    assert source.class_names == list(SHAPES) and source.category_ids == list(range(1, 13))
    assert "left out" not in source.summary
    record = source.record(0)
    image = cv2.imread(record["im_file"])
    assert image.shape == (record["h"], record["w"], 3)
    assert image.shape[0] == 128 and 128 <= image.shape[1] <= 160
    widths = {source.record(i)["w"] for i in range(len(source))}
    assert len(widths) > 5


def test_the_same_set_is_used_again(tmp_path):
    root = generate(tmp_path / "set", **SMALL_SET)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert generate(root, **SMALL_SET) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_set_is_never_overwritten(tmp_path):
    root = generate(tmp_path / "set", **SMALL_SET)
    before = digests(root)
    with pytest.raises(UserError, match="set contains a dataset with seed 3 instead of 5: remove it"):
        generate(root, **{**SMALL_SET, "seed": 5})
    with pytest.raises(UserError, match="exists and is not a synthetic dataset"):
        generate(tmp_path, **SMALL_SET)
    assert digests(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", **SMALL_SET)
    assert list(tmp_path.iterdir()) == []


def test_empty_images_and_png(tmp_path):
    root = generate(tmp_path / "set", train=2, val=0, size=(64, 64), objects=(0, 0), image_format="png")
    assert annotations(root)["annotations"] == [] and (root / "train" / "000001.png").is_file()
    assert not (root / "val").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": (16, 64)}, "at least 32 pixels"),
        ({"size": ((64, 32), 64)}, r"ranges are \(from, to\)"),
        ({"classes": 13}, "1 to 12 synthetic classes"),
        ({"classes": ["disk", "cat"]}, "different names out of disk, square"),
        ({"classes": ["disk", "disk"]}, "different names"),
        ({"objects": (3, 1)}, "from, to"),
        ({"scales": (0, 0, 0)}, "shares of small, medium and large"),
        ({"scales": (0, 0, 1)}, "no room for such large objects"),
        ({"image_format": "gif"}, "jpg or png"),
        ({"seed": -1}, "cannot be negative"),
        ({"train": 0, "val": 0}, "at least one"),
        ({"worker_num": -1}, "number of processes that draw"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "set", **{**SMALL_SET, **options})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file.* cannot be written"):
        generate(tmp_path / "file" / "set", **SMALL_SET)


def test_clutter_and_contrast_make_images_busier(tmp_path):
    """Compared by the mean absolute difference of neighboring pixels, over images with the same random numbers."""

    def busyness(clutter, contrast):
        image_options = ImageOptions(
            ((96, 96), (96, 96)), ("disk",), (4, 4), (0, 1, 0), 0.0, clutter, contrast, 0.0, "png", 0
        )
        images = [draw(np.random.default_rng(i), image_options).image for i in range(8)]
        return np.mean([np.abs(np.diff(p.astype(float), axis=1)).mean() for p in images])

    assert busyness(0, 0) < busyness(0, 1) < busyness(1, 1)
    with pytest.raises(UserError, match="clutter must be from 0 to 1, but is 1.5"):
        generate(tmp_path / "set", clutter=1.5)


def test_likeness_gives_a_class_its_hue():
    """Classes 0 and 3 of six have hues 0 (red) and 1/2 (cyan): with a likeness of 1, class 0 is always redder."""
    image_options = ImageOptions(
        ((96, 96), (96, 96)), tuple(SHAPES)[:6], (3, 3), (0, 1, 0), 0.0, 0.0, 0.0, 1.0, "png", 0
    )
    images = [draw(np.random.default_rng(i), image_options) for i in range(40)]
    redness = {0: [], 3: []}
    for drawn in images:
        for index, label in enumerate(drawn.labels):
            blue, green, red = drawn.image[drawn.owner == index].mean(0)
            if label in redness:
                redness[label].append(red - (blue + green) / 2)
    assert min(redness[0]) > max(redness[3])
