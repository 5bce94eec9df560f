"""An export with the file names that FastDeploy expects."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

from ppdet_repro.runtime.manifest import MANIFEST
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger


def export_for_fastdeploy(export: Callable[[str], Path], output_dir: str) -> None:
    """Export a model into the folder `output_dir` itself, as inference.pdmodel or inference.json,
    inference.pdiparams, inference.yml and manifest.json, as PaddleDetection's --for_fd does.

    `export` writes a new folder below the one that it is given, and returns its path. UserError if that fails.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=output_dir) as temporary:
            folder = export(temporary)
            manifest = json.loads((folder / MANIFEST).read_bytes())
            manifest["files"] = {fastdeploy_name(name): entry for name, entry in manifest["files"].items()}
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            names = [path.replace(Path(output_dir, fastdeploy_name(path.name))).name for path in folder.iterdir()]
    except OSError as error:
        raise UserError(f"cannot write the export to {output_dir}: {error.strerror or error}") from error
    get_logger().info(f"for FastDeploy: {', '.join(sorted(names))} in {output_dir}")


def fastdeploy_name(name: str) -> str:
    """FastDeploy's name of a file of an export.

    Example:
        >>> [fastdeploy_name(name) for name in ("model.pdmodel", "infer_cfg.yml", "manifest.json")]
        ['inference.pdmodel', 'inference.yml', 'manifest.json']
    """
    stem, dot, suffix = name.partition(".")
    return f"inference{dot}{suffix}" if stem in ("model", "infer_cfg") else name
