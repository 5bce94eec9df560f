"""The decoding process with a decoder that does harm for some inputs."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from ppdet_repro.serve import decoding_process

decode_well = decoding_process.decode_image


def decode_image(data, max_pixels):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"memory":
        np.ones(300 << 20, np.uint8)
    if data == b"sleep":
        time.sleep(60)
    while data == b"time":
        pass
    return decode_well(data, max_pixels)


if __name__ == "__main__":
    decoding_process.decode_image = decode_image
    decoding_process.FREE_SECONDS = 0.2
    decoding_process.main()
