"""The examples in docstrings run, and every function of the public interface has one."""

from __future__ import annotations

import doctest
from typing import Any, List

import pytest

import ppdet_repro
from ppdet_repro.core import config, contract


def examples(name: str, thing: Any) -> List[doctest.DocTest]:
    """Those of a function, or of a class and its methods."""
    return [test for test in doctest.DocTestFinder().find(thing, name) if test.examples]


PUBLIC = {name: getattr(ppdet_repro, name) for name in ppdet_repro.__all__}
OTHERS = {
    **{f"contract.{name}": thing for name, thing in vars(contract).items() if getattr(thing, "__doc__", None)},
    **{f"config.{name}": getattr(config, name) for name in config.__all__ if name not in PUBLIC},
}
TESTS = [test for name, thing in {**PUBLIC, **OTHERS}.items() for test in examples(name, thing)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_examples_in_docstrings_run(test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    failures, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert failures == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_has_an_example(name):
    assert name in {test.name for test in TESTS}


def test_public_names_are_listed_and_others_are_an_error():
    assert set(ppdet_repro._MODULES) == set(ppdet_repro.__all__)
    with pytest.raises(AttributeError, match="module 'ppdet_repro' has no attribute 'build_modle'"):
        ppdet_repro.build_modle  # noqa: B018
