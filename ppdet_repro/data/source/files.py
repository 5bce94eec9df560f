"""Checks of the files of a dataset, whose errors say how to fix them."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Union

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


def require_images(files: Sequence[str], names: Iterable[str], where: str) -> None:
    """Raise one UserError for all missing files. `names` tell which image each file is, such as "image id 7"."""
    missing = [(name, path) for name, path in zip(names, files) if not os.path.isfile(path)]
    if missing:
        name, path = missing[0]
        count = f"{len(missing)} of {len(files)} images are missing, first " if len(missing) > 1 else ""
        raise UserError(
            f"{where}: {count}{name}: {path} does not exist: set dataset_dir and image_dir, or remove the "
            "entry ('ppdet-repro data check' lists them all)"
        )


def is_text(name: str) -> bool:
    """Whether a name has 1 to `MAX_LINE` characters, among them no NUL, and no half of a surrogate pair as in JSON."""
    return 0 < len(name) <= MAX_LINE and not NO_CHARACTERS.search(name)


def read_lines(path: str) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not blank, without spaces around them, and their numbers from 1.

    UserError if the file is not text in UTF-8, or a line is no name: it is too long or contains a NUL character.
    """
    with files_checked(path, "read"), open(path, "rb") as file:
        data = file.read()
    try:
        lines = io.StringIO(data.decode("utf-8-sig"), newline=None)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{number}: not text in UTF-8 ({error.reason}): convert the file to UTF-8") from None
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if not is_text(line):
            raise UserError(f"{path}:{number}: {line[:40]!r} is not a name: it has NUL characters or over {MAX_LINE}")
    return found


def read_label_list(path: str) -> list[str]:
    """Read class names from a text file, one per line. A leading "background" is left out."""
    require_file(path, "give a text file with one class name per line")
    names = [line for _, line in read_lines(path)]
    if names and names[0] == "background":
        names = names[1:]
    if not names:
        raise UserError(f"{path} names no class: write one name per line")
    twice = sorted(name for name, number in Counter(names).items() if number > 1)
    if twice:
        raise UserError(f"{path} names {twice[0][:MAX_LINE]!r} more than once: remove the repetition")
    return names
