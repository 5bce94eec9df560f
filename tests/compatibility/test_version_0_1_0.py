"""Files that version 0.1.0 wrote still load, and mean the same.

The files in `fixtures/version_0_1_0` are from version 0.1.0 (commit c9cd9c7): the first checkpoint of two epochs with
`tiny.yml`, and an export of that checkpoint's `model.pdparams`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from paths import FIXTURES

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.infer import infer
from ppdet_repro.engine.models import load_trained
from ppdet_repro.engine.training.train import train
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser

OLD = FIXTURES / "version_0_1_0"
CHECKPOINT = OLD / "epoch_0001"
IMAGES = sorted(str(path) for path in (OLD / "data" / "images").iterdir())
LOSSES_OF_EPOCH_2 = [3.3629515171051025, 3.3179826736450195]  # from log.jsonl of version 0.1.0


@pytest.fixture
def cfg(tmp_path):
    """The config of the files, with the checkpoint's weights; results go to a temporary folder."""
    text = (OLD / "tiny.yml").read_text(encoding="utf-8").replace("DATA", str(OLD / "data"))
    path = tmp_path / "tiny.yml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, [f"save_dir={tmp_path}/output", f"weights={CHECKPOINT}"])


def detections_of_export(folder):
    """What the exported model in a folder detects on each image, [M, 6] each."""
    flags = build_parser().parse_args([f"--model_dir={folder}"])
    pipeline = open_pipeline(open_model_folder(folder), flags)
    return [pipeline([image])[0].rows for image in IMAGES]


def assert_same(detections, others):
    """The same classes, and scores and boxes (pixels) equal up to rounding."""
    assert len(detections) == len(others) == len(IMAGES)
    for rows, other in zip(detections, others):
        assert rows.shape == other.shape and len(rows) > 0
        np.testing.assert_array_equal(rows[:, 0], other[:, 0])
        np.testing.assert_allclose(rows[:, 1], other[:, 1], rtol=1e-4)
        np.testing.assert_allclose(rows[:, 2:], other[:, 2:], atol=1e-2)


def test_a_resumed_run_has_the_losses_of_the_old_one(cfg, tmp_path):
    state = train(cfg, resume=str(CHECKPOINT))
    assert (state.epoch, state.step, state.seed) == (2, 4, 0)
    lines = [json.loads(line) for line in (tmp_path / "output/tiny/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
    assert [line["loss"] for line in lines] == pytest.approx(LOSSES_OF_EPOCH_2, rel=1e-4)


def test_weights_are_evaluated_and_find_what_the_old_export_finds(cfg):
    model = load_trained(cfg)
    assert 0 <= evaluate(model, cfg)["bbox_mAP"] <= 1
    found = infer(model, cfg, IMAGES, visualize=False)
    assert_same([image.rows for image in found], detections_of_export(OLD / "exported"))


def test_an_old_export_equals_a_new_one(cfg, tmp_path):
    export_model(load_trained(cfg), cfg, tmp_path / "exported")
    new, old = tmp_path / "exported" / "tiny", OLD / "exported"
    assert (new / "infer_cfg.yml").read_text() == (old / "infer_cfg.yml").read_text()
    assert_same(detections_of_export(old), detections_of_export(new))
