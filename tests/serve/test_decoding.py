"""The process that decodes uploads: what it returns, and what happens when it ends or takes too much."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
from png_bomb import png_bomb

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from live import image

from ppdet_repro.cli.serve import run
from ppdet_repro.data.transform.decode import decode_image
from ppdet_repro.data.transform.jpeg_end import MISSING_ROWS
from ppdet_repro.serve import decoding
from ppdet_repro.serve.decoding import DecodingProcess
from ppdet_repro.serve.decoding_process import MAX_SCANS, START_OF_SCAN
from ppdet_repro.serve.limits import Refusal
from ppdet_repro.utils.errors import UserError

MAX_PIXELS = 1_000_000


@pytest.fixture(scope="module")
def decoder():
    process = DecodingProcess(MAX_PIXELS, timeout=20)
    yield process
    process.close()


@pytest.fixture(scope="module")
def broken():
    """A process whose decoder does harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PROGRAM", "broken_decoder")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        process = DecodingProcess(MAX_PIXELS, timeout=20)
        yield process
        process.close()


def refusal(decoder, data):
    with pytest.raises(Refusal) as caught:
        decoder(data)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_pixels_are_those_of_the_decoder(decoder, suffix):
    picture = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
    data = cv2.imencode(suffix, picture)[1].tobytes()
    np.testing.assert_array_equal(decoder(data), decode_image(data))


def test_an_image_of_the_largest_size_is_decoded(decoder):
    picture = decoder(image(1000, 1000))
    assert picture.shape == (1000, 1000, 3) and np.unique(picture).tolist() == [90]
    assert decoder(image(2, 3)).shape == (2, 3, 3)


def test_the_memory_of_a_large_image_is_released(decoder, monkeypatch):
    monkeypatch.setattr(decoding, "KEPT", 100_000)
    used = []
    for side in (1000, 10, 1000, 10):
        decoder(image(side, side))
        used.append(512 * os.fstat(decoder._file).st_blocks)
    assert min(used[0], used[2]) >= 3_000_000 and max(used[1], used[3]) < 100_000


@pytest.mark.parametrize(
    "data, status, reason",
    [
        (b"text", 415, "the upload is not an image"),
        (image()[:-20], 415, "the upload is"),
        (image(suffix=".jpg")[:-20], 415, "the upload is cut off"),
        (image(1000, 1001), 413, "the image is 1001 x 1000 pixels; at most 1 million pixels are allowed"),
        (png_bomb(60000, 60000), 413, "the image is 60000 x 60000 pixels"),
        (image(suffix=".jpg") + START_OF_SCAN * MAX_SCANS, 413, f"the image is a JPEG of more than {MAX_SCANS} scans"),
    ],
    ids=["text", "cut off png", "cut off jpeg", "large", "bomb", "scans"],
)
def test_what_is_not_an_image_or_too_large_is_refused(decoder, data, status, reason):
    found, text = refusal(decoder, data)
    assert found == status and text.startswith(reason)


@pytest.mark.parametrize(
    "data, status, reason",
    [
        (b"crash", 415, "the upload is a damaged image, at which the decoder crashed"),
        (b"time", 413, "the image takes more time to decode than its size allows"),
        pytest.param(
            b"memory", 413, "the image takes more memory than its size allows",
            marks=pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory is limited on Linux"),
        ),
    ],
)  # fmt: skip
def test_harm_to_the_process_is_a_refusal_and_the_next_image_is_decoded(broken, data, status, reason):
    child = broken._process
    assert refusal(broken, data) == (status, reason)
    assert child.poll() == {b"crash": -signal.SIGSEGV, b"time": -signal.SIGPROF, b"memory": None}[data]
    assert broken._process is not None  # it gets ready before the next image comes
    assert broken(image()).shape == (40, 60, 3)


def test_a_process_that_does_not_answer_is_ended(broken, monkeypatch):
    monkeypatch.setattr(broken, "timeout", 0.05)
    assert refusal(broken, b"sleep")[0] == 413
    monkeypatch.undo()
    assert broken(image()).shape == (40, 60, 3)


def test_a_process_that_cannot_be_started_is_the_servers_fault(monkeypatch):
    monkeypatch.setattr(decoding, "PROGRAM", "absent_decoder")
    process = DecodingProcess(MAX_PIXELS, timeout=20)
    assert refusal(process, image())[0] == 503
    monkeypatch.undo()
    assert process(image()).shape == (40, 60, 3)
    process.close()


def test_the_process_ends_with_the_server():
    process = DecodingProcess(MAX_PIXELS, timeout=20)
    process(image())
    child = process._process
    process.close()
    assert child.poll() == 0


def test_the_process_is_not_started_anew_for_an_image(decoder):
    child = decoder._process.pid
    for data in (image(), image(30, 30)):
        decoder(data)
        assert decoder._process.pid == child


def test_an_invalid_share_of_missing_rows_ends_the_start_of_the_server(monkeypatch):
    monkeypatch.setenv(MISSING_ROWS, "half")
    with pytest.raises(UserError, match=f"{MISSING_ROWS} is 'half'"):
        run(Namespace())
