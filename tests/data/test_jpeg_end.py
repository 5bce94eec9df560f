"""JPEGs without an end marker or without all rows, and dark pictures of 16 bits: one rule for all who decode."""

from __future__ import annotations

import io
import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image
from transform_samples import noise_image

from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.transform import decode as decoding
from ppdet_repro.data.transform.decode import NEARLY_BLACK, NO_END, ROWS_MISSING, decode, decode_image, read_image
from ppdet_repro.data.transform.jpeg_end import MISSING_ROWS
from ppdet_repro.utils.errors import UserError
from tests.data.test_decode import jpeg_with_exif

END = b"\xff\xd9"


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


SMOOTH = cv2.resize(noise_image(12, 16), (200, 160), interpolation=cv2.INTER_CUBIC)
KINDS = {
    "baseline": jpeg(SMOOTH),
    "without subsampling": jpeg(SMOOTH, subsampling=0),
    "gray": jpeg(SMOOTH[..., 0]),
    "progressive": jpeg(SMOOTH, progressive=True),
    "sideways": jpeg_with_exif(SMOOTH, 6, jpeg(SMOOTH[:16, :16])),
    "restarts": cv2.imencode(".jpg", SMOOTH, [cv2.IMWRITE_JPEG_RST_INTERVAL, 5])[1].tobytes(),
}


def halved(data: bytes) -> bytes:
    """The bytes without the second half of the last scan."""
    start = data.rindex(b"\xff\xda")
    return data[: start + (len(data) - start) // 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(kind, lost):
    whole = decode(KINDS[kind])
    assert whole.remarks == ()
    cut = decode(KINDS[kind][:-lost])
    np.testing.assert_array_equal(cut.image, whole.image)
    assert cut.remarks == (NO_END,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_jpeg_is_refused(kind):
    with pytest.raises(ValueError, match="is cut off: .* % of its rows are missing or lack detail"):
        decode_image(halved(KINDS[kind]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "progressive"])
def test_a_cut_jpeg_that_has_an_end_marker_is_refused(kind):
    with pytest.raises(ValueError, match="is cut off"):
        decode_image(halved(KINDS[kind]) + END)


def test_bytes_lost_in_the_middle_are_rows_missing_at_the_end():
    data = KINDS["baseline"]
    with pytest.raises(ValueError, match="is cut off"):
        decode_image(data[: len(data) // 2] + data[len(data) // 2 + 400 :])


def test_the_share_of_missing_rows():
    """Rows of noise take the same number of bytes each: half of the bytes are 80 of 160 rows; a row of blocks is 8."""
    noise = np.random.default_rng(0).integers(0, 256, (160, 160), np.uint8)
    data = jpeg(noise)
    with pytest.raises(ValueError) as error:
        decode_image(halved(data))
    share = int(re.search(r"(\d+) %", str(error.value))[1])
    assert 48 <= share <= 56
    with pytest.raises(ValueError, match="100 % of its rows"):  # all rows lack what later scans would add
        decode_image(halved(jpeg(noise, progressive=True)))


def test_the_limit_is_the_users(monkeypatch):
    data = halved(KINDS["baseline"])
    with pytest.raises(ValueError, match=rf"set the environment variable {MISSING_ROWS} to (0\.\d+)$") as error:
        decode_image(data)
    needed = str(error.value).rsplit(" ", 1)[1]
    monkeypatch.setenv(MISSING_ROWS, needed)
    found = decode(data)
    assert found.remarks == (ROWS_MISSING,) and found.image.shape == SMOOTH.shape
    monkeypatch.setenv(MISSING_ROWS, str(float(needed) - 0.02))
    with pytest.raises(ValueError, match="is cut off"):
        decode_image(data)
    for wrong in ("half", "-0.1", "nan", "2"):
        monkeypatch.setenv(MISSING_ROWS, wrong)
        with pytest.raises(UserError, match=rf"{MISSING_ROWS} is '{wrong}': give a number from 0 to 1"):
            decode_image(data)


def test_a_picture_with_a_gray_border_is_whole():
    """Letterboxed pictures often have the same gray as missing rows."""
    image = np.full((160, 200, 3), 128, np.uint8)
    image[:100] = SMOOTH[:100]
    for options in ({}, {"progressive": True}):
        found = decode(jpeg(image, **options))
        assert found.remarks == () and (found.image[-20:] == 128).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_pictures_that_use_12_of_16_bits_are_named_once(suffix, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(decoding, "_warned", [])
    monkeypatch.setattr(decoding.get_logger(), "propagate", True)
    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(0, 2**bits, (20, 30), dtype=np.uint16) for bits in (12, 16))
    for name, image in ("dark", dark), ("again", dark), ("bright", bright), ("black", 0 * dark):
        assert cv2.imwrite(str(tmp_path / f"{name}{suffix}"), image)
        read_image(str(tmp_path / f"{name}{suffix}"))
    assert [record.getMessage().split(" has ")[0] for record in caplog.records] == [str(tmp_path / f"dark{suffix}")]


def test_check_names_them(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    cut = halved(KINDS["baseline"])
    dark = cv2.imencode(".png", np.full((160, 200), 4000, np.uint16))[1].tobytes()
    files = {"no_end.jpg": KINDS["baseline"][:-2], "cut.jpg": cut, "dark.png": dark, "whole.jpg": KINDS["baseline"]}
    entries = []
    for number, (name, data) in enumerate(files.items()):
        (tmp_path / "images" / name).write_bytes(data)
        entries.append({"id": number, "file_name": name, "width": 200, "height": 160})
    box = {"bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0, "category_id": 1}
    boxes = [{"id": n, "image_id": n, **box} for n in range(len(entries))]
    document = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = find_dataset(str(tmp_path / "a.json"), str(tmp_path / "images"))

    def kinds():
        report = check(dataset, decode=True)
        return [found.kind for found in report.notes], sorted(found.kind for found in report.problems)

    unreadable = "file that is no readable image"
    assert kinds() == ([f"file with {NO_END}"], sorted([unreadable, f"file with {NEARLY_BLACK}"]))
    monkeypatch.setenv(MISSING_ROWS, "1")
    assert kinds() == ([f"file with {NO_END}"], sorted([f"file with {ROWS_MISSING}", f"file with {NEARLY_BLACK}"]))
