"""TIDE's six kinds of errors, and how much AP each of them costs.

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020; YOLOF, figure 7.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Sequence

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

MEANINGS = {
    "Cls": "the right place, the wrong class",
    "Loc": "the right class, an inaccurate box",
    "Both": "wrong class and inaccurate box",
    "Dupe": "an object found again",
    "Bkg": "nothing is there",
    "Miss": "an object that no detection is near",
}


class TideErrors(NamedTuple):
    """`ap` at IoU 0.5, 0 to 100; `main`: AP that would be gained without errors of each kind; `special`: without
    false positives (FP) or false negatives (FN)."""

    ap: float
    main: Dict[str, float]
    special: Dict[str, float]

    def table(self) -> str:
        """The errors for a reader."""
        rows = [(name, self.main[name], meaning) for name, meaning in MEANINGS.items()]
        rows += [(name, value, "all of them") for name, value in self.special.items()]
        return f"AP50 {self.ap:.2f}\n{text_table(['error', 'AP lost', 'meaning'], rows)}"


def tidecv() -> Any:
    """The package. UserError: it is not installed."""
    try:
        import tidecv
    except ImportError as error:
        raise UserError(
            f"--tide needs tidecv ({error}): pip install 'ppdet-repro[tide]', then pip install --no-deps tidecv==1.0.1 "
            "(it asks for opencv-python, which clashes with the headless one); `make tide` does both"
        ) from error
    return tidecv


def tide_errors(truth: dict, rows: Sequence[dict], image_ids: Sequence[int]) -> TideErrors:
    """The errors of COCO result rows against a COCO document (`load_coco_json`) on the images that were looked at.

    UserError: tidecv is not installed.
    """
    package = tidecv()
    seen = set(image_ids)
    wanted, found = package.Data("truth"), package.Data("detections")
    for category in truth["categories"]:
        wanted.add_class(category["id"], str(category["name"]))
    for image_id in seen:
        wanted.add_image(image_id, str(image_id))
    for a in truth["annotations"]:
        if a["image_id"] in seen:
            add = wanted.add_ignore_region if a["iscrowd"] else wanted.add_ground_truth
            add(a["image_id"], a["category_id"], box=a["bbox"])
    for row in rows:
        found.add_detection(row["image_id"], row["category_id"], row["score"], box=row["bbox"])
    run = package.TIDE().evaluate(wanted, found, mode=package.TIDE.BOX)
    main = {error.short_name: float(value) for error, value in run.fix_main_errors().items()}
    special = {
        {"FalsePos": "FP", "FalseNeg": "FN"}[error.short_name]: float(value)
        for error, value in run.fix_special_errors().items()
    }
    return TideErrors(float(run.ap), main, special)
