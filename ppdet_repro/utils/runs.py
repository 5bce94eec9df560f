"""A table that compares the evaluations of several training runs."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

from ppdet_repro.utils.curves import read_log
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

COLUMNS = {
    "AP": "bbox_mAP",
    "AP50": "bbox_mAP_50",
    "AP75": "bbox_mAP_75",
    "AP_S": "bbox_mAP_s",
    "AP_M": "bbox_mAP_m",
    "AP_L": "bbox_mAP_l",
}


def runs_table(folders: Sequence[str]) -> str:
    """A Markdown table with the last evaluation of each run in percent; a dash where it lacks a number.

    Args:
        folders: The folders of the runs, each with a `log.jsonl`.

    Raises:
        UserError: A folder has no log, or its run was never evaluated.
    """
    rows: List[List[object]] = []
    for folder in folders:
        evaluations = read_log(Path(folder) / "log.jsonl")["eval"]
        if not evaluations:
            raise UserError(f"{folder}: the run was never evaluated; train with --eval")
        last = evaluations[-1]
        cells = [f"{100 * last[key]:.1f}" if last.get(key, -1) >= 0 else None for key in COLUMNS.values()]
        rows.append([Path(folder).name, *cells, last["epoch"]])
    return text_table(["run", *COLUMNS, "epochs"], rows, "github")
