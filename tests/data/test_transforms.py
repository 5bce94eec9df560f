"""Sample and batch transforms: numbers computed by hand, and properties that always hold."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from ppdet_repro.data.transform import color, preprocess
from ppdet_repro.data.transform.base import Compose, Context, ImageError, TransformError, apply_to_batch
from ppdet_repro.data.transform.boxes import BboxXYXY2XYWH, NormalizeBox, PadBox
from ppdet_repro.data.transform.color import RandomDistort
from ppdet_repro.data.transform.decode import Decode, is_truncated_jpeg
from ppdet_repro.data.transform.erase import Cutout, GridMask, stripes
from ppdet_repro.data.transform.geometry import Crop, RandomCrop, RandomExpand, RandomFlip, RandomShift, boxes_in_crop
from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import Pad, PadBatch, stack
from ppdet_repro.data.transform.resize import BatchRandomResize, RandomResize, Resize, Size, resized_size, scale_to_fit
from ppdet_repro.utils.errors import UserError


class Scripted:
    """A random generator that returns the listed values, whichever method is called."""

    def __init__(self, *values):
        self.values = list(values)

    def _next(self, *args, **kwargs):
        return self.values.pop(0)

    random = uniform = integers = beta = permutation = _next


def scripted(*values, progress=0.0, draw=None) -> Context:
    return Context(Scripted(*values), progress, draw)


def context(seed: int = 0, **values) -> Context:
    return Context(np.random.default_rng(seed), **values)


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sample(image: np.ndarray, boxes=((1, 2, 5, 6),)) -> dict:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.arange(len(boxes), dtype=np.int32)[:, None]
    return {
        "image": image,
        "im_id": np.array([7]),
        "im_shape": np.array(image.shape[:2], np.float32),
        "scale_factor": np.ones(2, np.float32),
        "gt_bbox": boxes,
        "gt_class": classes,
        "is_crowd": classes * 0,
    }


# ---------------------------------------------------------------- decoding


def encoded(kind: str, image: np.ndarray) -> bytes:
    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


def test_decode_gives_rgb_and_the_files_own_size(tmp_path):
    image = noise_image(6, 9)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", image))
    out = Decode()({"im_file": str(path), "h": 100.0, "w": 100.0}, context())
    np.testing.assert_array_equal(out["image"], image)
    assert (out["h"], out["w"]) == (6, 9)  # the size in the annotation, 100 x 100, was wrong
    assert out["im_shape"].tolist() == [6, 9] and out["scale_factor"].tolist() == [1, 1]


def test_decode_takes_bytes_and_arrays():
    image = noise_image(6, 9)
    for given in (encoded(".png", image), image):
        np.testing.assert_array_equal(Decode()({"image": given}, context())["image"], image)


def test_decode_makes_gray_and_transparent_images_three_channels():
    gray = cv2.imencode(".png", noise_image(4, 4)[..., 0])[1].tobytes()
    clear = cv2.imencode(".png", np.dstack([noise_image(4, 4), noise_image(4, 4)[..., :1]]))[1].tobytes()
    for data in (gray, clear):
        assert Decode()({"image": data}, context())["image"].shape == (4, 4, 3)


def jpeg_with_exif(image: np.ndarray, orientation: int, thumbnail: bytes) -> bytes:
    """A JPEG with an EXIF segment: orientation, and a thumbnail that is a JPEG itself."""
    entry = b"\x01\x12" + b"\x00\x03" + b"\x00\x00\x00\x01" + bytes([0, orientation, 0, 0])
    exif = b"Exif\x00\x00" + b"MM\x00\x2a\x00\x00\x00\x08" + b"\x00\x01" + entry + b"\x00" * 4 + thumbnail
    data = encoded(".jpg", image)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def test_decode_turns_images_as_exif_says():
    data = jpeg_with_exif(np.full((4, 8, 3), 99, np.uint8), 6, b"")
    assert Decode()({"image": data}, context())["image"].shape == (8, 4, 3)


def test_a_jpeg_is_cut_off_when_the_end_after_its_scan_is_missing():
    thumbnail = encoded(".jpg", noise_image(8, 8))
    whole = jpeg_with_exif(noise_image(32, 32), 1, thumbnail)
    assert not is_truncated_jpeg(whole)
    assert not is_truncated_jpeg(whole + b"camera's trailing bytes")
    for cut in (3, 100, len(whole) // 2, len(whole) - 1):  # the end marker of the thumbnail must not count
        assert is_truncated_jpeg(whole[:cut])


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("missing.jpg", None, "cannot be read"),
        ("empty.jpg", b"", "empty"),
        ("page.jpg", b"<html>not found</html>", "not an image"),
        ("half.jpg", encoded(".jpg", noise_image(64, 64))[:900], "cut off"),
        ("half.png", encoded(".png", noise_image(64, 64))[:900], "not an image, or is damaged"),
    ],
)
def test_broken_files_are_named(tmp_path, name, data, reason):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ImageError) as error:
        Decode()({"im_file": str(path), "im_id": np.array([42])}, context())
    assert name in str(error.value) and "im_id 42" in str(error.value) and reason in str(error.value)


# ---------------------------------------------------------------- resizing


def test_sizes_with_kept_ratio():
    target = Size(800, 1333)
    # min(800/480, 1333/640) = 5/3: 640 * 5/3 = 1066.67
    assert resized_size(Size(480, 640), target, True) == (800, 1067)
    # min(800/300, 1333/900) = 1.4811: 300 * 1.4811 = 444.33
    assert resized_size(Size(300, 900), target, True) == (444, 1333)
    assert resized_size(Size(900, 300), target, True) == (1333, 444)  # the target's order does not matter
    assert resized_size(Size(480, 640), target, False) == target


def test_resize_scales_and_clips_boxes_and_multiplies_the_scale_factor():
    given = sample(noise_image(20, 40), [[10, 5, 45, 25], [-4, -2, 8, 6]])
    given["scale_factor"] = np.array([2, 3], np.float32)
    out = Resize([40, 20], keep_ratio=False)(given, context())  # y times 2, x times 0.5
    assert out["image"].shape == (40, 20, 3) and out["im_shape"].tolist() == [40, 20]
    assert out["gt_bbox"].tolist() == [[5, 10, 20, 40], [0, 0, 4, 12]]  # 22.5, 50, -2, -4 are outside
    assert out["scale_factor"].tolist() == [4, 1.5]


def test_one_scale_for_both_sides_as_paddledetection_deploys():
    """29 x 50 fits into 40 x 60 with a scale of 60 / 50, as 40 / 29 would make 50 to 68.97. The height becomes 34.8.
    Evaluation rounds it to 35 and scales by 35 / 29, deployment scales by 1.2; the sizes of the images are equal."""
    outs = [Resize([40, 60], True, one_scale=one_scale)(sample(noise_image(29, 50)), context()) for one_scale in (0, 1)]
    assert [out["im_shape"].tolist() for out in outs] == [[35, 60], [35, 60]]
    np.testing.assert_allclose(outs[0]["scale_factor"], [35 / 29, 1.2], rtol=1e-6)
    np.testing.assert_allclose(outs[1]["scale_factor"], [1.2, 1.2], rtol=1e-6)
    assert outs[1]["image"].shape == outs[0]["image"].shape and (outs[1]["image"] != outs[0]["image"]).any()


def test_the_long_side_decides_only_if_it_would_be_too_long_after_rounding():
    assert scale_to_fit(Size(30, 50), Size(36, 60)) == 1.2
    assert scale_to_fit(Size(100, 301), Size(200, 602)) == 2.0
    assert scale_to_fit(Size(100, 300), Size(33, 98)) == 98 / 300  # 99 is more than 98
    assert scale_to_fit(Size(1000, 3001), Size(100, 300)) == 0.1  # 300.1 is 300


def test_resize_keeps_eight_bits_unlike_paddledetection():
    """PaddleDetection converts to float32 here. The values are the same, and 8-bit images are normalized four times
    faster. Only resizing twice would differ, because of the rounding in between."""
    out = Resize(8, keep_ratio=True)(sample(noise_image(20, 40)), context())
    assert out["image"].dtype == np.uint8


def test_resize_refuses_what_is_no_size_and_no_interpolation():
    with pytest.raises(UserError, match="target_size"):
        Resize([1, 2, 3], keep_ratio=True)
    with pytest.raises(UserError, match="interp 9"):
        Resize(8, keep_ratio=True, interp=9)


def test_random_resize_draws_from_the_list():
    transform = RandomResize([[8, 100], [12, 100]])
    sizes = {transform(sample(noise_image(20, 40)), context(seed))["image"].shape[:2] for seed in range(20)}
    assert sizes == {(8, 16), (12, 24)}


def test_random_resize_draws_the_short_side_from_the_range():
    transform = RandomResize([[8, 100], [12, 100]], random_range=True)
    sizes = {transform(sample(noise_image(20, 40)), context(seed))["image"].shape[0] for seed in range(60)}
    assert sizes == {8, 9, 10, 11, 12}


def test_a_batch_is_resized_to_one_size():
    transform = BatchRandomResize([8, 16, 24], keep_ratio=False, random_interp=True)
    seen = set()
    for seed in range(30):
        batch = transform([sample(noise_image(20, 40)), sample(noise_image(9, 7))], context(seed))
        shapes = {each["image"].shape for each in batch}
        assert len(shapes) == 1
        seen |= shapes
    assert seen == {(8, 8, 3), (16, 16, 3), (24, 24, 3)}


def test_random_sizes_must_be_a_list():
    with pytest.raises(UserError, match="list"):
        BatchRandomResize(320, keep_ratio=False)
    with pytest.raises(UserError, match="list"):
        RandomResize(320)


# ---------------------------------------------------------------- normalization, channels, padding


def test_normalization_by_hand():
    image = np.array([[[255, 0, 51]]], np.uint8)
    out = NormalizeImage()({"image": image}, context())["image"]
    # (1 - .485)/.229 = 2.248908, -.456/.224 = -2.035714, (.2 - .406)/.225 = -.915556
    np.testing.assert_allclose(out[0, 0], [2.248908, -2.035714, -0.915556], atol=1e-6)
    out = NormalizeImage([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], is_scale=False)
    # (255 - 123.675)/58.395 = 2.248909
    assert out({"image": image}, context())["image"][0, 0, 0] == pytest.approx(2.248909, abs=1e-6)
    out = NormalizeImage(norm_type="none")({"image": image}, context())["image"]
    np.testing.assert_allclose(out[0, 0], [1, 0, 0.2], atol=1e-7)


@pytest.mark.parametrize("is_scale", [True, False])
def test_the_table_for_eight_bits_equals_the_arithmetic_bit_for_bit(is_scale):
    image = noise_image(30, 50)
    plain = image.astype(np.float32)
    if is_scale:
        plain *= 1.0 / 255.0
    plain -= np.array([0.485, 0.456, 0.406])  # float64 operands, as in PaddleDetection
    plain /= np.array([0.229, 0.224, 0.225])
    transform = NormalizeImage(is_scale=is_scale)
    for dtype in (np.uint8, np.float32):
        given = image.astype(dtype)
        out = transform({"image": given}, context())["image"]
        np.testing.assert_array_equal(out, plain)
        np.testing.assert_array_equal(given, image)  # the caller's array does not change
        assert out.dtype == np.float32 and out.transpose(2, 0, 1).flags.c_contiguous


def test_normalization_wants_one_value_a_channel():
    with pytest.raises(UserError, match="one value per channel"):
        NormalizeImage(mean=[0.5], std=[0.1, 0.1])
    with pytest.raises(UserError, match="std must not be 0"):
        NormalizeImage(std=[0.1, 0, 0.1])


def test_permute_puts_channels_first():
    image = noise_image(4, 5)
    np.testing.assert_array_equal(Permute()({"image": image}, context())["image"][1], image[..., 1])


def test_a_letterbox_is_a_resize_and_a_pad():
    """20 x 40 fits into 32 x 32 as 16 x 32; the other 16 rows are gray, and boxes are clipped to the 16 rows."""
    given = sample(noise_image(20, 40), [[0, 0, 40, 20]])
    out = Compose([Resize([32, 32], keep_ratio=True), Pad(32, [128, 127, 126])])(given, context())
    assert out["image"].shape == (32, 32, 3) and out["image"].dtype == np.uint8
    assert (out["image"][16:] == [128, 127, 126]).all() and out["image"][:16].std() > 20
    assert out["gt_bbox"].tolist() == [[0, 0, 32, 16]] and out["im_shape"].tolist() == [16, 32]
    with pytest.raises(UserError, match=r"Pad: image .* is 20 x 40, more than 32 x 32; put a Resize"):
        Pad(32)(sample(noise_image(20, 40)), context())


def test_pad_batch_fills_the_bottom_and_the_right_with_zeros():
    images = [np.full((3, 5, 4), 1, np.float32), np.full((3, 2, 7), 2, np.float32)]
    out = PadBatch(4)([{"image": image} for image in images], context())
    for each, image in zip(out, images):  # 5 -> 8 rows, 7 -> 8 columns
        assert each["image"].shape == (3, 8, 8)
        _, h, w = image.shape
        np.testing.assert_array_equal(each["image"][:, :h, :w], image)
        assert each["image"].sum() == image.sum()


def test_pad_batch_without_stride_pads_to_the_largest():
    out = PadBatch()([{"image": np.ones((3, 5, 4))}, {"image": np.ones((3, 2, 7))}], context())
    assert {each["image"].shape for each in out} == {(3, 5, 7)}


def test_the_rows_of_one_array_are_stacked_without_a_copy():
    whole = np.random.default_rng(0).normal(size=(2, 3, 3))
    assert stack(list(whole)) is whole
    first, second = whole
    for rows in ([second, first], [first], [first, first], list(whole[:, ::-1]), [first.T, second.T]):
        out = stack(rows)
        assert out is not whole
        np.testing.assert_array_equal(out, np.array(rows))


# ---------------------------------------------------------------- geometry


def test_flip_by_hand_and_twice():
    given = sample(noise_image(8, 10), [[1, 2, 4, 6]])
    image, box = given["image"].copy(), given["gt_bbox"].copy()
    out = RandomFlip(1.0)(given, context())
    assert out["gt_bbox"].tolist() == [[6, 2, 9, 6]]  # 10 - 4, 10 - 1
    np.testing.assert_array_equal(out["image"], image[:, ::-1])
    out = RandomFlip(1.0)(out, context())
    np.testing.assert_array_equal(out["image"], image)
    np.testing.assert_array_equal(out["gt_bbox"], box)
    assert RandomFlip(1.0)({"image": image}, context())["image"].shape == image.shape  # no boxes


def test_flip_happens_with_its_probability():
    image = np.eye(8)[..., None]
    flips = [RandomFlip(0.25)(sample(image), context(s))["image"][0, 0, 0] == 0 for s in range(400)]
    assert 70 < sum(flips) < 130


def test_shift_by_hand():
    given = sample(noise_image(10, 12), [[1, 1, 4, 4], [8, 0, 11, 2.5], [0, 8, 12, 10]])
    image = given["image"]
    out = RandomShift(1.0, max_shift=8)(given, scripted(0.0, (-2, 3)))  # up 2, right 3
    np.testing.assert_array_equal(out["image"][:8, 3:], image[2:, :9])
    assert not out["image"][8:].any() and not out["image"][:, :3].any()
    # [4, -1, 7, 2], [11, -2, 14, .5] and [3, 6, 15, 8], clipped to 12 x 10; the second is 1 wide: dropped
    assert out["gt_bbox"].tolist() == [[4, 0, 7, 2], [3, 6, 12, 8]]
    assert out["gt_class"].tolist() == [[0], [2]]
    assert len(out["is_crowd"]) == 2  # PaddleDetection leaves this one longer than the boxes


def test_a_shift_that_loses_every_box_does_not_happen():
    """PaddleDetection moves the boxes nevertheless, but not the image, which is a mistake."""
    for boxes in ([[0, 0, 3, 3]], []):
        given = sample(noise_image(10, 12), boxes)
        image, before = given["image"], given["gt_bbox"].copy()
        out = RandomShift(1.0, max_shift=9)(given, scripted(0.0, (-9, -9)))
        assert out["image"] is image
        np.testing.assert_array_equal(out["gt_bbox"], before)


def test_expand_by_hand():
    given = sample(np.full((4, 6, 3), 9, np.uint8), [[1, 1, 3, 3]])
    out = RandomExpand(fill_value=[1, 2, 3])(given, scripted(0.6, 2.5, 5, 7))  # ratio 2.5, y 5, x 7
    assert out["image"].shape == (10, 15, 3) and out["image"].dtype == np.float32
    assert out["image"][0, 0].tolist() == [1, 2, 3]
    assert (out["image"][5:9, 7:13] == 9).all() and (out["image"] == 9).sum() == 4 * 6 * 3
    assert out["gt_bbox"].tolist() == [[8, 6, 10, 8]]


def test_expand_and_distort_skip_with_their_probability_a_quirk_kept():
    image = noise_image(4, 6)
    assert RandomExpand(prob=1.0)(sample(image), context())["image"] is image
    never = [0.5, 1.5, 1.0]
    out = RandomDistort([-18, 18, 1.0], never, never, never)(sample(image), context())
    np.testing.assert_array_equal(out["image"], image)


def test_a_crop_keeps_boxes_whose_center_is_inside():
    boxes = np.array([[0, 0, 6, 6], [0, 0, 3, 3], [4, 4, 8, 8], [4, 4, 9, 9]], np.float32)
    clipped, keep = boxes_in_crop(boxes, Crop(2, 2, 6, 6))
    # centers 3, 1.5, 6 (the far border is outside) and 6.5
    assert keep.tolist() == [True, False, False, False]
    assert clipped[0].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize(
    "options", [{}, {"aspect_ratio": None, "cover_all_box": True}, {"ioumode": "iof"}, {"allow_no_crop": False}]
)
def test_crops_stay_inside_and_move_boxes_with_the_pixels(options):
    crops = 0
    for seed in range(40):
        image = np.zeros((40, 60, 3), np.uint8)
        image[10:30, 20:36] = 255
        given = sample(image, [[20, 10, 36, 30], [50, 30, 58, 38]])
        out = RandomCrop(**options)(given, context(seed))
        height, width = out["image"].shape[:2]
        crops += (height, width) != (40, 60)
        assert 0 < len(out["gt_bbox"]) == len(out["gt_class"]) == len(out["is_crowd"])
        for (x1, y1, x2, y2), label in zip(out["gt_bbox"].astype(int), out["gt_class"][:, 0]):
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            if label == 0:  # the white rectangle
                assert out["image"][y1:y2, x1:x2].all()
    assert crops > 10


def test_the_largest_overlap_must_reach_the_threshold():
    given = sample(noise_image(20, 20), [[0, 0, 20, 20]])
    # scale .5, aspect 1, at the top left: IoU 100/400 < .3, so the crop is refused, and the last try too
    out = RandomCrop(thresholds=[0.3], allow_no_crop=False, num_attempts=2)(
        given, scripted(0.0, [0], 0.5, 1.0, 0, 0, 0.5, 1.0, 0, 0)
    )
    assert out["image"].shape == (20, 20, 3)
    # it reaches a threshold of .2, but the center (10, 10) is outside [0, 10)
    out = RandomCrop(thresholds=[0.2], allow_no_crop=False, num_attempts=1)(given, scripted(0.0, [0], 0.5, 1.0, 0, 0))
    assert out["image"].shape == (20, 20, 3)
    out = RandomCrop(thresholds=[0.2], allow_no_crop=False, num_attempts=1)(given, scripted(0.0, [0], 0.5, 1.0, 5, 4))
    assert out["image"].shape == (10, 10, 3) and out["gt_bbox"].tolist() == [[0, 0, 10, 10]]


def test_cover_all_box_asks_the_same_of_every_box():
    boxes = [[0, 0, 8, 8], [16, 16, 20, 20]]
    draws = (0.0, [0], 0.5, 1.0, 0, 0)  # the top left quarter holds the first box only
    for cover, size in ((False, 10), (True, 20)):
        transform = RandomCrop(thresholds=[0.1], allow_no_crop=False, num_attempts=1, cover_all_box=cover)
        assert transform(sample(noise_image(20, 20), boxes), scripted(*draws))["image"].shape[0] == size


def test_images_without_boxes_are_not_cropped():
    image = noise_image(20, 20)
    assert RandomCrop()(sample(image, []), context())["image"] is image


# ---------------------------------------------------------------- color


def test_color_changes_by_hand():
    image = Image.fromarray(np.array([[[100, 50, 200], [0, 0, 0]]], np.uint8))
    assert np.asarray(color.scale_brightness(image, 1.5))[0, 0].tolist() == [150, 75, 255]
    assert np.asarray(color.scale_brightness(image, -3))[0, 0].tolist() == [0, 0, 0]
    # gray of the first pixel: .299*100 + .587*50 + .114*200 = 82; gray + .5*(value - gray)
    assert np.asarray(color.scale_saturation(image, 0.5))[0, 0].tolist() == [91, 66, 141]
    # mean gray 41: 41 + .5 * (value - 41)
    assert np.asarray(color.scale_contrast(image, 0.5))[0, 1].tolist() == [20, 20, 20]


def test_the_circle_of_hues_is_closed():
    red = Image.new("RGB", (1, 1), (255, 0, 0))  # hue 0
    shifted = np.asarray(color.shift_hue(red, -10.7).convert("HSV"))[0, 0]
    assert shifted[0] in (245, 246)  # 0 - 10 (truncated) = 246; the conversion to RGB and back may subtract one
    np.testing.assert_array_equal(np.asarray(color.shift_hue(red, 0.9)), np.asarray(red))


def test_distortion_in_fixed_order_can_permute_channels():
    image = np.zeros((2, 2, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    never = [0.5, 1.5, 1.0]
    transform = RandomDistort([0, 0, 1.0], never, never, never, random_apply=False, random_channel=True)
    seen = {tuple(transform(sample(image), context(seed))["image"][0, 0]) for seed in range(60)}
    assert len(seen) == 6 and all(sorted(channels) == [10, 20, 30] for channels in seen)


def test_distortion_gives_floats_and_leaves_the_given_image():
    image = noise_image(8, 8)
    before = image.copy()
    for random_apply in (True, False):
        out = RandomDistort(random_apply=random_apply)(sample(image), context(3))["image"]
        assert out.dtype == np.float32 and out.shape == image.shape and (out != image).any()
    np.testing.assert_array_equal(image, before)


# ---------------------------------------------------------------- mixing


def two(first=(2, 3), second=(4, 2)):
    a = sample(np.full((*first, 3), 100, np.uint8), [[0, 0, 2, 2]])
    b = sample(np.full((*second, 3), 200, np.uint8), [[0, 0, 1, 1], [1, 1, 2, 2]])
    return a, lambda: b


def test_mixup_by_hand():
    given, draw = two()
    out = Mixup()(given, scripted(0.25, draw=draw))
    # both: .25*100 + .75*200 = 175; only the first: 25; only the second: 150; neither: 0
    assert out["image"].dtype == np.uint8
    assert out["image"][..., 0].tolist() == [[175, 175, 25], [175, 175, 25], [150, 150, 0], [150, 150, 0]]
    assert out["gt_bbox"].tolist() == [[0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 2, 2]]
    assert out["gt_score"].tolist() == [[0.25], [0.75], [0.75]]
    assert out["gt_class"].tolist() == [[0], [0], [1]] and len(out["is_crowd"]) == 3


def test_cutmix_by_hand():
    given, draw = two((8, 8), (8, 8))
    out = Cutmix()(given, scripted(0.75, 4, 2, draw=draw))  # half the sides, 4 x 4, center x 4, y 2
    expected = np.full((8, 8), 100)
    expected[0:4, 2:6] = 200
    np.testing.assert_array_equal(out["image"][..., 0], expected)
    assert out["gt_score"].tolist() == [[0.75], [0.25], [0.25]]  # boxes stay whole
    assert len(out["gt_bbox"]) == 3


def test_cutmix_can_weigh_by_the_area_that_was_pasted():
    given, draw = two((8, 8), (8, 8))
    out = Cutmix(exact_area=True)(given, scripted(0.75, 0, 0, draw=draw))  # 2 x 2 of 64 remain at the corner
    np.testing.assert_allclose(out["gt_score"][:, 0], [1 - 4 / 64, 4 / 64, 4 / 64])


@pytest.mark.parametrize("mix", [Mixup, Cutmix])
def test_mixing_without_boxes_and_without_a_dataset(mix):
    given, draw = two()
    empty = {**given, **{key: given[key][:0] for key in ("gt_bbox", "gt_class", "is_crowd")}}
    assert len(mix()(empty, context(draw=draw))["gt_score"]) == 2
    image = given["image"]
    assert mix()(given, context())["image"] is image
    with pytest.raises(UserError, match="positive"):
        mix(alpha=0)


# ---------------------------------------------------------------- cutout and grid mask


def test_cutout_covers_a_square_of_the_mean_color_clipped_at_the_border():
    image = np.zeros((8, 12, 3), np.uint8)
    out = Cutout(size=0.5, fill_value=[9, 9, 9])(sample(image), scripted(0.0, 1, 6))  # 4 x 4 at y -1, x 4
    expected = np.zeros((8, 12))
    expected[0:3, 4:8] = 9
    np.testing.assert_array_equal(out["image"][..., 0], expected)
    assert not image.any() and len(out["gt_bbox"]) == 1


def test_grid_stripes_by_hand():
    # two whole periods of 4 in 11, stripes of 2 from 1 on; the rest at the end stays free
    assert "".join("#" if x else "." for x in stripes(11, 4, 2, 1)) == ".##..##...."


def test_grid_mask_by_hand():
    transform = GridMask(prob=1.0, mode=0)
    # 4 x 4: a mask of 6 x 6, period 3, stripes of int(3*.5 + .5) = 2 from row 0 and column 1 on, cut at 1
    keep = transform.mask(4, 4, Scripted(3, (0, 1), 0))
    rows, columns = "##.##."[1:5], ".##.##"[1:5]
    expected = [[r == "." and c == "." for c in columns] for r in rows]
    assert keep.tolist() == expected
    assert (GridMask(mode=1).mask(4, 4, Scripted(3, (0, 1), 0)) == ~keep).all()


def test_grid_masks_probability_grows_with_training_not_with_a_workers_counter():
    """In PaddleDetection, it grows with the number of samples that one worker has drawn, up to `upper_iter`."""
    transform = GridMask(prob=0.8, upper_iter=1)
    hidden = {}
    for progress in (0.0, 0.5, 1.0):
        given = sample(np.ones((16, 16, 3), np.float32))
        hidden[progress] = sum(
            not transform(dict(given), context(seed, progress=progress))["image"].all() for seed in range(200)
        )
    assert hidden[0.0] == 0
    assert 55 <= hidden[0.5] <= 105 and 135 <= hidden[1.0] <= 185  # 0.4 and 0.8 of 200


def test_grid_mask_can_put_noise_where_it_hides():
    out = GridMask(prob=1.0, offset=True)(sample(np.full((16, 16, 3), 5, np.float32)), context(progress=1.0))
    values = out["image"][out["image"] != 5]
    assert len(values) and (np.abs(values) <= 1).all()


# ---------------------------------------------------------------- boxes


def test_relative_boxes_with_center_and_size_then_padding():
    given = sample(np.zeros((20, 40, 3)), [[4, 2, 12, 10], [0, 0, 40, 20]])
    given["gt_score"] = np.array([[0.5], [1]], np.float32)
    given["gt_class"] += 3
    out = NormalizeBox()(given, context())
    np.testing.assert_allclose(out["gt_xyxy_relative"], [[0.1, 0.1, 0.3, 0.5], [0, 0, 1, 1]])
    out = BboxXYXY2XYWH()(out, context())
    np.testing.assert_allclose(out["gt_cxcywh_relative"], [[0.2, 0.3, 0.2, 0.4], [0.5, 0.5, 1, 1]], rtol=1e-6)
    assert "gt_xyxy_relative" not in out
    assert out["gt_bbox"].tolist() == [[4, 2, 12, 10], [0, 0, 40, 20]]  # still pixels
    three = PadBox(3)(dict(out), context())
    for key in ("gt_bbox", "gt_cxcywh_relative"):
        assert three[key].shape == (3, 4) and not three[key][2].any()
    assert three["gt_class"].tolist() == [3, 4, 0] and three["gt_score"].tolist() == [0.5, 1, 0]
    one = PadBox(1)(dict(out), context())
    assert one["gt_bbox"].shape == (1, 4) and one["gt_class"].tolist() == [3]


def test_padding_before_and_after_the_change_of_format_is_the_same():
    """PaddleDetection's configs apply PadBox in between. Both orders give the same boxes."""
    given = sample(np.zeros((20, 40, 3)), [[4, 2, 12, 10]])
    orders = ([PadBox(2), BboxXYXY2XYWH()], [BboxXYXY2XYWH(), PadBox(2)])
    first, second = (Compose([NormalizeBox(), *order])(dict(given), context()) for order in orders)
    np.testing.assert_array_equal(first["gt_cxcywh_relative"], second["gt_cxcywh_relative"])


