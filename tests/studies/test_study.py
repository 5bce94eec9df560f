"""Study files: what they may contain, the packaged ones, and what the identity of a run depends on."""

from __future__ import annotations

import json
import re

import pytest
from tiny_yolof import write_training_config

from ppdet_repro.core.config import load_config
from ppdet_repro.studies import identity
from ppdet_repro.studies.cost import cost_of, count_of, dry_run, mean_training_area
from ppdet_repro.studies.plan import MINIATURE, PAPER, config_of, make_plan, row_overrides
from ppdet_repro.studies.study import PACKAGED, find_study
from ppdet_repro.utils.errors import UserError

STUDIES = sorted(path.stem for path in PACKAGED.glob("*.yml"))
GOOD = """\
title: T
seeds: [0, 1]
data: {folder: here}
rows:
  a: {config: a.yml}
  b: {config: b.yml, label: B, overrides: [x=1], paper: {config: c.yml, AP: 30.0}}
claims:
- {text: better, test: b > a}
"""


def write(folder, text):
    path = folder / "mine.yml"
    path.write_text(text)
    return path


def test_a_study_file(tmp_path):
    study = find_study(str(write(tmp_path, GOOD)))
    assert (study.name, study.metric, study.seeds, study.folder) == ("mine", "AP", (0, 1), "here")
    assert study.rows[0].label == "a" and study.rows[1].overrides == ("x=1",)
    assert study.rows[1].paper.scores == {"AP": 30.0}
    assert study.claims[0].comparisons[0].rows() == ["b", "a"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("title: T", "titel: T", "mine.yml:1: a study has no key 'titel'"),
        ("[0, 1]", "[0, 0]", "seeds must be a list of different whole numbers"),
        ("[0, 1]", "[0, -1]", "mine.yml:2: a seed is a whole number of at least 0"),
        ("{folder: here}", "{folder: here, synthetic: {}}", "data is either"),
        ("{folder: here}", "{synthetic: {trian: 3}}", "synthetic has no key 'trian'"),
        ("config: a.yml", "label: A", "mine.yml:5: row a has no config"),
        ("  a:", "  a-b:", "mine.yml:5: row 'a-b': a name consists of"),
        ("AP: 30.0", "AP: high", "mine.yml:6: row b: the paper's scores are numbers"),
        ("AP: 30.0", "mAP: 30", "the paper's part of row b has no key 'mAP'"),
        ("b > a", "b > c", "mine.yml:8: 'b > c': there is no row c; the rows are a, b"),
        ("b > a", "b >= a", "mine.yml:8: 'b >= a' is not a comparison: write A > B or A <= B"),
        ("b > a", "b.AP_X > a", "metric AP_X is unknown"),
        ("[x=1]", "[1]", "overrides must be a text, or a list of texts"),
        ("seeds: [0, 1]", "metric: F1\nseeds: [0]", "metric 'F1' is unknown"),
    ],
)
def test_mistakes_in_a_study_have_their_line(tmp_path, old, new, message):
    assert GOOD.count(old) >= 1
    with pytest.raises(UserError, match=re.escape(message)):
        find_study(str(write(tmp_path, GOOD.replace(old, new, 1))))


def test_an_unknown_study_lists_the_packaged_ones():
    with pytest.raises(UserError, match="no such study; give a YAML file, or one of .*yolof_table4"):
        find_study("yolof_table_4")


@pytest.mark.parametrize("name", STUDIES)
def test_a_packaged_study_has_enough_seeds_and_valid_configs_of_both_sizes(name):
    study = find_study(name)
    assert len(study.seeds) >= 3 and study.claims
    for row in study.rows:
        for scale in (MINIATURE, PAPER):
            cfg = load_config(config_of(row, scale), row_overrides(study, row, scale, None, []))
            assert cfg.run.epoch % cfg.run.snapshot_epoch == 0 or scale == PAPER
        assert (cfg.run.num_classes, cfg.run.metric) == (80, "COCO")  # of the paper's size


def test_the_packaged_studies_are_of_five_papers_and_have_20_rows():
    studies = [find_study(name) for name in STUDIES]
    assert {study.name.split("_")[0] for study in studies} == {"yolof", "ppyolov2", "pafnet", "sapd", "bifpn"}
    assert sum(len(study.rows) for study in studies) >= 20


@pytest.mark.parametrize("name", STUDIES)
def test_the_rows_of_a_study_differ(name):
    study = find_study(name)
    for scale in (MINIATURE, PAPER):
        configs = [load_config(config_of(row, scale), row_overrides(study, row, scale, None, [])) for row in study.rows]
        assert len({identity.config_hash(cfg) for cfg in configs}) == len(configs)


