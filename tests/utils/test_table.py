"""Plain-text tables."""

from __future__ import annotations

from ppdet_repro.utils.table import text_table


def test_columns_are_aligned_floats_have_three_decimals_and_none_is_a_dash():
    rows = [["person", 12, 0.5, None], ["1e3", 1234, 0.12345, "0.10"]]
    assert text_table(["class", "objects", "AP", "AP50"], rows).splitlines() == [
        "class      objects     AP    AP50",
        "-------  ---------  -----  ------",
        "person          12  0.500       -",
        "1e3           1234  0.123    0.10",
    ]


def test_a_table_may_be_markdown_and_may_have_no_rows():
    assert text_table(["a", "b"], [["x", 1]], "github").splitlines()[1:] == ["|-----|-----|", "| x   |   1 |"]
    assert text_table(["a", "b"], []).splitlines()[0].split() == ["a", "b"]