def test_center_and_size_need_relative_boxes():
    with pytest.raises(UserError, match="BboxXYXY2XYWH: image .* has no relative boxes; put NormalizeBox before it"):
        BboxXYXY2XYWH()(sample(np.zeros((4, 4, 3)), [[0, 0, 2, 2]]), context())
    assert "gt_bbox" not in BboxXYXY2XYWH()({"image": np.zeros((4, 4, 3))}, context())  # images without annotations


def test_no_boxes_are_padded_too():
    out = PadBox(2)(sample(np.zeros((4, 4, 3)), []), context())
    assert out["gt_bbox"].shape == (2, 4) and out["gt_class"].shape == (2,)


# ---------------------------------------------------------------- composition


class Brighten:
    def __call__(self, sample, ctx):
        sample["image"] = sample["image"] + 1
        return sample


class Partner:
    def __call__(self, sample, ctx):
        sample["partner"] = ctx.draw()["image"]
        return sample


class Broken:
    def __call__(self, sample, ctx):
        raise KeyError("depth")


def test_a_drawn_sample_has_gone_through_the_transforms_before():
    ctx = context(draw=lambda: {"image": 10})
    out = Compose([Brighten(), Partner(), Brighten()])({"image": 0}, ctx)
    assert out == {"image": 2, "partner": 11}


