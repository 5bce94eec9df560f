"""Copy-Paste: the resulting pixels and boxes, computed by hand, and that boxes stay on their objects."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as rle

from ppdet_repro.data.transform.base import Compose, Context
from ppdet_repro.data.transform.copy_paste import CopyPaste, boxes_of_masks, read_mask
from ppdet_repro.utils.errors import UserError

PLAIN = {"target_size": 8, "scaling": (1.0, 1.0), "flip": 0.0}


def rectangle(x1, y1, x2, y2):
    """A polygon that covers the pixels from x1 to x2 - 1 and from y1 to y2 - 1."""
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def sample(value, boxes, crowd=None, size=(8, 8)):
    """An image filled with `value`. Its objects fill their boxes with `value` + 1, `value` + 2, ..."""
    image = np.full((*size, 3), value, np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = value + i
    return {
        "image": image,
        "im_id": np.array([7]),
        "h": size[0],
        "w": size[1],
        "gt_bbox": np.array(boxes, np.float32).reshape(-1, 4),
        "gt_class": np.arange(len(boxes), dtype=np.int32)[:, None] + value,
        "is_crowd": np.array(crowd or [0] * len(boxes), np.int32)[:, None],
        "gt_poly": [rectangle(*box) for box in boxes],
    }


def apply(transform, first, second, seed=0):
    return transform(first, Context(np.random.default_rng(seed), draw=lambda: second))


def test_pasted_pixels_and_boxes_by_hand():
    """The object pasted at columns 4 to 7 hides a part of one object, all of another, and nothing of the third."""
    first = sample(10, [(0, 0, 6, 2), (5, 1, 7, 3), (0, 5, 3, 8)])
    out = apply(CopyPaste(**PLAIN, share=1.0), first, sample(100, [(4, 0, 8, 4)]))
    expected = np.full((8, 8), 10)
    expected[0:2, 0:4], expected[5:8, 0:3], expected[0:4, 4:8] = 11, 13, 101
    np.testing.assert_array_equal(out["image"][..., 1], expected)
    assert out["gt_bbox"].tolist() == [[0, 0, 4, 2], [0, 5, 3, 8], [4, 0, 8, 4]]
    assert out["gt_class"].tolist() == [[10], [12], [100]] and len(out["is_crowd"]) == 3
    assert "gt_poly" not in out and out["gt_bbox"].dtype == np.float32


def test_an_object_keeps_its_box_where_the_sides_are_still_seen():
    """A hole in the middle does not shrink a box, and visible sides keep their fractions of pixels."""
    first = sample(10, [(0, 0, 8, 8)])
    first["gt_bbox"] = np.array([[0.25, 0, 8, 7.5]], np.float32)
    out = apply(CopyPaste(**PLAIN, share=1.0), first, sample(100, [(3, 3, 5, 5)]))
    assert out["gt_bbox"].tolist() == [[0.25, 0, 8, 7.5], [3, 3, 5, 5]]


def test_crowd_regions_are_never_pasted_and_a_share_of_the_others():
    second = [(0, 0, 2, 2), (4, 4, 6, 6)]
    out = apply(CopyPaste(**PLAIN, share=1.0), sample(10, []), sample(100, second, crowd=[1, 0]))
    assert out["gt_bbox"].tolist() == [[4, 4, 6, 6]] and (out["image"][:4] == 10).all()
    counts = [
        len(apply(CopyPaste(**PLAIN, share=0.3), sample(10, []), sample(100, second), seed)["gt_bbox"])
        for seed in range(200)
    ]
    assert 80 < sum(counts) < 160  # 120 of 400


def test_nothing_is_pasted_without_a_dataset_or_objects():
    alone = CopyPaste(**PLAIN)(sample(10, [(0, 0, 4, 4)]), Context(np.random.default_rng(0)))
    assert alone["gt_bbox"].tolist() == [[0, 0, 4, 4]] and "gt_poly" not in alone
    out = apply(CopyPaste(**PLAIN, share=1.0), sample(10, []), sample(100, []))
    assert out["gt_bbox"].shape == (0, 4) and (out["image"] == 10).all()


def test_images_are_resized_mirrored_and_filled_up():
    """4 rows of 8 columns, halved: 2 x 4 at the top left of 8 x 8; mirrored, columns 0 and 1 become 2 and 3."""
    out = CopyPaste(8, scaling=(0.5, 0.5), flip=1.0, fill_value=77)(
        sample(10, [(0, 0, 4, 4)], size=(4, 8)), Context(np.random.default_rng(0))
    )
    expected = np.full((8, 8), 77)
    expected[:2, :4] = [10, 10, 11, 11]
    np.testing.assert_array_equal(out["image"][..., 0], expected)
    assert out["gt_bbox"].tolist() == [[2, 0, 4, 2]]
    assert (out["h"], out["w"], out["im_shape"].tolist()) == (8, 8, [8, 8])


def test_boxes_and_masks_go_with_the_pixels_through_every_jitter():
    """The white pixels on black end where the box and the mask end, up to the blur of their edges."""
    for seed in range(40):
        given = sample(0, [(8, 6, 30, 26)], size=(40, 50))
        given["image"] = given["image"] * 255
        transform = CopyPaste(48, scaling=(0.3, 2.0), fill_value=0)
        (mask,) = transform._place(given, np.random.default_rng(seed))
        (box,) = given["gt_bbox"]
        white = given["image"][..., 0] > 127
        for around in (boxes_of_masks(white[None])[0], boxes_of_masks(mask[None])[0]):
            assert np.abs(around - box).max() <= 1.5, (seed, around, box)
        assert (white != mask).mean() < 0.1


@pytest.mark.parametrize("kind", ["polygons", "counts", "compressed"])
def test_masks_of_every_kind(kind):
    """Rows 2 to 3 of columns 1 to 2 in an image of 4 rows and 5 columns. Run lengths go down the columns."""
    pixels = np.zeros((4, 5), bool)
    pixels[2:4, 1:3] = True
    segmentation = {
        "polygons": rectangle(1, 2, 3, 4),
        "counts": {"size": [4, 5], "counts": [6, 2, 2, 2, 8]},
        "compressed": rle.encode(np.asfortranarray(pixels, np.uint8)),
    }[kind]
    np.testing.assert_array_equal(read_mask(segmentation, 4, 5), pixels)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [100_000, 1_000_000], "counts": [1, 2]}, r"with the size \[4, 5\]"),  # ended the process
        ({"size": [4, 5], "counts": [7]}, "do not add up"),  # was filled up with whatever lay in memory
        ({"size": [4, 5], "counts": [-1, 21]}, "do not add up"),
        ({"size": [4, 5], "counts": "oooo"}, "Invalid RLE"),
        ({"size": [4, 5], "counts": ""}, "a list or a text"),
        ({"counts": [20]}, "neither a list of polygons"),
        ("text", "neither a list of polygons"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([["a"] * 6], "at least three points"),
        ([[float("nan")] * 6], "at least three points"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "at least three points"),
        ([None], "at least three points"),
    ],
    ids=str,
)
def test_what_is_no_mask(segmentation, message):
    with pytest.raises(ValueError, match=message):
        read_mask(segmentation, 4, 5)


def test_boxes_of_masks_by_hand():
    masks = np.zeros((2, 4, 6), bool)
    masks[0, 1, 2] = masks[0, 3, 4] = masks[1, 0, 0] = True
    assert boxes_of_masks(masks).tolist() == [[2, 1, 5, 4], [0, 0, 1, 1]]
    assert boxes_of_masks(masks[:0]).shape == (0, 4)


class Halve:
    def __call__(self, sample, ctx):
        return {**sample, "image": sample["image"][:4]}


def test_what_copy_paste_refuses():
    draw = Context(np.random.default_rng(0))
    without = {key: value for key, value in sample(1, []).items() if key != "gt_poly"}
    with pytest.raises(UserError, match=r"image in memory \(im_id 7\): add gt_poly to TrainDataset.data_fields"):
        CopyPaste(8)(without, draw)
    with pytest.raises(UserError, match="put CopyPaste directly after Decode"):
        Compose([Halve(), CopyPaste(8)])(sample(1, []), draw)
    with pytest.raises(UserError, match="object 0 has no segmentation"):
        CopyPaste(8)({**sample(1, [(0, 0, 2, 2)]), "gt_poly": [None]}, draw)
    with pytest.raises(UserError, match=r"scaling \[2, 1\] must be"):
        CopyPaste(8, scaling=[2, 1])
    with pytest.raises(UserError, match="target_size 0"):
        CopyPaste(0)
