"""The config in the README, for one's own data in VOC's format, gives the datasets that the page describes."""

from __future__ import annotations

import re

from paths import CONFIGS, ROOT
from voc_devkit import CAT, write_image, xml

from ppdet_repro import build, load_config
from ppdet_repro.engine.evaluation.evaluate import check_evaluation

NAMES = ["cat", "dog", "bird"]


def test_the_config_for_voc_gives_three_datasets(tmp_path, monkeypatch):
    cells = tmp_path / "data" / "cells"
    for split in ("train", "test"):
        write_image(cells / f"{split}.jpg")
        (cells / f"{split}.xml").write_text(xml([CAT]))
        (cells / f"{split}.txt").write_text(f"{split}.jpg {split}.xml\n")
    (cells / "label_list.txt").write_text("\n".join(NAMES) + "\n")
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for base in ("yolof_r50_c5_1x_coco.yml", "../datasets/voc.yml"):  # it is written for configs/yolof/cells.yml
        assert base in text
        text = text.replace(base, str(CONFIGS / "yolof" / base))
    (tmp_path / "cells.yml").write_text(text)
    monkeypatch.chdir(tmp_path)

    cfg = load_config("cells.yml")
    train, evaluation = build(cfg, "TrainDataset"), build(cfg, "EvalDataset")
    for dataset in (train, evaluation):
        dataset.load()
        assert (len(dataset), dataset.class_names) == (1, NAMES)
        assert dataset.record(0)["gt_bbox"].tolist() == [list(CAT[1:5])]
    check_evaluation(evaluation, cfg)
    assert build(cfg, "TestDataset").class_names == NAMES
