"""Claims of a study: comparisons of rows, such as `both > dilated` or `both.AP_L - neither.AP_L <= 1`.

A side is a sum of rows and numbers. A row stands for its score in the study's metric; `.AP_L` names another metric.
Scores and numbers are in points: percent of average precision. Text that follows the grammar:

    comparison = side (">" | "<=") side
    side = ["-"] term {("+" | "-") term}
    term = NAME ["." METRIC] | NUMBER
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ppdet_repro.studies.statistics import Difference, paired

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "not decidable", "not run"
NAME = r"[A-Za-z_]\w*"
TOKEN = re.compile(rf"\s*(?P<sign>[+-]?)\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<row>{NAME})(?:\.(?P<metric>{NAME}))?)")

Scores = Mapping[str, Mapping[str, Mapping[int, float]]]  # by row, metric and seed


class Term(NamedTuple):
    """A score with its factor; `row` is None for a number."""

    factor: float
    row: Optional[str] = None
    metric: Optional[str] = None  # None: the study's


@dataclass(frozen=True)
class Comparison:
    """Says whether the sum of `terms` is positive, or (`negated`) that it is not."""

    text: str
    terms: Tuple[Term, ...]  # of the left side minus the right side
    negated: bool  # for `<=`

    def rows(self) -> List[str]:
        """The names of the rows that it mentions."""
        return [term.row for term in self.terms if term.row is not None]

    def differences(self, scores: Scores, metric: str) -> Dict[int, float]:
        """The left side minus the right side, in points, for every seed for which all rows have a score."""
        measured = [(t, scores.get(t.row, {}).get(t.metric or metric, {})) for t in self.terms if t.row is not None]
        constant = sum(term.factor for term in self.terms if term.row is None)
        seeds = set.intersection(*(set(by_seed) for _, by_seed in measured))
        return {seed: sum(t.factor * by_seed[seed] for t, by_seed in measured) + constant for seed in sorted(seeds)}

    def verdict(self, difference: Difference) -> str:
        """Whether the confidence interval of the differences decides the comparison."""
        if not difference.number:
            return NOT_RUN
        if difference.low is None or difference.high is None:
            return UNDECIDED
        if difference.low > 0:
            return FAILS if self.negated else HOLDS
        if difference.high <= 0:
            return HOLDS if self.negated else FAILS
        return UNDECIDED


class Judged(NamedTuple):
    """A comparison and what the runs say about it."""

    comparison: Comparison
    difference: Difference
    verdict: str
    paper: Optional[float]  # the left side minus the right side of the paper's own scores


def parse(text: str) -> Comparison:
    """Read a comparison.

    Raises ValueError, which says what is wrong, if the text is none.

    Example:
        >>> parse("both.AP_L > dilated.AP_L + 0.5").terms[1:]
        (Term(factor=-1.0, row='dilated', metric='AP_L'), Term(factor=-0.5, row=None, metric=None))
    """
    sides = re.split(r"(<=|>(?!=))", text)
    if len(sides) != 3:
        raise ValueError(f"{text!r} is not a comparison: write A > B or A <= B")
    left, operator, right = sides
    terms = [*side(left), *(term._replace(factor=-term.factor) for term in side(right))]
    comparison = Comparison(text, tuple(terms), operator == "<=")
    if not comparison.rows():
        raise ValueError(f"{text!r} names no row")
    return comparison


def side(text: str) -> List[Term]:
    """The terms of one side of a comparison. ValueError if it is not a sum."""
    terms: List[Term] = []
    position = 0
    while position < len(text.rstrip()):
        found = TOKEN.match(text, position)
        if found is None or (terms and not found["sign"]):
            raise ValueError(f"{text.strip()!r} is not a sum of rows and numbers")
        sign = -1.0 if found["sign"] == "-" else 1.0
        factor = sign * float(found["number"] or 1)
        terms.append(Term(factor, found["row"], found["metric"]))
        position = found.end()
    if not terms:
        raise ValueError("one side of the comparison is empty")
    return terms


def judge(comparison: Comparison, scores: Scores, paper: Scores, metric: str) -> Judged:
    """Judge one comparison. `paper` has the paper's scores under the seed 0."""
    difference = paired(list(comparison.differences(scores, metric).values()))
    theirs = comparison.differences(paper, metric).get(0)
    return Judged(comparison, difference, comparison.verdict(difference), theirs)


def verdict_of(parts: Sequence[Judged]) -> str:
    """The verdict on a claim that consists of several comparisons: it holds if all of them hold."""
    verdicts = {part.verdict for part in parts}
    return next((verdict for verdict in (FAILS, NOT_RUN, UNDECIDED) if verdict in verdicts), HOLDS)
