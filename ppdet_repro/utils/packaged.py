"""The configs that come with the package, and how to find them from any folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import List, Union

PACKAGE = Path(__file__).resolve().parents[1]


def packaged_configs() -> Path:
    """The folder of the packaged configs: `ppdet_repro/configs` in an installation, `configs` in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def own_or_packaged(own: Path, name: Union[str, Path]) -> Path:
    """The path of the packaged file if there is no file `own` but a packaged one of that name, otherwise `own`.

    The name is relative to the packaged configs, such as `yolof/yolof_r50_c5_1x_coco.yml`. A leading `configs/` is
    allowed, because that is where the file is in a checkout. A name that begins with `./` is never a packaged one.
    """
    explicit = str(name).startswith("./")
    name = Path(name)
    if explicit or os.path.exists(own) or name.is_absolute() or ".." in name.parts:
        return own
    packaged = packaged_configs().joinpath(*name.parts[name.parts[:1] == ("configs",) :])
    return packaged if os.path.isfile(packaged) else own


def nearest_packaged(name: Union[str, Path]) -> List[str]:
    """Up to three packaged configs whose file names are most like that of `name`, the most similar first."""
    root = packaged_configs()
    configs = [path.relative_to(root) for path in sorted(root.rglob("*.yml")) if path.parent.name != "_base_"]
    by_stem = {path.stem: path.as_posix() for path in configs}
    return [by_stem[stem] for stem in difflib.get_close_matches(Path(name).stem, by_stem, cutoff=0.7)]
