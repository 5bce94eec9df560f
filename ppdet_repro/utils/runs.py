"""The evaluations of several training runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from ppdet_repro.utils.curves import read_log
from ppdet_repro.utils.errors import UserError

COLUMNS = {
    "AP": "bbox_mAP",
    "AP50": "bbox_mAP_50",
    "AP75": "bbox_mAP_75",
    "AP_S": "bbox_mAP_s",
    "AP_M": "bbox_mAP_m",
    "AP_L": "bbox_mAP_l",
}


def runs_table(folders: Sequence[str]) -> str:
    """A Markdown table of the last evaluation in each run's log.jsonl, in percent; a dash where none was made of it.

    UserError: a folder has no log, or its run was never evaluated.
    """
    lines = [f"| run | {' | '.join(COLUMNS)} | epochs |", "|---" * (len(COLUMNS) + 2) + "|"]
    for folder in folders:
        evaluations = read_log(Path(folder) / "log.jsonl")["eval"]
        if not evaluations:
            raise UserError(f"{folder}: the run was never evaluated; train with --eval")
        last = evaluations[-1]
        cells = [f"{100 * last[key]:.1f}" if last.get(key, -1) >= 0 else "-" for key in COLUMNS.values()]
        lines.append(f"| {Path(folder).name} | {' | '.join(cells)} | {last['epoch']} |")
    return "\n".join(lines)
