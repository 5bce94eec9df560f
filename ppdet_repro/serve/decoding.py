"""Decodes uploads in a process of its own, so that a hostile file can harm no other request.

The process has a limit of memory and of time for each image. If it ends, the server answers that request with a refusal
and starts another process. Pixels come back in shared memory.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Optional

import numpy as np

from ppdet_repro.serve.limits import Refusal
from ppdet_repro.utils import picture_limit

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "ppdet_repro.serve.decoding_process"
START_SECONDS = 60.0  # until a new process is ready
SHORT = 64 * 1024  # bytes; more than any answer
KEPT = 16 << 20  # bytes of shared memory that stay in use after an image


class DecodingProcess:
    """Decodes the bytes of image files. It is for one thread. `timeout` is the limit in seconds by the clock."""

    def __init__(self, max_pixels: int, timeout: float):
        self.max_pixels = max_pixels
        self.timeout = timeout
        self._file = shared_file(3 * max_pixels)
        self._pixels = np.frombuffer(mmap.mmap(self._file, 3 * max_pixels), np.uint8)
        self._used = 0  # bytes of the shared memory
        self._process: Optional[subprocess.Popen] = None
        self._is_ready = False
        self._start()

    def __call__(self, data: bytes) -> np.ndarray:
        """Decode to RGB [H, W, 3] uint8, which is valid until the next call. Refusal if it is not an image, too large,
        or one that ends the process."""
        if self._process is None:
            self._start()
        if self._used > KEPT:
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, 3 * self.max_pixels)
        self._used = 3 * self.max_pixels  # at most
        try:
            if not self._is_ready:
                self._receive(START_SECONDS)
                self._is_ready = True
            self._connection.send_bytes(data)
            answer = json.loads(self._receive(self.timeout))
        except (EOFError, OSError) as error:
            raise self._failure() from error
        if "status" in answer:
            self._used = 0
            raise Refusal(answer["status"], answer["reason"])
        height, width = answer["height"], answer["width"]
        self._used = 3 * height * width
        return self._pixels[: self._used].reshape(height, width, 3)

    def close(self) -> None:
        """End the process and release the memory."""
        self._end()
        os.close(self._file)

    def _start(self) -> None:
        """Start a process. It gets ready while this one goes on."""
        self._connection, theirs = Pipe()
        files = [theirs.fileno(), self._file]
        command = [sys.executable, "-m", PROGRAM, *map(str, files), str(self.max_pixels)]
        paths = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            picture_limit.VARIABLE: str(self.max_pixels),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(  # in a session of its own: Ctrl-C is for the server, which then ends it
            command, pass_fds=files, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._is_ready = False

    def _receive(self, seconds: float) -> bytes:
        if not self._connection.poll(seconds):
            raise TimeoutError
        return self._connection.recv_bytes(SHORT)

    def _failure(self) -> Refusal:
        """The refusal of the image on which the process ended, or takes too long. Starts a new process."""
        code, was_ready = self._end(), self._is_ready
        if not was_ready:
            return Refusal(503, "the server cannot start the process that decodes images")
        self._start()
        if code in (-signal.SIGPROF, None):
            return Refusal(413, "the image takes more time to decode than its size allows")
        return Refusal(415, "the upload is a damaged image, at which the decoder crashed")

    def _end(self) -> Optional[int]:
        """End the process. Returns its exit code if it has ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        self._connection.close()
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def shared_file(size: int) -> int:
    """The descriptor of a file in memory, which takes no memory until it is written. On systems other than Linux it is
    a temporary file."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("ppdet_repro_pixels", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
