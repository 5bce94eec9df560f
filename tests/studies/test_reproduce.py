"""The command `reproduce` with real trainings: two rows, two seeds, seconds."""

from __future__ import annotations

import json
import statistics

import pytest
from tiny_yolof import write_training_config

from ppdet_repro.cli import main
from ppdet_repro.studies import identity
from ppdet_repro.utils.errors import UserError

STUDY = """\
title: A tiny study
seeds: [0, 1]
data: {folder: DATA}
overrides: [epoch=1, log_iter=1]
rows:
  top1: {config: CONFIG, overrides: [YOLOFHead.bbox_assigner.match_times=1], paper: {AP: 35.9}}
  top4: {config: CONFIG, paper: {AP: 37.7}}
claims:
- {text: four are better, test: top4 > top1}
"""


def reproduce(*argv):
    arguments = main.build_parser(argv).parse_args(["reproduce", *argv])
    return arguments.run(arguments)


def test_a_study_runs_from_end_to_end_and_is_drawn_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(identity, "code_hash", lambda: "code")  # somebody may edit the package while this test runs
    config = write_training_config(tmp_path)
    study = tmp_path / "tiny.study.yml"
    study.write_text(STUDY.replace("DATA", str(tmp_path / "data")).replace("CONFIG", str(config)))
    output = tmp_path / "out"
    reproduce(str(study), "--output", str(output), "--workers", "2")
    table = capsys.readouterr().out
    content = json.loads((output / "results.json").read_text())
    for row in content["table"]:
        scores = []
        for seed in (0, 1):
            log = (output / "runs" / f"{row['row']}-s{seed}" / "train" / "log.jsonl").read_text().splitlines()
            scores.append(100 * json.loads(log[-1])["bbox_mAP"])
        assert row["scores"]["AP"]["mean"] == pytest.approx(sum(scores) / 2, abs=1e-3)
        assert row["scores"]["AP"]["deviation"] == pytest.approx(statistics.stdev(scores), abs=1e-3)
    assert "4 of 4 runs" in table and content["claims"][0]["tests"][0]["paper"] == pytest.approx(1.8)
    assert {run["seconds"] > 0 for run in content["runs"]} == {True}
    assert not list(output.glob("runs/*/train/checkpoints"))

    again = tmp_path / "again"
    reproduce("--from", str(output / "results.json"), "--output", str(again))
    assert capsys.readouterr().out.strip() in table
    for name in ("results.json", "report.html"):
        assert (again / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"format": 2}', '{"format": 1, "name": "x", "study": 3}'])
def test_what_is_no_results_json_is_one_sentence(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json"):
        reproduce("--from", str(tmp_path / "results.json"))
