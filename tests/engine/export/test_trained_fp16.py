"""The recorded AP of trained models in FP16."""

from __future__ import annotations

import json

from precision_cells import PAGE
from trained_fp16 import LIMIT, RESULTS, rendered


def test_fp16_keeps_the_ap():
    for name, found in json.loads(RESULTS.read_text("utf-8")).items():
        assert found["fp32"] > 0.2, name  # it has learned something
        assert max(abs(found[kind] - found["fp32"]) for kind in ("fp16", "rounded")) <= LIMIT, name


def test_the_page_shows_what_was_recorded():
    page = PAGE.read_text("utf-8")
    assert rendered(page, json.loads(RESULTS.read_text("utf-8"))) == page
