"""The manifest of an exported model, manifest.json: what its files were when they were exported.

| key               | value                                                                                        |
|-------------------|----------------------------------------------------------------------------------------------|
| format            | 1                                                                                            |
| name              | the config's name                                                                            |
| files             | bytes and SHA-256 of every other file of the folder, by name                                 |
| inputs, outputs   | name, shape (-1 for a free size) and type of each input and output of the network            |
| versions          | of the programs that wrote the export                                                        |
| config            | the config with its bases and overrides; null if it is not known                             |

It finds damage, such as a changed bit or an incomplete copy. It is no signature: who changes a file on purpose can
change the manifest, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from ppdet_repro import __version__
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

MANIFEST = "manifest.json"
FORMAT = 1
MAX_BYTES = 1 << 20  # of a manifest; one has about 10,000
MAX_FILES = 1000
CHUNK = 1 << 20
SHA256 = re.compile("[0-9a-f]{64}")
AGAIN = "copy or export the model again"
ACCEPT = f"after a change on purpose, delete {MANIFEST}"

Signature = Dict[str, List[Dict[str, Any]]]  # inputs and outputs, see the table above


class Entry(NamedTuple):
    """What a file was."""

    bytes: int
    sha256: str


def write_manifest(
    folder: Path, name: str, config: Optional[Mapping[str, Any]], signature: Signature, tools: Sequence[str] = ()
) -> None:
    """Write the manifest of the files in a folder. OSError if that fails.

    Args:
        folder: The export, complete.
        name, config: Of the exported model, see the table of the module.
        signature: The network's inputs and outputs.
        tools: The packages, by the names with which pip installs them, whose versions belong into the manifest.
    """
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST and path.is_file())
    content = {
        "format": FORMAT,
        "name": name,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files},
        **signature,
        "versions": {"ppdet_repro": __version__, "python": platform.python_version(), **versions(tools)},
        "config": config,
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Optional[Dict[str, Any]]:
    """The manifest of an export; None if it has none. UserError if it cannot be read or has an unknown format."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"not a file of at most {MAX_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or type(content.get("format")) is not int:
            raise ValueError("not an object with a format")
    except OSError as error:
        raise UserError(f"{path}: cannot read the manifest: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "too many levels" if isinstance(error, RecursionError) else str(error)[:200]
        raise UserError(f"{path}: damaged, or not the manifest of an export ({reason}); {AGAIN}; {ACCEPT}") from error
    if content["format"] != FORMAT:
        number = reprlib.repr(content["format"])
        raise UserError(f"{path}: format {number} is unknown here; install a newer ppdet-repro")
    return content


def check_files(network: Sequence[Path], config: Path) -> bool:
    """Whether the files of a network are known to be those that were exported, by the manifest beside them.

    Args:
        network: The files that an engine reads.
        config: The infer_cfg.yml. People edit it: a log line says that it differs.

    Returns:
        False, after a log line, if there is no manifest, or if it does not list one of the files.

    Raises:
        UserError: A file or the manifest is damaged.
    """
    folder = config.parent
    content = read_manifest(folder)
    if content is None:
        get_logger().info(f"{folder} has no {MANIFEST}, so its files cannot be checked for damage")
        return False
    entries = entries_of(content, folder / MANIFEST)
    for path in network:
        if path.name in entries and (difference := differs(path, entries[path.name])):
            raise UserError(f"{path} is not what was exported: {difference}; {AGAIN}; {ACCEPT}")
    if config.name in entries and config.is_file() and differs(config, entries[config.name]):
        get_logger().info(f"{config} was edited after the export")
    unlisted = [path.name for path in network if path.name not in entries]
    if unlisted:
        get_logger().info(f"{folder / MANIFEST} does not list {unlisted[0]}, so it cannot be checked for damage")
    return not unlisted


def entries_of(content: Mapping[str, Any], path: Path) -> Dict[str, Entry]:
    """The files that a manifest lists. UserError, which names its `path`, if an entry has wrong types."""
    files = content.get("files")
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise UserError(f"{path}: 'files' must be an object of at most {MAX_FILES} files; {AGAIN}; {ACCEPT}")
    entries = {}
    for name, item in files.items():
        known = item if isinstance(item, dict) else {}
        size, digest = known.get("bytes"), known.get("sha256")
        if type(size) is not int or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            wrong = f"{reprlib.repr(name)} must have bytes and sha256, got {reprlib.repr(item)}"
            raise UserError(f"{path}: {wrong}; {AGAIN}; {ACCEPT}")
        entries[name] = Entry(size, digest)
    return entries


def differs(path: Path, entry: Entry) -> str:
    """What is different about a file, in words; empty if nothing is. UserError if it cannot be read."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"it has {size:,} bytes, {MANIFEST} expects {entry.bytes:,}"
        found = sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file: {error.strerror}") from error
    if found != entry.sha256:
        return f"its SHA-256 begins with {found[:12]}, {MANIFEST} expects {entry.sha256[:12]}"
    return ""


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def versions(packages: Sequence[str]) -> Dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
