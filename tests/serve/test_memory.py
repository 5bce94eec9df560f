"""The memory of freed arrays goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import re, sys
import numpy as np
from ppdet_repro.serve.memory import return_large_allocations

def used():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024  # MB

if sys.argv[1] == "fixed":
    return_large_allocations()
np.ones(30 << 20, np.uint8)  # glibc raises its threshold when this is freed
before = used()
arrays, small = [], []
for _ in range(8):
    arrays.append(np.ones(8 << 20, np.uint8))
    small.append(bytes(100_000))  # lies behind the array
del arrays
print(used() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_memory_of_freed_arrays_is_returned():
    grown = {}
    for mode in ("fixed", "as usual"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        grown[mode] = float(done.stdout)
    assert grown["fixed"] < 8
    assert grown["as usual"] > 30  # if this fails, the module is not needed any more
