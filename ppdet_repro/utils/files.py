"""Files and folders that appear whole or not at all.

Everything is written under a temporary name in the same folder, flushed to the disk and renamed. A
process that is killed leaves at most a hidden temporary (see `remove_leftovers`), never half a file under
a final name.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

SUFFIX = ".tmp"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write; it replaces `path` at the end of the block, or is dropped if that raises."""
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `path` at the end of the block, or is dropped if that raises.

    A folder that is there already is replaced; killed in between, neither is there.
    """
    temporary, replaced = _temporary(path), path.with_name(f".{path.name}.replaced{SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync_folder(temporary)
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporaries that killed writers left. Nobody else may be writing into the folder."""
    for entry in folder.glob(f".*{SUFFIX}"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")


def _sync_folder(folder: Path) -> None:
    """Write the folder's list of names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
