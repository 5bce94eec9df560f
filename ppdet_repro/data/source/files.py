"""Checks of the files of a dataset, whose errors say how to fix them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional, Union
from urllib.parse import unquote

from ppdet_repro.data.source.spelling import find_spelling
from ppdet_repro.utils.errors import UserError

MAX_LINE = 4096  # characters in a line of a list, and in a name
NO_CHARACTERS = re.compile("[\0\ud800-\udfff]")


@contextmanager
def files_checked(path: Union[str, os.PathLike], doing: str) -> Iterator[None]:
    """Turn errors of the file system, such as a full disk, into a UserError. `doing` is "read" or "written"."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        fix = "check free space and permissions" if doing == "written" else "check permissions"
        raise UserError(f"{name} cannot be {doing} ({error.strerror or error}): {fix}") from None


def require_file(path: str, fix: str) -> None:
    """Raise UserError, ending in `fix`, unless `path` is a file."""
    if not os.path.isfile(path):
        found = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{path} {found}: {fix}")


def require_folder(path: str, fix: str) -> None:
    """Raise UserError, ending in `fix`, unless `path` is a folder."""
    if not os.path.isdir(path):
        found = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"{path} {found}: {fix}")


def path_inside(folder: str, name: str, where: str) -> str:
    """Join a folder and the name in the entry `where`, which must not lead out. Symbolic links are not resolved."""
    if (os.path.isabs(name) or ".." in name) and (
        os.path.relpath(os.path.join(folder, name), folder or ".").split(os.sep)[0] == os.pardir
    ):
        raise UserError(
            f"{where}: {name!r} leads out of the image folder {folder or '.'}: write names relative to "
            "image_dir, and set image_dir to a folder that contains all images"
        )
    return os.path.join(folder, name)


def find_file(folder: str, name: str, where: str) -> tuple[str, Optional[bool]]:
    """Find the file that the entry `where` names.

    Its name may have back slashes for slashes, quotes, or %20 for a blank, or be spelled otherwise on the disk: see
    `spelling.py`. Returns its path, and whether the name was written in such a way; None if there is no such file.
    UserError if the name leads out of the folder.
    """
    path = path_inside(folder, name, where)
    if os.path.isfile(path):
        return path, False
    plain = name.replace("\\", "/").strip(" \"'")
    for other in dict.fromkeys([plain, unquote(plain)]):
        if other not in ("", name) and is_text(other) and os.path.isfile(path_inside(folder, other, where)):
            return os.path.join(folder, other), True
    spelling = find_spelling(folder, plain) if is_text(plain) and ".." not in plain else None
    return (path, None) if spelling is None else (spelling, True)


def is_text(name: str) -> bool:
    """Whether a name has 1 to `MAX_LINE` characters, among them no NUL, and no half of a surrogate pair as in JSON."""
    return 0 < len(name) <= MAX_LINE and not NO_CHARACTERS.search(name)
