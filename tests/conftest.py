"""Fixtures of several folders, and what keeps the workers of pytest-xdist out of each other's way.

Before any test imports Paddle, the package prepares the process (threads, MKL).
"""

import ctypes
import functools
import gc
import inspect
import os
from pathlib import Path

import pytest

import ppdet_repro  # noqa: F401
from ppdet_repro.utils.logger import get_logger

# Paddle 2.6 asks for the callers of many operators that it traces, of which it needs file and line. With the lines of
# source around each of them, which are looked for in all modules, exports take half as long again.
inspect.stack = functools.partial(inspect.stack, context=0)

GROWTH = 200e6  # bytes that a process may grow by until it gives memory back
resident_before = 0.0


@pytest.fixture
def logged(caplog, monkeypatch):
    """The messages of the package's logger.

    It propagates from the setup of a test on: pytest 9 also listens to loggers that do not propagate when a phase of a
    test begins, and would record each message twice.
    """
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level("INFO")
    return caplog


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """After a test with which the process has grown, the memory that nobody uses goes back to the system: the C library
    keeps the freed blocks of predictors, which made a process of all tests 10 GB large."""
    global resident_before
    result = yield
    if resident() > resident_before + GROWTH:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
        if trim is not None:
            trim(0)
        resident_before = resident()
    return result


def resident() -> float:
    """The bytes of this process that are in memory; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return float(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0.0
