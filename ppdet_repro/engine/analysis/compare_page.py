"""A page that shows the curves of several training runs in the same axes, and their scores beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ppdet_repro.engine.analysis.pages import write_page
from ppdet_repro.engine.analysis.run_page import AP, F1_COLUMNS
from ppdet_repro.utils.analysis_plots import figure, png
from ppdet_repro.utils.curves import COLUMNS, Entries, Entry, even_lines, is_voc, read_log, run_names


def write_comparison(folders: Sequence[str], path: Path) -> None:
    """Write the page of the runs in these folders. UserError: one has no log.jsonl with updates, or the page cannot be
    written."""
    names = run_names(folders)
    runs = dict(zip(names, (read_log(Path(folder) / "log.jsonl") for folder in folders)))
    key, label = compared_score([run["eval"] for run in runs.values()])
    write_page(
        path,
        "compare.html.j2",
        title=f"{len(runs)} runs",
        curves=curves_png(runs, label),
        score=label,
        columns=[*COLUMNS, *F1_COLUMNS],
        rows=[(name, *summary(run["eval"], key)) for name, run in runs.items()],
        runs=names,
        classes=class_rows([run["eval"] for run in runs.values()]),
    )


def compared_score(evaluations: Sequence[Sequence[Entry]]) -> Tuple[str, str]:
    """The key and the name of the score in which the runs are compared: COCO's AP, or AP50 if a run has VOC's."""
    some_voc = any(is_voc(entry) for run in evaluations for entry in run)
    return ("bbox_mAP_50", "AP50") if some_voc else ("bbox_mAP", "AP")


def score_of(entry: Entry, key: str) -> Optional[float]:
    """A score of an evaluation by COCO's key. VOC's mean AP is for an IoU of 0.5. None: it has none."""
    keys = {"bbox_mAP_50": "bbox_mAP", "bbox_mAP": ""} if is_voc(entry) else {}
    value = entry.get(keys.get(key, key), -1)
    return value if value >= 0 else None


def summary(evaluations: Sequence[Entry], key: str) -> Tuple[Optional[int], List[Optional[float]]]:
    """The epoch of a run's best evaluation, and its scores; None without evaluations."""
    keys = [*(f"bbox_mAP{ending}" for ending in COLUMNS.values()), *F1_COLUMNS.values()]
    if not evaluations:
        return None, [None] * len(keys)
    best = max(evaluations, key=lambda entry: score_of(entry, key) or 0.0)
    return best["epoch"], [score_of(best, one) for one in keys]


def class_rows(evaluations: Sequence[Sequence[Entry]]) -> List[Tuple[str, List[Optional[float]]]]:
    """The AP of each class, in the order of the first run that has it, in the last evaluation of each run."""
    last: List[Dict[str, Any]] = [run[-1] if run else {} for run in evaluations]
    names = dict.fromkeys(name for entry in last for name in entry if name.startswith(AP))
    return [(name[len(AP) :], [entry.get(name) for entry in last]) for name in names]


def curves_png(runs: Dict[str, Entries], label: str) -> bytes:
    """A PNG file with the loss, the score and the learning rate of each run."""
    plot, (losses, scores, rates) = figure(3, 4.6)
    key = "bbox_mAP" if label == "AP" else "bbox_mAP_50"
    for name, run in runs.items():
        train = even_lines(run["train"])
        steps = [entry["step"] for entry in train]
        losses.plot(steps, [entry.get("loss", float("nan")) for entry in train], label=name, linewidth=1.2)
        rates.plot([entry["step"] for entry in run["train"]], [entry["lr"] for entry in run["train"]], label=name)
        points = [(entry["epoch"], score_of(entry, key)) for entry in run["eval"]]
        known = [(epoch, value) for epoch, value in points if value is not None]
        scores.plot([epoch for epoch, _ in known], [value for _, value in known], marker=".", label=name)
    losses.set(xlabel="updates", ylabel="loss", ylim=(0, None))
    scores.set(xlabel="epochs", ylabel=label, ylim=(0, 1))
    scores.locator_params(axis="x", integer=True)
    rates.set(xlabel="updates", ylabel="learning rate", ylim=(0, None))
    losses.legend(fontsize=8)
    return png(plot)
