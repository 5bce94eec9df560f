"""Checks of the files of a dataset, whose errors say how to fix them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Union

from ppdet_repro.utils.errors import UserError


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


def read_label_list(path: str) -> list[str]:
    """Read class names from a text file, one per line. A leading "background" is left out."""
    require_file(path, "give a text file with one class name per line")
    with files_checked(path, "read"), open(path, encoding="utf-8-sig") as file:
        names = [line.strip() for line in file if line.strip()]
    if names and names[0] == "background":
        names = names[1:]
    if not names:
        raise UserError(f"{path} names no class: write one name per line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} names {twice[0]!r} more than once: remove the repetition")
    return names
