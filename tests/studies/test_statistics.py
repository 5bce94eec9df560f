"""Means, confidence intervals and verdicts, against numbers computed by hand.

Quantiles 0.975 of Student's t are from a table: 12.7062 for 1 degree of freedom, 4.3027 for 2, 3.1824 for 3.
"""

import pytest

from ppdet_repro.studies import claims
from ppdet_repro.studies.claims import FAILS, HOLDS, NOT_RUN, UNDECIDED, judge, parse, verdict_of
from ppdet_repro.studies.statistics import paired, seeds_needed, summarize


def test_mean_and_deviation():
    # (1 + 2 + 6) / 3 = 3; squares 4 + 1 + 9 = 14, over n - 1 = 2: 7
    assert summarize([1.0, 2.0, 6.0]) == (3, 3.0, pytest.approx(7**0.5))
    assert summarize([2.0]) == (1, 2.0, None)
    assert summarize([]) == (0, None, None)


def test_the_interval_of_paired_differences():
    # 1, 2, 3: mean 2, deviation 1, half of the width 4.3027 / sqrt(3) = 2.4842
    difference = paired([1.0, 2.0, 3.0])
    assert (difference.number, difference.mean, difference.deviation) == (3, 2.0, pytest.approx(1.0))
    assert (difference.low, difference.high) == (pytest.approx(-0.4842, abs=2e-4), pytest.approx(4.4842, abs=2e-4))
    # 4 seeds: 3.1824 / 2 = 1.59 < 2 would exclude 0; 3 do not
    assert difference.needed == 4


def test_one_seed_has_no_interval():
    assert paired([1.0]) == (1, 1.0, None, None, None, None)


def test_no_number_of_seeds_shows_a_difference_of_0():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None  # it would need millions
    assert seeds_needed(1.0, 0.0) == 2


SCORES = {
    "a": {"AP": {0: 10.0, 1: 12.0, 2: 11.0}, "AP_L": {0: 20.0, 1: 20.0, 2: 20.0}},
    "b": {"AP": {0: 13.0, 1: 14.0, 3: 50.0}, "AP_L": {0: 24.0, 1: 26.0}},
}


@pytest.mark.parametrize(
    "text, differences",
    [
        ("b > a", {0: 3.0, 1: 2.0}),  # only the seeds that both rows have
        ("b.AP_L - a.AP_L > b - a", {0: 1.0, 1: 4.0}),
        ("b <= a + 0.5", {0: 2.5, 1: 1.5}),
        ("-a + b > 1 - 2", {0: 4.0, 1: 3.0}),
        ("a.AP75 > b", {}),  # not measured
    ],
)
def test_the_sums_of_a_comparison(text, differences):
    assert parse(text).differences(SCORES, "AP") == differences


@pytest.mark.parametrize(
    "text", ["a", "a >= b", "a < b", "a > b > a", "a > ", "a b > a", "1 > 2", "a.b.c > a", "a * 2 > b"]
)
def test_what_is_no_comparison(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "differences, greater, at_most",
    [
        ([2.0, 2.1, 1.9], HOLDS, FAILS),
        ([-2.0, -2.1, -1.9], FAILS, HOLDS),
        ([1.0, -1.0, 0.5], UNDECIDED, UNDECIDED),
        ([5.0], UNDECIDED, UNDECIDED),
        ([0.0, 0.0], FAILS, HOLDS),  # exactly equal: not greater
    ],
)
def test_verdicts(differences, greater, at_most):
    scores = {"a": {"AP": dict(enumerate(differences))}, "b": {"AP": dict.fromkeys(range(3), 0.0)}}
    assert judge(parse("a > b"), scores, {}, "AP").verdict == greater
    assert judge(parse("a <= b"), scores, {}, "AP").verdict == at_most


def test_the_papers_own_difference():
    paper = {"a": {"AP": {0: 30.0}}, "b": {"AP": {0: 31.5}}}
    assert judge(parse("b > a"), SCORES, paper, "AP").paper == 1.5
    assert judge(parse("b > a"), SCORES, {"a": paper["a"], "b": {}}, "AP").paper is None


def test_a_claim_of_several_comparisons_needs_all_of_them():
    def verdict(*parts):
        nothing = paired([])
        return verdict_of([claims.Judged(parse("a > b"), nothing, part, None) for part in parts])

    assert verdict(HOLDS, HOLDS) == HOLDS
    assert verdict(HOLDS, UNDECIDED) == UNDECIDED
    assert verdict(HOLDS, UNDECIDED, FAILS) == FAILS
    assert verdict(HOLDS, UNDECIDED, NOT_RUN) == NOT_RUN


def test_a_comparison_with_a_row_that_was_not_run():
    assert judge(parse("a > b"), {"a": {"AP": {0: 1.0}}, "b": {}}, {}, "AP").verdict == NOT_RUN
