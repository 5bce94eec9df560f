"""Writes files and folders completely or not at all.

Everything is written under a temporary name in the same folder, flushed to the disk and then renamed. A process that
is killed leaves at most a hidden temporary file (see `remove_leftovers`), never half a file under its final name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Sequence, Union

from ppdet_repro.utils.errors import UserError

SUFFIX = ".tmp"
MAX_PATH = 4096  # bytes, on Linux
CHUNK = 1 << 20  # bytes that are read at a time


def user_path(text: Union[str, Path]) -> Path:
    """The path that a user wrote, in which `~` is a home folder. UserError if no path can have such a name."""
    try:
        if len(os.fsencode(text)) > MAX_PATH or "\0" in str(text):
            raise ValueError(f"it has more than {MAX_PATH} bytes or a NUL character")
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{str(text)!r} is not a path: there is no such user") from None
    except ValueError as error:  # also half of a surrogate pair
        raise UserError(f"{str(text)[:100]!r} is not a path: {error}") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing. It replaces `path` at the end of the block, unless the block raises."""
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


def write_output(path: Path, data: bytes) -> None:
    """Write a file, and create its folder if needed. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def make_output_dir(folder: Path) -> None:
    """Create the folder of a flag `--output_dir` if needed. UserError: no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; give another --output_dir") from error


def check_output_dir(
    folder: Union[str, Path], names: Sequence[str], inputs: Sequence[str], input_dir: Optional[str] = None
) -> None:
    """Raise a UserError if files `names` in the output folder would replace one of the input files, or if the folder is
    the folder of the inputs or inside it, so that the next run would take results for inputs. Links are followed."""
    output = os.path.realpath(folder)
    if input_dir is not None:
        top = os.path.realpath(input_dir)
        if os.path.commonpath([output, top]) == top:
            raise UserError(f"--output_dir {folder} is inside {input_dir}, the folder of the inputs: give another one")
    originals = {os.path.realpath(file): file for file in inputs}
    for name in names:
        replaced = originals.get(os.path.realpath(os.path.join(output, name)))
        if replaced is not None:
            raise UserError(f"--output_dir {folder}: a result would replace the input {replaced}; give another one")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder. It replaces the folder `path` at the end of the block, unless the block raises.

    A process that is killed during the replacement can leave neither the old nor the new folder at `path`.
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
    """Delete what killed processes left in a folder. No other process may be writing into it."""
    for entry in folder.glob(f".*{SUFFIX}"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_utf8(path: str) -> None:
    """UserError if the name of a video is not UTF-8: OpenCV ends the process with such a name."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: OpenCV opens no video whose name is not UTF-8; rename the file or folder") from None