def test_an_unforeseen_failure_names_transform_and_image():
    with pytest.raises(TransformError, match=r"Broken failed on image a.jpg \(im_id 3\): KeyError: 'depth'"):
        Compose([Broken()])({"im_file": "a.jpg", "im_id": np.array([3])}, context())


def test_sample_transforms_may_stand_among_batch_transforms():
    samples = [{"image": np.zeros((3, 2, 2))}, {"image": np.zeros((3, 4, 2))}]
    out = apply_to_batch([Brighten(), PadBatch(4)], samples, context())
    assert [each["image"].sum() for each in out] == [12, 24]


def test_the_same_seed_gives_the_same_sample():
    transforms = [RandomDistort(), RandomExpand(), RandomCrop(), RandomFlip(), Cutout()]
    outs = [Compose(transforms)(sample(noise_image(30, 40)), context(5)) for _ in range(2)]
    for key in outs[0]:
        np.testing.assert_array_equal(outs[0][key], outs[1][key])


# ---------------------------------------------------------------- deployment


READER = [Decode(), Resize([32, 48], keep_ratio=True, interp=2), NormalizeImage(), Permute(), PadBatch(32)]
ITEMS = [
    {"type": "Resize", "target_size": [32, 48], "keep_ratio": True, "interp": 2},
    {
        "type": "NormalizeImage",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "is_scale": True,
        "norm_type": "mean_std",
    },
    {"type": "Permute"},
    {"type": "PadStride", "stride": 32},
]


