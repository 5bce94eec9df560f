"""A tenth of the long runs in docs/reliability.md, with other cases; and what the runner takes for a failure."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis.strategies import randoms

from tests.fuzzing import annotations, broken, runner

CASES = {"checkpoints": 2000, "configs": 500, "exports": 200, "lists": 500, "pictures": 500, "requests": 500}


@pytest.mark.parametrize("what, cases", CASES.items())
def test_every_case_is_a_value_or_one_clear_error(what, cases):
    counts = []
    failures = list(runner.fuzz(what, cases, seed=1, report=counts.append))
    assert failures == [], "see tools/fuzz.py"
    assert "loaded" in counts[0] and "refused" in counts[0]  # the cases are neither all harmless nor all nonsense


@pytest.fixture(scope="module")
def read_annotations():
    reader = runner.Reader("annotations")
    yield reader
    reader.close()


@settings(max_examples=1000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=randoms(use_true_random=False))
def test_check_training_and_evaluation_agree_about_odd_datasets(read_annotations, rng):
    """Hypothesis makes the choices of `annotations.generate`, and makes them simpler if one fails."""
    files = annotations.generate(rng)
    result = read_annotations(files)
    note({name: content[:600] for name, content in files.items() if not name.endswith(".jpg")})
    assert result.outcome in ("loaded", "refused"), result.detail


def test_cases_depend_on_the_seed_and_the_number_alone():
    first, again = (runner.case("checkpoints", 3, 7) for _ in range(2))
    assert first == again != runner.case("checkpoints", 3, 8) != runner.case("checkpoints", 4, 8)


@pytest.fixture(scope="module")
def reader():
    found = runner.Reader("broken")
    yield found
    found.close()


@pytest.mark.parametrize("kind", broken.KINDS)
def test_what_the_runner_sees(reader, kind, monkeypatch):
    monkeypatch.setattr(runner, "HANGS", 2 if kind == "hangs" else 30)
    assert reader({kind: b"BUG"}).outcome == kind
    assert reader({"loaded": b""}).outcome == "loaded"  # the next case is read as if nothing had happened


def test_a_failing_case_is_made_small(reader):
    assert runner.smaller(reader, {"traceback": b"the cause: BUG, and other bytes"}, "traceback") == {
        "traceback": b"BUG"
    }
