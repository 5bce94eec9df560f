"""The weights that come with the package: NAME.pdparams and NAME.json in `ppdet_repro/weights`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Mapping

import numpy as np

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import file_sha256
from ppdet_repro.utils.packaged import PACKAGE

SCHEME = "package://"  # and a name, wherever a path or a URL of weights may be
WEIGHTS = PACKAGE / "weights"
ROUNDING = 1e-3  # an array is stored in 16 bits if no number changes by more, relative to the array's largest


@dataclass(frozen=True)
class Provenance:
    """Where weights of the package are from: the content of NAME.json."""

    config: str  # relative to the packaged configs
    num_classes: int
    command: str  # that trained them
    data: str  # that they were trained on
    data_licence: str
    result: str  # the metric, and what it was measured on
    hardware: str
    date: str  # YYYY-MM-DD
    paddle: str  # version
    trained_sha256: str  # of the file that the training wrote
    sha256: str  # of NAME.pdparams
    licence: str = "Apache-2.0"  # of the weights


def shipped() -> List[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.pdparams"))


def find_shipped(source: str) -> Path:
    """The file for `package://NAME`. UserError if there is none of that name, or if it was changed."""
    name = source[len(SCHEME) :]
    if name not in shipped():
        raise UserError(f"{source}: no such weights come with the package; it has {', '.join(shipped()) or 'none'}")
    path = WEIGHTS / f"{name}.pdparams"
    if file_sha256(path) != read_provenance(name).sha256:
        raise UserError(f"{path}: this file was changed or is damaged: install the package again")
    return path


def read_provenance(name: str) -> Provenance:
    """Where the weights of this name are from."""
    return Provenance(**json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8")))


def write_provenance(name: str, found: Provenance) -> None:
    """Write NAME.json."""
    text = json.dumps(asdict(found), indent=1, ensure_ascii=False)
    (WEIGHTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def halved(state: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The same weights with filters and matrices in float16. Vectors, so all norms and biases, stay as they are.

    An array whose numbers would change by more than `ROUNDING` of its largest stays, too: one with numbers over 65,504,
    or with none over 0.00003.

    Example:
        >>> found = halved({"conv.weight": np.ones([4, 2], np.float32), "norm._variance": np.ones(4, np.float32)})
        >>> [str(array.dtype) for array in found.values()]
        ['float16', 'float32']
    """
    return {name: _half(array) if array.ndim > 1 else array for name, array in state.items()}


def _half(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32 or not array.size:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    change = np.abs(half.astype(np.float32) - array).max()
    return half if change <= ROUNDING * np.abs(array).max() else array
