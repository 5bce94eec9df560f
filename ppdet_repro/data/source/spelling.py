"""Finds files whose names on the disk are written otherwise than in a dataset.

Windows and macOS do not tell IMG.JPG from img.jpg, macOS splits letters from their accents, and archives made on
Chinese Windows unpack on Linux with names in GBK.
"""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from typing import Optional


def find_spelling(folder: str, name: str) -> Optional[str]:
    """Find the path of the one file in `folder` whose relative name is read as `name`; None if there is none, or two.

    Capital and small letters, composed and decomposed accents, and the encodings UTF-8 and GBK are not told apart.
    """
    path = folder
    for part in name.replace(os.sep, "/").split("/"):
        if part in ("", "."):
            continue
        exact = os.path.join(path, part)
        if not os.path.exists(exact):
            others = _names(path or ".", _changed(path or ".")).get(_key(part), [])
            if len(others) != 1:
                return None
            exact = os.path.join(path, others[0])
        path = exact
    return path if os.path.isfile(path) else None


def readable(name: str) -> str:
    """Return a file's name as text: one that is not UTF-8 is read as GBK, or else with escapes."""
    try:
        data = os.fsencode(name)
        data.decode()
        return name
    except UnicodeEncodeError:  # half of a surrogate pair, which no file name has
        return name
    except UnicodeDecodeError:
        try:
            return data.decode("gb18030")
        except UnicodeDecodeError:
            return data.decode(errors="backslashreplace")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", readable(name)).casefold()


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _names(folder: str, changed: int) -> dict[str, list[str]]:
    """The names in a folder by their keys. `changed` is the time at which the folder was changed."""
    found: dict[str, list[str]] = {}
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        found.setdefault(_key(name), []).append(name)
    return found
