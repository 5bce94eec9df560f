"""The table of the papers' sizes: which rows it has, its arithmetic, and what it explains."""

from __future__ import annotations

import pytest

from ppdet_repro.core.config import load_config
from ppdet_repro.studies.sizes import Size, configs_with_sizes, sizes_table


def row(config, parameters, gflops):
    """A size that the config's paper counts like this, in millions and 1e9."""
    cfg = load_config(config)
    return Size(cfg, 50.0, 100.0, parameters, gflops, ["here 50.00 M, 100.00 GFLOPs", "for 1 px 1.00 M, 2.00 GFLOPs"])


def test_every_row_with_a_paper_of_its_own_is_in_the_table():
    names = [cfg.name for cfg in configs_with_sizes()]
    assert len(names) == len(set(names)) >= 18
    assert {"yolof_r50_c5_1x_coco", "retinanet_r101_1x_coco", "table1_g_10x_coco", "table1_a_coco"} <= set(names)
    assert all(cfg.run.paper.parameters > 0 and cfg.run.paper.gflops > 0 for cfg in configs_with_sizes())


def test_differences_above_one_percent_are_explained():
    """YOLOF-R50 has 44 M and 86 GFLOPs in the paper: 44.22 is 0.5 % more, 87.72 is 2 % more."""
    near = row("yolof/yolof_r50_c5_1x_coco.yml", 44.22, 86.43)
    far = row("yolof/yolof_r101_c5_1x_coco.yml", 63.0, 154.02)
    assert near.differences == [pytest.approx(0.005), pytest.approx(0.005)]
    text = sizes_table([near, far])
    assert "+0.5%" in text and "+2.0%" in text
    explained = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(explained) == 1
    assert explained[0].startswith("- yolof_r101_c5_1x_coco: here 50.00 M, 100.00 GFLOPs; then for 1 px 1.00 M")
