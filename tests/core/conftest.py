"""What all tests of the config system share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, so messages name files as a user types them."""
    monkeypatch.chdir(tmp_path)
