"""Plain-text tables for logs and terminals."""

from __future__ import annotations

from typing import Sequence

from tabulate import tabulate

from ppdet_repro.utils.printable import printable_line


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]], style: str = "simple") -> str:
    """Aligned columns under a header: the first to the left, the others to the right.

    Floats have three decimals; None is a dash. `style` is a table format of tabulate, such as `github` for Markdown.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    alignment = ("left", *["right"] * (len(header) - 1)) if rows else None
    return tabulate(
        cells,
        [printable_line(name) for name in header],
        style,
        missingval="-",
        colalign=alignment,
        disable_numparse=True,
    )


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable_line(value) if isinstance(value, str) else value
