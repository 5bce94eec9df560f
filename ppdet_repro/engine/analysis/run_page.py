"""The page of a training run: curves, evaluations, data, config, and the commands to go on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ppdet_repro.engine.analysis.pages import write_page
from ppdet_repro.utils.curves import COLUMNS, Entry, curves_png, read_log
from ppdet_repro.utils.files import write_output

PAGE, CURVES = "index.html", "curves.png"


@dataclass(frozen=True)
class RunPage:
    """What the page of a run says besides its log.

    Attributes:
        title: The name of the run.
        epochs: Epochs of the whole run.
        facts: Names and texts about the data.
        commands: What a command does, and the command.
        config: All values of the config, as text.
    """

    title: str
    epochs: int
    facts: Sequence[Tuple[str, str]]
    commands: Sequence[Tuple[str, str]]
    config: str

    def write(self, log: Path) -> None:
        """Write `index.html` and `curves.png` beside a log.jsonl. UserError: they cannot be written."""
        entries = read_log(log)
        curves = curves_png(entries)
        write_output(log.with_name(CURVES), curves)
        write_page(
            log.with_name(PAGE),
            "run.html.j2",
            title=self.title,
            status=self.status(entries["train"][-1], entries["eval"]),
            curves=curves,
            **evaluation_table(entries["eval"]),
            facts=self.facts,
            commands=self.commands,
            config=self.config,
        )

    def status(self, last: Entry, evaluations: Sequence[Entry]) -> str:
        """Say how far the run is, and which evaluation was the best."""
        text = f"Epoch {last['epoch']} of {self.epochs}, {last['step']:,} updates."
        scored = [entry for entry in evaluations if "bbox_mAP" in entry]
        if scored:
            best = max(scored, key=lambda entry: entry["bbox_mAP"])
            text += f" Best {name_of_score(best)}: {best['bbox_mAP']:.3f}, after epoch {best['epoch']}."
        return text


def name_of_score(entry: Entry) -> str:
    """What an evaluation's bbox_mAP is: COCO's AP, or VOC's, whose evaluations have no other scores."""
    return "AP" if "bbox_mAP_50" in entry else "VOC mAP"


def evaluation_table(evaluations: Sequence[Entry]) -> Dict[str, Any]:
    """The variables `metrics`, the names of the columns, and `evaluations`, epochs with the values of each column."""
    endings = [ending for ending in COLUMNS.values() if any(f"bbox_mAP{ending}" in entry for entry in evaluations)]
    names = {ending: name for name, ending in COLUMNS.items()}
    if endings == [""]:
        names[""] = name_of_score(evaluations[0])

    def value(entry: Entry, ending: str) -> Optional[float]:
        found = entry.get(f"bbox_mAP{ending}", -1)
        return found if found >= 0 else None

    rows: List[Tuple[int, List[Optional[float]]]] = [
        (entry["epoch"], [value(entry, ending) for ending in endings]) for entry in evaluations
    ]
    return {"metrics": [names[ending] for ending in endings], "evaluations": rows}
