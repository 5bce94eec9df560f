"""The tables in docs/reproduction.md are those of the committed results."""

from __future__ import annotations

import pytest
from studies.fake_study import fake_plan

from ppdet_repro.studies.plan import RESULT, write_json
from ppdet_repro.studies.report import as_text, write_report
from ppdet_repro.studies.results import collect, read_results
from ppdet_repro.studies.study import PACKAGED
from tools.reproduction_page import NOT_RUN, PAGE, PART, RESULTS, filled


def test_the_page_has_the_tables_of_the_committed_results():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, RESULTS) == page
    assert {found[1] for found in PART.finditer(page)} == {path.stem for path in PACKAGED.glob("*.yml")}


def test_tables_come_between_the_comments(tmp_path):
    plan = fake_plan(tmp_path)
    for run in plan.runs:
        score = 10.0 + run.seed + 3 * (run.row == "b")
        result = {"row": run.row, "seed": run.seed, "scores": {"AP": score}, "curve": [], "seconds": None}
        write_json(run.folder / RESULT, {**result, "identity": dict(run.identity)})
    write_report(collect(plan), tmp_path)
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "results.json").rename(folder / "fake.json")
    page = "before\n<!-- fake -->\nold\n<!-- end -->\nbetween\n<!-- other -->\nold\n<!-- end -->\nafter\n"
    text = as_text(read_results(folder / "fake.json")).replace("+-", "±")
    assert "10.5 ± 0.7" in text
    assert filled(page, folder) == (
        f"before\n<!-- fake -->\n{text}\n<!-- end -->\nbetween\n<!-- other -->\n{NOT_RUN}\n<!-- end -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no comment <!-- fake -->"):
        filled("", folder)
