"""What the reading of a dataset finds: entries that it refuses, leaves out, doubts, or reads although they are odd.

There is one reading of a dataset. Training, evaluation and drawing refuse it at the first entry that cannot be used;
`check` goes on, and lists all findings in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np

from ppdet_repro.utils.errors import UserError

Rows = Union[Sequence[Any], np.ndarray]

REFUSED = "refused"  # the dataset cannot be used before this is mended
LEFT_OUT = "left out"  # the entry is not used
DOUBTFUL = "doubtful"  # the entry is used, but looks like a mistake
SETTING = "left out by a setting"
ODD = "odd"  # the entry is used, and what it means is clear

CHECK = "'ppdet-repro data check' lists them all"


class Finding(NamedTuple):
    """Something that a reading found."""

    effect: str  # one of those above
    kind: str  # a description that is the same for all findings of this kind
    where: str  # which entry or file, and what it has
    fix: str = ""  # how to mend it, for refusals


class Findings:
    """Collects what a reading finds.

    Args:
        prefix: The beginning of errors, such as "a.json: ".
        collect: Collect all findings, and continue after a refusal without the entry. Otherwise a refusal is raised,
            and the others are only counted.
        leave_out: Kinds of refusals after which the entry is left out instead.
    """

    def __init__(self, prefix: str = "", collect: bool = False, leave_out: Collection[str] = ()):
        self.prefix, self.collect, self.leave_out = prefix, collect, leave_out
        self.found: list[Finding] = []
        self.counts: Counter[tuple[str, str]] = Counter()  # by effect and kind

    def refuse(self, kind: str, rows: Rows, where: Callable[[Any], str], fix: str) -> None:
        """Report entries that cannot be used. UserError about the first one, unless all findings are collected."""
        if len(rows) and not self.collect:
            more = f" (and {len(rows) - 1:,} more like it, {CHECK})" if len(rows) > 1 else ""
            raise UserError(f"{self.prefix}{where(rows[0])}{more}: {fix}")
        self.report(REFUSED, kind, rows, where, fix)

    def report(self, effect: str, kind: str, rows: Rows, where: Callable[[Any], str], fix: str = "") -> None:
        """Report the entries `rows`, which `where` describes."""
        if len(rows):
            self.counts[effect, kind] += len(rows)
        if self.collect:
            self.found += [Finding(effect, kind, where(row), fix) for row in rows]

    @contextmanager
    def refusals(self, kind: str) -> Iterator[None]:
        """If all findings are collected, collect a UserError of the block, too."""
        try:
            yield
        except UserError as error:
            if kind in self.leave_out:
                self.report(LEFT_OUT, kind, [str(error)], str)
                return
            if not self.collect:
                raise
            self.counts[REFUSED, kind] += 1
            self.found.append(Finding(REFUSED, kind, str(error)))

    def of(self, effect: str) -> dict[str, int]:
        """The numbers of the findings with this effect, by kind."""
        return {kind: number for (other, kind), number in self.counts.items() if other == effect}


def listed(numbers: dict[str, int]) -> Optional[str]:
    """Format numbers by kind as "box without area (2), box outside its image (1)"; None if there are none."""
    return ", ".join(f"{kind} ({number:,})" for kind, number in numbers.items() if number) or None
