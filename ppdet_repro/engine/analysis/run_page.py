"""The page of a training run: curves, evaluations, the worst images, data, config, and the commands to go on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.engine.analysis.pages import write_page
from ppdet_repro.engine.analysis.report import EvaluationResult, match_all
from ppdet_repro.engine.analysis.worst_images import (
    LastEvaluation,
    WorstImage,
    draw_worst,
    load_evaluation,
    worst_images,
)
from ppdet_repro.utils.curves import COLUMNS, Entry, curves_png, is_voc, read_log
from ppdet_repro.utils.files import write_output

PAGE, CURVES, EVALUATION = "index.html", "curves.png", "last_evaluation.json"
WORST_IMAGES = 8
AP = "bbox_AP/"  # before the name of a class
F1_COLUMNS = {"precision": "bbox_precision", "recall": "bbox_recall", "F1": "bbox_F1", "threshold": "bbox_threshold"}


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
        """Write `index.html` and `curves.png` beside a log.jsonl, from it and from `last_evaluation.json` if there is
        one. UserError: they cannot be read or written."""
        entries, last = read_log(log), load_evaluation(log.with_name(EVALUATION))
        curves = curves_png(entries)
        write_output(log.with_name(CURVES), curves)
        write_page(
            log.with_name(PAGE),
            "run.html.j2",
            title=self.title,
            status=self.status(entries["train"][-1], entries["eval"]),
            curves=curves,
            **evaluation_table(entries["eval"]),
            **class_table(entries["eval"], last),
            worst_images=[] if last is None else [figure_of(image, last.names) for image in last.worst],
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
    return "VOC mAP" if is_voc(entry) else "AP"


def save_last_evaluation(folder: Path, result: EvaluationResult) -> None:
    """Write what the page shows of an evaluation to `folder`. UserError: that fails."""
    truth = [result.objects[image.im_id] for image in result.detections]
    worst = worst_images(result.detections, match_all(result), truth, result.files, WORST_IMAGES)
    f1 = result.f1
    LastEvaluation(f1.line(), f1.threshold, list(result.names), f1.classes, worst).save(folder / EVALUATION)


def figure_of(image: WorstImage, names: Sequence[str]) -> Tuple[str, Optional[bytes]]:
    """The caption and the JPEG of an image with mistakes; None instead of the JPEG if the image cannot be read."""
    try:
        return draw_worst(image, names)
    except ImageError as error:
        return str(error), None


def evaluation_table(evaluations: Sequence[Entry]) -> Dict[str, Any]:
    """The variables `metrics`, the names of the columns, and `evaluations`, epochs with the values of each column."""
    columns = {name: f"bbox_mAP{ending}" for name, ending in COLUMNS.items()}
    if evaluations and name_of_score(evaluations[0]) != "AP":
        columns = {name_of_score(evaluations[0]): "bbox_mAP"}
    columns = {**columns, **F1_COLUMNS}
    columns = {name: key for name, key in columns.items() if any(key in entry for entry in evaluations)}

    def value(entry: Entry, key: str) -> Optional[float]:
        found = entry.get(key, -1)
        return found if found >= 0 else None

    rows = [(entry["epoch"], [value(entry, key) for key in columns.values()]) for entry in evaluations]
    return {"metrics": list(columns), "evaluations": rows}


def class_table(evaluations: Sequence[Entry], last: Optional[LastEvaluation]) -> Dict[str, Any]:
    """The variables of the last evaluation's classes: `score`, the name of their AP, `f1_line`, and `classes`, names
    with AP, precision, recall and F1, the worst AP first."""
    newest = evaluations[-1] if evaluations else {}
    f1_of = {scores.name: scores[1:] for scores in (last.classes if last else [])}
    aps = {name[len(AP) :]: value for name, value in newest.items() if name.startswith(AP)}
    classes = [(name, [ap, *f1_of.get(name, [None] * 3)]) for name, ap in sorted(aps.items(), key=lambda pair: pair[1])]
    return {"score": name_of_score(newest), "f1_line": last.line if last else None, "classes": classes}
