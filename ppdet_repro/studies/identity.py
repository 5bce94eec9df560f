"""What a result depends on, as hashes: a study never mixes results of different code, data or configs."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from ppdet_repro.core.config import Config
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.packaged import PACKAGE

NOT_IN_TRAINING = (
    "cli",
    "runtime",
    "serve",
    "studies",
    "configs",
)  # folders of the package; configs have their own hash
OF_A_RUN = ("seed", "save_dir", "filename", "weights")  # keys of a config that differ between the runs of a row
DATASETS = ("TrainDataset", "EvalDataset")
NAMES = {"code": "the package's sources", "paddle": "Paddle's version", "data": "the data", "config": "the config"}

Identity = Dict[str, str]


def digest(parts: Sequence[bytes]) -> str:
    """The start of the SHA-256 of several parts with their lengths."""
    total = hashlib.sha256()
    for part in parts:
        total.update(b"%d:" % len(part))
        total.update(part)
    return total.hexdigest()[:16]


def code_hash(package: Path = PACKAGE) -> str:
    """The hash of the sources of the package that take part in training and evaluation."""
    files = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in NOT_IN_TRAINING]
    names = {path.relative_to(package).as_posix(): path for path in files}
    return digest([part for name in sorted(names) for part in (name.encode(), names[name].read_bytes())])


def paddle_version() -> str:
    """The version of the installed Paddle, without importing it."""
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def config_hash(cfg: Config) -> str:
    """The hash of a config with its bases and overrides, but for what differs between the runs of a row. Where the data
    are does not count either; `data_hash` has what they are."""
    content = {key: value for key, value in cfg.document.plain().items() if key not in OF_A_RUN}
    for section in (content.get(name) for name in (*DATASETS, "TestDataset")):
        for part in parts_with("dataset_dir", section):
            part.pop("dataset_dir")
    return digest([json.dumps(content, sort_keys=True, default=str).encode()])


def data_hash(cfg: Config) -> str:
    """The hash of the annotation files of a config's training and validation sets. UserError if one is missing."""
    content = cfg.document.plain()
    files = [file for name in DATASETS for file in annotation_files(content.get(name))]
    try:
        return digest([part for file in files for part in (file.name.encode(), file.read_bytes())])
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; give the folder of the dataset with --data") from error


def annotation_files(section: Any) -> List[Path]:
    """The annotation files of a dataset's section; for a list of VOC files, also all XML files beside it."""
    files: List[Path] = []
    for part in parts_with("anno_path", section):
        folder = Path(part.get("dataset_dir") or "")
        named = part["anno_path"]
        files += [folder / name for name in (named if isinstance(named, list) else [named])]
        if any(file.suffix == ".txt" for file in files):
            files += sorted((folder / "Annotations").glob("*.xml"))
    return files


def parts_with(key: str, value: Any) -> Iterator[Dict[str, Any]]:
    """The mappings inside a value that have a key."""
    if isinstance(value, dict):
        if value.get(key):
            yield value
        for item in list(value.values()):
            yield from parts_with(key, item)
    elif isinstance(value, list):
        for item in value:
            yield from parts_with(key, item)


def changed(now: Identity, then: Identity) -> List[str]:
    """What differs between two identities, in words."""
    return [words for key, words in NAMES.items() if now.get(key) != then.get(key)]
