"""The files of configs/slim: each names a matching config in its first lines."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from ppdet_repro.core.config import build, load_config
from ppdet_repro.engine.models import distilled

SLIM = sorted((ROOT / "configs" / "slim").rglob("*.yml"))


@pytest.mark.parametrize("path", SLIM, ids=lambda path: path.stem)
def test_a_slim_config_matches_the_config_it_names(path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    named = re.search(r"-c (\S+)", header)[1]
    config = "configs/demo/yolof_demo.yml" if named == "CONFIG" else named
    assert str(path.relative_to(ROOT)) in header
    cfg = load_config(ROOT / config, (), path)
    if cfg.teacher is None:
        assert path.parent.name == {"PTQ": "post_quant", "QAT": "quant", "Pruner": "prune"}[cfg.run.slim]
        build(cfg, cfg.run.slim)
        return
    assert path.parent.name == {"Distill": "distill", "DistillPrune": "extensions"}[cfg.teacher.run.slim]
    assert cfg.teacher.run.pretrain_weights
    student, teacher = (build(one, one.run.architecture) for one in (cfg, cfg.teacher))
    model = distilled(student, teacher, cfg.teacher)  # raises if they do not fit
    assert len(model.distillation)
