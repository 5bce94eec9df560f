"""Computes TIDE's six kinds of errors and how much average precision each of them costs.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020; YOLOF, figure 7.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Sequence

from ppdet_repro.metrics.detections import Document, Rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

MEANINGS = {
    "Cls": "accurate box, wrong class",
    "Loc": "inaccurate box, right class",
    "Both": "inaccurate box, wrong class",
    "Dupe": "object that was found already",
    "Bkg": "detection of nothing",
    "Miss": "object without a detection",
}


class TideErrors(NamedTuple):
    """The errors of a detector. AP is at IoU 0.5, from 0 to 100."""

    ap: float
    main: Dict[str, float]  # for each kind of error, the AP that would be gained without it
    special: Dict[str, float]  # the AP that would be gained without any false positives (FP) or false negatives (FN)

    def table(self) -> str:
        """The errors as text."""
        rows = [(name, self.main[name], meaning) for name, meaning in MEANINGS.items()]
        rows += [(name, value, "all of them") for name, value in self.special.items()]
        return f"AP50 {self.ap:.2f}\n{text_table(['error', 'AP lost', 'meaning'], rows)}"


def import_tidecv() -> Any:
    """The package tidecv. Raises UserError if it is not installed."""
    try:
        import tidecv
    except ImportError as error:
        raise UserError(
            f"--tide needs tidecv ({error}): pip install 'ppdet-repro[tide]', then pip install --no-deps tidecv==1.0.1 "
            "(it asks for opencv-python, which clashes with the headless one); `make tide` does both"
        ) from error
    return tidecv


def tide_errors(truth: Document, rows: Rows, image_ids: Sequence[int]) -> TideErrors:
    """Compute the errors of detections on these images. Raises UserError if tidecv is not installed."""
    package = import_tidecv()
    evaluated = set(image_ids)
    expected, found = package.Data("truth"), package.Data("detections")
    for category in truth["categories"]:
        expected.add_class(category["id"], str(category["name"]))
    for image_id in evaluated:
        expected.add_image(image_id, str(image_id))
    for a in truth["annotations"]:
        if a["image_id"] in evaluated:
            add = expected.add_ignore_region if a["iscrowd"] else expected.add_ground_truth
            add(a["image_id"], a["category_id"], box=a["bbox"])
    for row in rows:
        found.add_detection(row["image_id"], row["category_id"], row["score"], box=row["bbox"])
    run = package.TIDE().evaluate(expected, found, mode=package.TIDE.BOX)
    main = {error.short_name: float(value) for error, value in run.fix_main_errors().items()}
    special = {error.short_name: float(value) for error, value in run.fix_special_errors().items()}
    return TideErrors(float(run.ap), main, {"FP": special["FalsePos"], "FN": special["FalseNeg"]})
