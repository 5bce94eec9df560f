"""A table that compares the evaluations of several training runs."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

from ppdet_repro.utils.curves import read_log
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

COLUMNS = {"AP": "", "AP50": "_50", "AP75": "_75", "AP_S": "_s", "AP_M": "_m", "AP_L": "_l"}  # after bbox_mAP


def runs_table(folders: Sequence[str]) -> str:
    """A Markdown table with the last evaluation in percent of the run in each folder; a dash where a number is missing.

    Raises a `UserError` if a folder has no `log.jsonl`, or if its run was never evaluated.
    """
    rows: List[List[object]] = []
    for folder in folders:
        evaluations = read_log(Path(folder) / "log.jsonl")["eval"]
        if not evaluations:
            raise UserError(f"{folder}: the run was never evaluated; train with --eval")
        last = evaluations[-1]
        values = [last.get(f"bbox_mAP{ending}", -1) for ending in COLUMNS.values()]
        cells = [f"{100 * value:.1f}" if value >= 0 else None for value in values]
        rows.append([Path(folder).name, *cells, last["epoch"]])
    return text_table(["run", *COLUMNS, "epochs"], rows, "github")
