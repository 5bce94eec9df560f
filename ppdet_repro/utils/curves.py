"""What the log.jsonl files of training runs say: the curves of one run, and a table that compares several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from ppdet_repro.utils.analysis_plots import figure, png
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.table import text_table

Entry = Dict[str, Any]
Entries = Dict[str, List[Entry]]

METRICS = {"bbox_mAP": "AP", "bbox_mAP_50": "AP50"}
VOC_METRICS = {"bbox_mAP": "AP50 (VOC)"}  # VOC's mean AP is for an IoU of 0.5
COLUMNS = {"AP": "", "AP50": "_50", "AP75": "_75", "AP_S": "_s", "AP_M": "_m", "AP_L": "_l"}  # after bbox_mAP


def read_log(path: Path) -> Entries:
    """The entries of a log.jsonl by their kind, `train` or `eval`.

    Raises a `UserError` if the file is missing, is not such a log, or has no entries of training.
    """
    entries: Entries = {"train": [], "eval": []}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            entries[entry["kind"]].append(entry)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a log.jsonl written by training") from error
    if not entries["train"]:
        raise UserError(f"{path}: the log has no updates yet")
    return entries


def draw_curves(log: Path, image: Path) -> None:
    """Plot a log.jsonl to a PNG file. Raises a `UserError` as `read_log`, or if the image cannot be written."""
    write_output(image, curves_png(read_log(log)))


def curves_png(entries: Entries) -> bytes:
    """A PNG file with the losses, the learning rate and the average precisions of a log's entries."""
    train, evaluations = even_lines(entries["train"]), entries["eval"]
    plot, (left, right) = figure(2, 5.5)
    steps = [entry["step"] for entry in train]
    for name in (name for name in train[0] if name.startswith("loss")):
        left.plot(steps, [entry.get(name, float("nan")) for entry in train], label=name, linewidth=1.2)
    left.set(xlabel="updates", ylabel="loss", ylim=(0, None))
    rate = left.twinx()
    rate.plot(steps, [entry["lr"] for entry in train], color="0.6", linestyle=":", label="learning rate")
    rate.set(ylabel="learning rate", ylim=(0, None))
    left.legend(handles=[*left.lines, *rate.lines])

    epochs = [entry["epoch"] for entry in evaluations]
    for name, label in (VOC_METRICS if evaluations and is_voc(evaluations[0]) else METRICS).items():
        if evaluations and name in evaluations[0]:
            right.plot(epochs, [entry[name] for entry in evaluations], marker=".", label=label)
            right.legend()
    right.locator_params(axis="x", integer=True)
    right.set(xlabel="epochs", ylabel="average precision", ylim=(0, 1))
    return png(plot)


def even_lines(train: Sequence[Entry]) -> List[Entry]:
    """Join the lines of few updates with those that follow.

    A line has the means of the updates since the one before it. That of an epoch's first update, of which the start of
    training needs to be seen at once, would be a spike in every epoch.
    """
    updates = [entry["step"] - before for entry, before in zip(train, [0, *(entry["step"] for entry in train)])]
    least = max(updates) / 2
    joined: List[Entry] = []
    waiting: List[Tuple[int, Entry]] = []  # lines that are not joined yet, with their numbers of updates
    for position, entry in enumerate(train):
        waiting.append((updates[position], entry))
        number = sum(count for count, _ in waiting)
        if number >= least or position == len(train) - 1:
            losses = [name for name in entry if name.startswith("loss")]
            means = {name: sum(n * {**entry, **e}[name] for n, e in waiting) / number for name in losses}
            joined.append({**entry, **means})
            waiting = []
    return joined


def is_voc(entry: Entry) -> bool:
    """Whether the scores of an evaluation are VOC's: COCO's have an AP50 of their own."""
    return "bbox_mAP_50" not in entry


def run_names(folders: Sequence[str]) -> List[str]:
    """The names of the runs in these folders: their last parts, or the whole paths if two are the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def runs_table(folders: Sequence[str]) -> str:
    """A Markdown table with the last evaluation in percent of the run in each folder; a dash where a number is missing.

    The mean AP of a run with `metric: VOC` is for an IoU of 0.5, so it stands under AP50.

    Raises a `UserError` if a folder has no `log.jsonl`, or if its run was never evaluated.
    """
    rows: List[List[object]] = []
    for name, folder in zip(run_names(folders), folders):
        evaluations = read_log(Path(folder) / "log.jsonl")["eval"]
        if not evaluations:
            raise UserError(f"{folder}: the run was never evaluated; train with --eval")
        last = evaluations[-1]
        metric = "VOC" if is_voc(last) else "COCO"
        if metric == "VOC":
            last = {"epoch": last["epoch"], "bbox_mAP_50": last.get("bbox_mAP", -1)}
        values = [last.get(f"bbox_mAP{ending}", -1) for ending in COLUMNS.values()]
        cells = [f"{100 * value:.1f}" if value >= 0 else None for value in values]
        rows.append([name, metric, *cells, last["epoch"]])
    return text_table(["run", "metric", *COLUMNS, "epochs"], rows, "github")
