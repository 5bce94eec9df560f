"""PaddleSlim is imported quietly, when it is needed, and its absence is one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.utils.errors import UserError


def test_without_paddleslim_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddleslim", None)
    with pytest.raises(UserError, match="needs PaddleSlim .*ppdet-repro.slim.*--no-deps paddleslim==2.6.0"):
        import_paddleslim()


def test_only_what_needs_paddleslim_imports_it_and_without_output():
    code = """
import sys, zlib
import ppdet_repro.cli.main, ppdet_repro.engine.training.train, ppdet_repro.engine.export.export_model
assert "paddleslim" not in sys.modules
from ppdet_repro.slim.engine import import_paddleslim
print("-" * 20, file=sys.stderr, flush=True)  # Paddle 3 warns when it is imported
assert import_paddleslim().dygraph.FPGMFilterPruner
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr.endswith("-" * 20 + "\n")
