"""The folder below which results are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """A folder of this package in the user's folder for caches, by the rules of freedesktop.org. It may not exist, or,
    for a user without a home, be impossible to create."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(os.devnull)
    return base / "ppdet_repro" / name
