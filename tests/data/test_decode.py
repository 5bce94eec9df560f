"""Decoding of image files and of bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from transform_samples import context, encoded, noise_image

from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.jpeg_end import find_end


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


def test_the_end_of_a_jpeg_is_that_behind_its_scan():
    thumbnail = encoded(".jpg", noise_image(8, 8))
    whole = jpeg_with_exif(noise_image(32, 32), 1, thumbnail)
    for data in (whole, whole + b"camera's trailing bytes", whole[:-1], whole[:-2]):
        stream = find_end(data, 1024)
        assert stream.with_end() == whole and stream.ends == (len(data) >= len(whole)) and not stream.progressive
    cut = find_end(whole[:-99], 1024)  # the end marker of the thumbnail does not count
    assert not cut.ends and cut.with_end() == whole[:-99] + b"\xff\xd9"
    with pytest.raises(ValueError, match="is cut off"):
        find_end(whole[: whole.rindex(b"\xff\xda")], 1024)


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("missing.jpg", None, "cannot be read"),
        ("empty.jpg", b"", "empty"),
        ("page.jpg", b"<html>not found</html>", "not an image"),
        ("half.jpg", encoded(".jpg", noise_image(64, 64))[:900], "cut off"),
        ("half.png", encoded(".png", noise_image(64, 64))[:900], "cut off"),
        ("half.bmp", encoded(".bmp", noise_image(64, 64))[:900], "not an image, or is damaged"),
    ],
)
def test_broken_files_are_named(tmp_path, name, data, reason):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ImageError) as error:
        Decode()({"im_file": str(path), "im_id": np.array([42])}, context())
    assert name in str(error.value) and "im_id 42" in str(error.value) and reason in str(error.value)