def test_a_readers_transforms_as_a_preprocess_list():
    assert preprocess.to_list(READER) == ITEMS
    fixed = preprocess.to_list(READER, image_shape=[3, 64, 96], fuse_normalize=True)
    padding = {"type": "Pad", "size": [64, 96], "fill_value": [0.0, 0.0, 0.0]}
    assert fixed == [{**ITEMS[0], "target_size": [64, 96]}, padding, {"type": "Permute"}]
    assert preprocess.to_list(READER, image_shape=[3, -1, -1]) == ITEMS
    with pytest.raises(UserError, match="RandomFlip cannot be exported"):
        preprocess.to_list([*READER, RandomFlip()])


def test_deployment_prepares_images_as_evaluation_does(tmp_path):
    image = noise_image(20, 40)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", image))
    inputs = preprocess.from_list(ITEMS)([str(path), noise_image(40, 20, 1)])
    samples = [Compose(READER[:-1])({"image": each}, context()) for each in (image, noise_image(40, 20, 1))]
    samples = PadBatch(32)(samples, context())
    np.testing.assert_array_equal(inputs.image, np.stack([each["image"] for each in samples]))
    assert inputs.image.dtype == np.float32 and inputs.image.shape == (2, 3, 64, 64)
    # min(32/20, 48/40) = 1.2: 24 x 48 and 48 x 24
    assert inputs.im_shape.tolist() == [[24, 48], [48, 24]]
    np.testing.assert_allclose(inputs.scale_factor, 1.2, rtol=1e-6)


