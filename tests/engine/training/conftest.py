"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest

from ppdet_repro.utils import logger


@pytest.fixture
def logged(caplog, monkeypatch):
    """The messages of the package's logger."""
    monkeypatch.setattr(logger.get_logger(), "propagate", True)
    caplog.set_level("INFO")
    return caplog