@pytest.fixture
def tiny(tmp_path):
    """The config of a small YOLOF with data, and a study of it."""
    config = write_training_config(tmp_path)
    text = GOOD.replace("here", str(tmp_path / "data")).replace("a.yml", str(config)).replace("b.yml", str(config))
    return config, find_study(str(write(tmp_path, text.replace("x=1", "YOLOFHead.bbox_assigner.match_times=1"))))


def test_the_plan_takes_the_rows_in_turn(tiny, tmp_path):
    _, study = tiny
    plan = make_plan(study, MINIATURE, tmp_path / "out", None, [0, 7], ["log_iter=3"])
    assert [run.name for run in plan.runs] == ["a-s0", "b-s0", "a-s7", "b-s7"]
    run = plan.runs[3]
    cfg = load_config(run.config, run.overrides)
    assert (cfg.run.seed, cfg.run.log_iter, cfg.name) == (7, 3, "train")
    assert cfg.run.save_dir == str(tmp_path / "out" / "runs" / "b-s7")
    assert plan.runs[1].identity == run.identity != plan.runs[0].identity


def test_a_plan_of_chosen_rows(tiny, tmp_path):
    _, study = tiny
    plan = make_plan(study, MINIATURE, tmp_path / "out", None, [0, 1], [], ["b"])
    assert [run.name for run in plan.runs] == ["b-s0", "b-s1"]
    assert "a-s0" not in dry_run(study, MINIATURE, tmp_path / "out", None, [0, 1], [], ["b"])
    with pytest.raises(UserError, match="--rows: there is no row c; the rows are a, b"):
        study.chosen(["c"])


def test_what_the_identity_of_a_run_depends_on(tiny, tmp_path):
    config, study = tiny

    def first(data=None, extra=()):
        return make_plan(study, MINIATURE, tmp_path / "out", data, [0], list(extra)).runs[0].identity

    before = first()
    assert first(extra=["seed=3"]) == before
    assert identity.changed(first(extra=["epoch=3"]), before) == ["the config"]
    (tmp_path / "copy").mkdir()
    truth = (tmp_path / "data" / "truth.json").read_text()
    (tmp_path / "copy" / "truth.json").write_text(truth)
    assert first(data=str(tmp_path / "copy")) == before  # the same data elsewhere
    changed = json.loads(truth)
    changed["annotations"].pop()
    (tmp_path / "copy" / "truth.json").write_text(json.dumps(changed))
    assert identity.changed(first(data=str(tmp_path / "copy")), before) == ["the data"]
    with pytest.raises(UserError, match="nowhere/truth.json: No such file or directory; give .* --data"):
        first(data="nowhere")


def test_the_hash_of_sources_leaves_out_what_does_not_train(tmp_path):
    for name in ("core/a.py", "studies/b.py", "cli/c.py", "core/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    before = identity.code_hash(tmp_path)
    for name in ("studies/b.py", "cli/c.py", "core/d.txt"):
        (tmp_path / name).write_text("x = 2\n")
    assert identity.code_hash(tmp_path) == before
    (tmp_path / "core/a.py").write_text("x = 2\n")
    assert identity.code_hash(tmp_path) != before


def test_a_voc_set_is_its_list_and_all_its_xml_files(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text("<a/>")
    files = identity.annotation_files({"dataset_dir": str(tmp_path), "anno_path": "list.txt"})
    assert [file.name for file in files] == ["list.txt", "1.xml"]


def test_the_cost_of_a_run(tiny):
    """6 images, 2 epochs, evaluated after each: 3 x 12 in training, 12 in evaluation."""
    config, study = tiny
    cost = cost_of(study.rows[0], str(config), load_config(config), None)
    assert (cost.training, cost.evaluated, cost.ratio) == (12, 12, 1.0)
    assert cost.total == pytest.approx(cost.gflops * 48)


def test_the_cost_of_several_training_sizes_is_that_of_their_mean_area():
    reader = {"batch_transforms": [{"BatchRandomResize": {"target_size": [96, 128]}}]}
    assert mean_training_area(reader, 128 * 128) == (96 * 96 + 128 * 128) / 2 / (128 * 128)


@pytest.mark.parametrize("name", STUDIES)
def test_the_costs_of_every_row_at_the_papers_size_are_known_without_coco(name):
    study = find_study(name)
    for row in study.rows:
        cfg = load_config(config_of(row, PAPER), row_overrides(study, row, PAPER, None, []))
        assert count_of(cfg, "TrainDataset") in (118287, 25000) and count_of(cfg, "EvalDataset") == 5000


def test_a_dry_run_lists_every_run_and_makes_nothing(tiny, tmp_path):
    _, study = tiny
    text = dry_run(study, MINIATURE, tmp_path / "out", None, [0, 1], [])
    assert all(name in text for name in ("a-s0", "b-s0", "a-s1", "b-s1", "4 runs,"))
    assert not (tmp_path / "out").exists()