def test_deployment_scales_both_sides_alike_where_evaluation_makes_whole_pixels():
    inputs = preprocess.from_list([{"type": "Resize", "target_size": [40, 60]}, {"type": "Permute"}])(
        [noise_image(29, 50)]
    )
    expected = Resize([40, 60], True, one_scale=True)(sample(noise_image(29, 50)), context())
    np.testing.assert_array_equal(inputs.image[0], expected["image"].transpose(2, 0, 1))
    np.testing.assert_allclose(inputs.scale_factor, [[1.2, 1.2]], rtol=1e-6)
    assert inputs.im_shape.tolist() == [[35, 60]]


def test_a_letterbox_in_deployment():
    letterbox = [Resize([32, 32], keep_ratio=True), Pad([32, 32], [128, 128, 128]), NormalizeImage(), Permute()]
    items = preprocess.to_list(letterbox)
    assert items[1] == {"type": "Pad", "size": [32, 32], "fill_value": [128, 128, 128]}
    assert preprocess.to_list(letterbox, image_shape=[3, 64, 64])[1]["size"] == [64, 64]
    inputs = preprocess.from_list(items)([noise_image(20, 40)])
    expected = Compose(letterbox)(sample(noise_image(20, 40)), context())
    np.testing.assert_array_equal(inputs.image[0], expected["image"])
    assert inputs.im_shape.tolist() == [[16, 32]]


def test_deployment_pads_different_sizes_even_without_being_told():
    resize_only = preprocess.from_list([{"type": "Resize", "target_size": 16}, {"type": "Permute"}])
    assert resize_only([noise_image(8, 16), noise_image(16, 8)]).image.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    "item, message",
    [
        ({"type": "WarpAffine"}, "'WarpAffine' in Preprocess; known types are Resize"),
        ({"type": "Resize", "size": 3}, r"Resize has unknown keys \['size'\]"),
        ({"type": "Resize"}, "needs a target_size"),
        ({"type": "Pad"}, "Pad needs a size"),
    ],
)
def test_a_preprocess_list_is_checked(item, message):
    with pytest.raises(UserError, match=f"model.yml: .*{message}"):
        preprocess.from_list([item], source="model.yml")
