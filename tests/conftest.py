"""Fixtures of several folders. Before any test imports Paddle, the package prepares the process (threads, MKL)."""

import pytest

import ppdet_repro  # noqa: F401
from ppdet_repro.utils.logger import get_logger


@pytest.fixture
def logged(caplog, monkeypatch):
    """The messages of the package's logger.

    It propagates from the setup of a test on: pytest 9 also listens to loggers that do not propagate when a phase of a
    test begins, and would record each message twice.
    """
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level("INFO")
    return caplog
