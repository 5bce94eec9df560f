"""The program that decodes images for the server, in a process of its own: see decoding.py.

    python -m ppdet_repro.serve.decoding_process CONNECTION MEMORY MAX_PIXELS

The first two arguments are file descriptors: of a connection on which the bytes of files come, and of shared memory for
the pixels. An answer is JSON: the height and width of the image, or the reason and status of a refusal.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Dict, Union

import cv2
import numpy as np

from ppdet_repro.data.transform.decode import TooManyPixels, decode_image
from ppdet_repro.serve.limits import Refusal
from ppdet_repro.utils.image_header import header_size

FREE_BYTES, BYTES_PER_PIXEL = 64 << 20, 15  # of memory; a progressive JPEG with a gray corner takes 12 per pixel
FREE_SECONDS, SECONDS_PER_PIXEL = 1.0, 2e-7  # of the processor
MAX_SCANS = 100  # of a JPEG: each can take as much time as the whole image; usual ones have up to 20
START_OF_SCAN = b"\xff\xda"
UNLIMITED = resource.RLIM_INFINITY


def main() -> None:
    connection, file, max_pixels = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    pixels = np.frombuffer(mmap.mmap(file, 3 * max_pixels), np.uint8)
    cv2.setNumThreads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write warnings about each damaged image
    budget = Budget()
    connection.send_bytes(b"ready")
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        budget.start(data, max_pixels)
        try:
            image = decode(data, max_pixels)
            np.copyto(pixels[: image.size], image.reshape(-1))
            answer: Dict[str, Union[int, str]] = {"height": image.shape[0], "width": image.shape[1]}
            del image
        except Refusal as refusal:
            answer = {"status": refusal.status, "reason": str(refusal)}
        budget.stop()
        connection.send_bytes(json.dumps(answer).encode())


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """Decode the bytes of a file to RGB [H, W, 3] uint8. Refusal if they are not an image, or one that is too large."""
    if data.startswith(b"\xff\xd8") and data.count(START_OF_SCAN) > MAX_SCANS:
        raise Refusal(413, f"the image is a JPEG of more than {MAX_SCANS} scans")
    try:
        image = decode_image(data, max_pixels)
    except TooManyPixels as error:
        size = f"{error.size.width} x {error.size.height} pixels" if error.size else "too large"
        raise Refusal(413, f"the image is {size}; at most {max_pixels / 1e6:g} million pixels are allowed") from error
    except ValueError as error:
        if isinstance(error.__cause__, cv2.error) and error.__cause__.code == cv2.Error.StsNoMem:
            raise Refusal(413, "the image takes more memory than its size allows") from error
        raise Refusal(415, f"the upload {error}") from error
    except MemoryError as error:
        raise Refusal(413, "the image takes more memory than its size allows") from error
    if image.size > 3 * max_pixels:
        raise Refusal(413, f"the image has more than the {max_pixels / 1e6:g} million pixels that are allowed")
    return image


class Budget:
    """Memory and processor time of one decoding, by the size in the image's header.

    Allocations above it fail; the system ends the process with SIGPROF after its time. On systems other than Linux only
    the time is limited.
    """

    def __init__(self) -> None:
        self.used = private_memory()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def start(self, data: bytes, max_pixels: int) -> None:
        """Limit the process before it decodes `data`."""
        size = header_size(data)
        pixels = max_pixels if size is None else min(size.pixels, max_pixels)
        self._limit(
            FREE_SECONDS + SECONDS_PER_PIXEL * pixels, self.used + FREE_BYTES + len(data) + BYTES_PER_PIXEL * pixels
        )

    def stop(self) -> None:
        """Remove the limits."""
        self._limit(0, UNLIMITED)

    def _limit(self, seconds: float, memory: int) -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        if self.used:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, UNLIMITED))


def private_memory() -> int:
    """The bytes that Linux counts for RLIMIT_DATA; 0 on another system."""
    status = Path("/proc/self/status")
    found = re.search(r"VmData:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    main()
