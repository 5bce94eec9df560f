"""Reading configs: files and their bases, packaged configs, merging, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import CONFIGS
from toy_components import FEAT_IN, built, problems, write

from ppdet_repro.core.config import build, load_config
from ppdet_repro.core.config.reading import load_document
from ppdet_repro.utils import packaged
from ppdet_repro.utils.errors import UserError

BCCD_LABELS = "TestDataset.anno_path=configs/datasets/bccd_label_list.txt"


def test_dicts_merge_lists_replace_later_bases_win_and_the_file_beats_them_all():
    write("bases/one.yml", "ToyBackbone: {depth: 1, levels: [0, 1]}\nepoch: 1\nlog_iter: 1\nseed: 1")
    write("bases/two.yml", "ToyBackbone: {levels: [3]}\nepoch: 2\nlog_iter: 2")
    cfg = load_config(write("c.yml", "_BASE_: [bases/one.yml, ./bases/two.yml]\nepoch: 3"))
    assert (cfg.run.seed, cfg.run.log_iter, cfg.run.epoch) == (1, 2, 3)
    backbone = build(cfg, "ToyBackbone")
    assert (backbone.depth, backbone.levels) == (1, [3])


def test_base_may_be_one_name_an_absolute_path_and_have_bases_itself(tmp_path):
    write("deep/er/root.yml", "epoch: 7")
    write("deep/middle.yml", "_BASE_: er/root.yml")
    assert load_config(write("c.yml", f"_BASE_: {tmp_path}/deep/middle.yml")).run.epoch == 7


def test_bases_in_a_cycle_are_an_error():
    write("b.yml", "_BASE_: a.yml")
    assert problems("_BASE_: b.yml") == ["b.yml: _BASE_ files include each other in a cycle: a.yml -> b.yml -> a.yml"]


def test_a_missing_file_is_named_with_the_file_that_includes_it():
    assert problems("_BASE_: [gone.yml]") == ["gone.yml: no such file (named by _BASE_ in a.yml)"]
    with pytest.raises(UserError, match="^nowhere.yml: no such file$"):
        load_config("nowhere.yml")


def test_packaged_configs_are_found_from_any_folder():
    cfg = load_config("yolof/yolof_r50_c5_1x_coco.yml")
    assert cfg.path == CONFIGS / "yolof/yolof_r50_c5_1x_coco.yml" and cfg.run.architecture == "YOLOF"
    assert load_config("configs/yolof/yolof_r50_c5_1x_coco.yml") == cfg
    teacher = load_config(
        "ttfnet/pafnet_lite_mobilenet_v3_20x_coco.yml", slim_config="slim/distill/pafnet_lite_from_pafnet.yml"
    )
    assert teacher.slim_path == CONFIGS / "slim/distill/pafnet_lite_from_pafnet.yml"


def test_a_file_of_the_users_beats_the_packaged_one_of_that_name():
    name = write("yolof/yolof_r50_c5_1x_coco.yml", "epoch: 99")
    cfg = load_config(name)
    assert (cfg.run.epoch, cfg.path) == (99, Path(name))


def test_base_may_name_a_packaged_config_but_looks_beside_its_file_first():
    child = write("mine/child.yml", "_BASE_: yolof/yolof_r50_c5_1x_coco.yml\nepoch: 3")
    write("yolof/yolof_r50_c5_1x_coco.yml", "seed: 99")  # is in the working directory, not beside the child
    assert load_config(child).run.architecture == "YOLOF"
    write("mine/yolof/yolof_r50_c5_1x_coco.yml", "seed: 99")
    assert load_config(child).run.architecture is None and load_config(child).run.seed == 99


def test_a_missing_config_names_the_most_similar_packaged_ones():
    with pytest.raises(UserError) as error:
        load_config("yolof/yolof_r50_c5_1x.yml")
    (line,) = str(error.value).splitlines()
    start = "yolof/yolof_r50_c5_1x.yml: no such file; the packaged configs with the most similar names: "
    assert line.startswith(start + "yolof/yolof_r50_c5_1x_coco.yml, ")


def test_packaged_names_do_not_lead_out_of_the_folder():
    for name in ("../setup.py", str(CONFIGS / "yolof/none.yml")):
        with pytest.raises(UserError, match="no such file"):
            load_config(name)


def test_a_packaged_label_list_is_found_from_any_folder():
    assert build(load_config("yolof/yolof_r18vd_bccd.yml", [BCCD_LABELS]), "TestDataset").class_names == [
        "Platelets",
        "RBC",
        "WBC",
    ]


def test_in_an_installation_the_configs_are_inside_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path / "ppdet_repro")
    assert packaged.packaged_configs() == tmp_path / "configs"
    write("ppdet_repro/configs/a/b.yml", "epoch: 5")
    assert packaged.packaged_configs() == tmp_path / "ppdet_repro/configs"
    assert load_config("a/b.yml").run.epoch == load_config("configs/a/b.yml").run.epoch == 5


def test_a_file_that_is_no_text_is_an_error():
    Path("a.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="^a.yml:1: not text in UTF-8"):
        load_config("a.yml")


def test_bad_yaml_is_reported_with_its_line():
    (line,) = problems("epoch: 1\nlog_iter: [1, 2\nseed: 3")
    assert line.startswith("a.yml:3: not valid YAML: ")


def test_duplicate_keys_are_an_error_at_any_depth():
    assert problems("epoch: 1\nToyBackbone:\n  depth: 1\n  depth: 2\nepoch: 2") == [
        "a.yml:4: 'depth' is given twice, first in line 3",
        "a.yml:5: 'epoch' is given twice, first in line 1",
    ]


def test_yaml_can_run_no_code():
    Path("marker").touch()
    (line,) = problems("seed: !!python/object/apply:os.remove [marker]")
    assert line.startswith("a.yml:1: ") and Path("marker").exists()


def test_anchors_and_merge_keys_work_and_loops_are_an_error():
    text = "ToyTrainer:\n  optimizer: &o {name: ToyAdam, beta: 0.5}\n  extra: {<<: *o, beta: 0.6}"
    assert built(text, "ToyTrainer").extra == {"name": "ToyAdam", "beta": 0.6}
    assert problems("ToyTrainer: &t\n  extra: *t") == ["a.yml:2: an alias contains itself"]


def test_an_empty_file_is_an_empty_config_and_a_list_is_none():
    assert load_config(write("a.yml", "# nothing\n")).run.epoch == 0
    assert problems("- 1") == ["a.yml:1: a config is a mapping of keys to values"]


def test_a_config_is_a_value():
    write("one.yml", "ToyHead: {num_classes: 5, nms: {name: SoftNMS, sigma: 1.0}}\nnum_classes: 3")
    write("two.yml", "ToyHead: {nms: {name: HardNMS, keep_top_k: 7}}\nnum_classes: 4")
    first = [load_config(name) for name in ("one.yml", "two.yml")]
    again = [load_config(name) for name in ("two.yml", "one.yml")][::-1]
    assert first == again
    for one, two in (first, again):
        assert build(one, "ToyHead", branch=0).nms.sigma == 1.0
        assert build(two, "ToyHead", branch=0).num_classes == 4


def test_what_a_component_does_to_its_lists_stays_there():
    cfg = load_config(write("a.yml", "ToyTrainer: {optimizer: ToyOptimizer, steps: [1], extra: {k: [2]}}"))
    trainer = build(cfg, "ToyTrainer")
    trainer.steps.append(9)
    trainer.extra["k"].append(9)
    other = build(cfg, "ToyTrainer")
    assert (other.steps, other.extra) == ([1], {"k": [2]})


# --- merging components ---


def test_another_class_keeps_the_keys_it_has_and_drops_the_others():
    """PaddleDetection merges the dicts whatever the name and dies of the keys that the new class lacks."""
    write("b.yml", "ToyHead: {nms: {name: HardNMS, keep_top_k: 7, nms_threshold: 0.6}}")
    head = built("_BASE_: b.yml\nToyHead: {nms: {name: SoftNMS, sigma: 3.0}}", "ToyHead", FEAT_IN)
    assert vars(head.nms) == {"score_threshold": 0.05, "sigma": 3.0, "keep_top_k": 7}


def test_an_override_that_names_another_class_drops_mappings_too():
    document = load_document(Path(write("a.yml", "A: {b: {name: X, c: {d: 1}}}")), ["A.b={name: Y}"], [])
    part = document.value["A"].value["b"].value["c"]
    assert part.plain() == {"d": 1} and part.inherited  # so that a Y without a parameter `c` drops it


def test_a_section_that_names_another_class_starts_anew():
    """A VOCDataSet over a COCODataSet has no use for the folder of the COCO dataset."""
    write("b.yml", "Dataset: {name: COCODataSet, image_dir: train2017, sample_num: 3}\nOther: {name: X, a: 1}")

    def read(text, *overrides):
        return load_document(Path(write("a.yml", f"_BASE_: b.yml\n{text}")), overrides, []).plain()

    new = {"Dataset": {"name": "VOCDataSet", "anno_path": "a.txt"}, "Other": {"name": "X", "a": 1}}
    assert read("Dataset: {name: VOCDataSet, anno_path: a.txt}") == new
    assert read("Dataset: !VOCDataSet {anno_path: a.txt}") == new
    assert read("", "Dataset={name: VOCDataSet, anno_path: a.txt}") == new

    same, renamed = read("Dataset: {name: COCODataSet, sample_num: 4}"), read("", "Dataset.name=VOCDataSet")
    assert same["Dataset"] == {"name": "COCODataSet", "image_dir": "train2017", "sample_num": 4}
    assert renamed["Dataset"] == {"name": "VOCDataSet", "image_dir": "train2017", "sample_num": 3}


def test_a_mistake_beside_the_new_name_is_still_one():
    write("b.yml", "ToyHead:\n  nms: {name: HardNMS, nms_threshold: 0.6}")
    text = "_BASE_: b.yml\nToyHead:\n  nms:\n    name: SoftNMS\n    nms_threshold: 0.7"
    (line,) = problems(text)
    assert line.startswith("a.yml:5: SoftNMS has no parameter 'nms_threshold'")


def test_the_name_can_change_by_type_by_tag_by_single_key_and_by_override():
    write("b.yml", "ToyTrainer: {optimizer: {type: ToyOptimizer, momentum: 0.8}}")
    for child in ("{type: ToyAdam}", "!ToyAdam {}", "{ToyAdam: {}}", "ToyAdam", "{name: ToyAdam}"):
        trainer = built(f"_BASE_: b.yml\nToyTrainer: {{optimizer: {child}}}", "ToyTrainer")
        assert vars(trainer.optimizer) == {"beta": 0.9}
    trainer = built("_BASE_: b.yml", "ToyTrainer", "ToyTrainer.optimizer.type=ToyAdam")
    assert vars(trainer.optimizer) == {"beta": 0.9}


def test_forms_of_one_class_merge():
    write("b.yml", "ToyHead: {nms: {SoftNMS: {sigma: 3.0}}}")
    head = built("_BASE_: b.yml\nToyHead: {nms: {name: SoftNMS, keep_top_k: 7}}", "ToyHead", FEAT_IN)
    assert (head.nms.sigma, head.nms.keep_top_k) == (3.0, 7)


def test_a_tag_replaces_and_is_replaced_as_in_paddledetection():
    tagged = "TrainDataset: !ToySet {folder: tagged, empty: true}"
    named = "TrainDataset: {name: ToySet, folder: named, empty: true}"
    for base, child, folder, empty in (
        (tagged, "TrainDataset: {name: ToySet, folder: new}", "new", False),
        (named, "TrainDataset: !ToySet {folder: new}", "new", False),
        (tagged, "TrainDataset: !ToySet {folder: new}", "new", False),
        (tagged, "TrainDataset: {folder: added}", "added", True),
    ):
        write("b.yml", base)
        dataset = built(f"_BASE_: b.yml\n{child}", "TrainDataset")
        assert (dataset.folder, dataset.empty) == (folder, empty)


def test_an_inline_part_starts_from_its_top_level_section():
    text = "ToyLoss: {weight: 3, gamma: 1}\nToyHead: {loss: {name: ToyLoss, gamma: 5}, losses: [ToyLoss]}"
    head = built(text, "ToyHead", FEAT_IN)
    assert vars(head.loss) == {"weight": 3.0, "gamma": 5.0}
    assert vars(head.losses[0]) == {"weight": 3.0, "gamma": 1.0}


# --- overrides ---


def test_overrides_beat_the_file_merge_deeply_and_the_last_wins():
    text = "epoch: 1\nToyHead: {nms: {name: HardNMS, keep_top_k: 7}}"
    overrides = ["epoch=2", "epoch=3", "ToyHead.nms={score_threshold: 0.5}", "ToyHead.nms.nms_threshold=.25"]
    cfg = load_config(write("a.yml", text), [*overrides, "export.nms=false", "save_dir=a=b", FEAT_IN])
    assert (cfg.run.epoch, cfg.run.export.nms, cfg.run.save_dir) == (3, False, "a=b")
    nms = build(cfg, "ToyHead").nms
    assert vars(nms) == {"score_threshold": 0.5, "nms_threshold": 0.25, "keep_top_k": 7}


def test_a_whole_section_given_as_an_override_merges_too():
    backbone = built("ToyBackbone: {levels: [0]}", "ToyBackbone", "ToyBackbone={depth: 3}")
    assert (backbone.depth, backbone.levels) == (3, [0])


def test_overrides_reach_into_lists():
    text = "ToyHead: {losses: [ToyLoss, {ToyLoss: {weight: 1.0}}, !ToyLoss {weight: 1.0}]}"
    overrides = ["losses.0={ToyLoss: {weight: 2}}", "losses.1.ToyLoss.weight=3", "losses.2.weight=4"]
    head = built(text, "ToyHead", FEAT_IN, *(f"ToyHead.{override}" for override in overrides))
    assert [loss.weight for loss in head.losses] == [2, 3, 4]


def test_overrides_make_sections_that_the_file_lacks():
    assert built("", "ToyTrainer", "ToyTrainer.optimizer.name=ToyAdam").optimizer.beta == 0.9


@pytest.mark.parametrize(
    "override, message",
    [
        ("epoch", "it is not of the form a.b.c=value"),
        ("a..b=1", "it is not of the form a.b.c=value"),
        ("epoch=[1", "the value is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("ToyTrainer.steps.2=1", "ToyTrainer.steps has 2 items, counted from 0, but no '2'"),
        ("ToyDetector.head.a=1", "ToyDetector.head is 'ToyHead' and has no 'a' inside; override ToyHead.a"),
    ],
)
def test_bad_overrides_are_reported(override, message):
    text = "ToyTrainer: {optimizer: ToyAdam, steps: [1, 2]}\nToyDetector: {head: ToyHead}"
    assert problems(text, override) == [f"command line: override {override!r}: {message}"]


def test_a_wrong_override_is_placed_on_the_command_line():
    assert problems("epoch: 1", "epoch=a") == ["command line: epoch must be an integer, got 'a'"]
