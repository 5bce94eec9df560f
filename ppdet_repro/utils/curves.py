"""A training run's log.jsonl as a picture: losses and learning rate over updates, accuracy over epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

from ppdet_repro.utils.errors import UserError

SCORES = {"bbox_mAP": "AP", "bbox_mAP_50": "AP50"}  # VOC's AP is its bbox_mAP


def read_log(path: Path) -> Dict[str, List[Dict[str, Any]]]:
    """The entries of a log.jsonl by kind: `train`, `eval`.

    Raises:
        UserError: there is no such file, it is not such a log, or it holds no training.
    """
    entries: Dict[str, List[Dict[str, Any]]] = {"train": [], "eval": []}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            entries[entry["kind"]].append(entry)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a log.jsonl of tools/train.py") from error
    if not entries["train"]:
        raise UserError(f"{path}: no update is logged yet")
    return entries


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the curves of a log.jsonl into an image file.

    Raises:
        UserError: as `read_log`, or the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    entries = read_log(log)
    train, scores = entries["train"], entries["eval"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    steps = [entry["step"] for entry in train]
    for name in (name for name in train[0] if name.startswith("loss")):
        left.plot(steps, [entry[name] for entry in train], label=name, linewidth=1.2)
    left.set(xlabel="updates", ylabel="loss", ylim=(0, None))
    rate = left.twinx()
    rate.plot(steps, [entry["lr"] for entry in train], color="0.6", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    left.legend(handles=[*left.lines, *rate.lines])

    epochs = [entry["epoch"] for entry in scores]
    for name, label in SCORES.items():
        if scores and name in scores[0]:
            right.plot(epochs, [entry[name] for entry in scores], marker=".", label=label)
            right.legend()
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="epochs", ylabel="average precision", ylim=(0, 1))
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=110)
    except OSError as error:
        raise UserError(f"cannot write {picture}: {error.strerror}") from error
    finally:
        pyplot.close(figure)
