"""Building components from configs, and printing resolved configs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from toy_components import FEAT_IN, SoftNMS, ToyBackbone, ToyOptimizer, built, write

from ppdet_repro.core.config import UnknownParameter, build, build_model, load_config, show
from ppdet_repro.utils.errors import UserError


@pytest.mark.parametrize(
    "form", ["SoftNMS", "{name: SoftNMS}", "{SoftNMS: {}}", "{SoftNMS: }", "!SoftNMS {}", "!SoftNMS "]
)
def test_a_part_has_four_forms(form):
    assert isinstance(built(f"ToyHead: {{nms: {form}}}", "ToyHead", FEAT_IN).nms, SoftNMS)


def test_type_names_a_class_where_there_is_no_name():
    trainer = built("ToyTrainer: {optimizer: {type: ToyOptimizer, momentum: 0.8}}", "ToyTrainer")
    assert isinstance(trainer.optimizer, ToyOptimizer) and trainer.optimizer.momentum == 0.8


def test_shared_values_section_then_top_level_then_default():
    assert built("", "ToyBackbone").norm_type == "bn"
    assert built("norm_type: sync_bn", "ToyBackbone").norm_type == "sync_bn"
    assert built("norm_type: sync_bn\nToyBackbone: {norm_type: gn}", "ToyBackbone").norm_type == "gn"


def test_upstream_values_come_from_the_nearest_part_before():
    model = build_model(load_config(write("a.yml", "architecture: ToyDetector")))
    # level 2: 64 * 4 channels at stride 16; the neck halves the channels
    assert (model.neck.in_channels, model.neck.in_strides, model.head.branch.feat_in) == ([256], [16], 128)


def test_other_channels_in_the_yaml_are_ignored_with_a_warning(logged):
    text = "architecture: ToyDetector\nToyNeck:\n  in_channels: [{}]"
    for written in (256, 512):
        assert build_model(load_config(write("a.yml", text.format(written)))).neck.in_channels == [256]
        warning = "a.yml:3: ToyNeck.in_channels is [512], but ToyBackbone gives [256]; the value in the file is ignored"
        assert (warning in logged.text) == (written == 512)


def test_other_strides_in_the_yaml_are_an_error():
    text = "architecture: ToyDetector\nToyNeck:\n  in_strides: [{}]"
    assert build_model(load_config(write("a.yml", text.format(16)))).neck.in_strides == [16]
    with pytest.raises(UserError) as error:
        build_model(load_config(write("a.yml", text.format(8))))
    assert str(error.value) == (
        "a.yml:3: ToyNeck.in_strides is [8], but ToyBackbone gives [16]; leave it out or make them agree"
    )


def test_one_value_cannot_come_from_two_maps():
    cfg = load_config(write("a.yml", "architecture: ToyDetector\nToyBackbone: {levels: [0, 1]}"))
    with pytest.raises(UserError, match="ToyBranch.feat_in is for one feature map, but ToyNeck gives 2"):
        build_model(cfg)


def test_without_a_part_before_upstream_values_are_plain_parameters():
    assert built("ToyBranch: {feat_in: 8}", "ToyBranch").feat_in == 8
    with pytest.raises(UserError, match="^a.yml:1: ToyBranch needs 'feat_in'; no part before gives it"):
        built("", "ToyBranch")


def test_given_objects_beat_the_config_and_count_as_parts_before():
    backbone = ToyBackbone(levels=[0])
    cfg = load_config(write("a.yml", "ToyDetector: {backbone: ToyBackbone}"))
    model = build(cfg, "ToyDetector", backbone=backbone)
    assert model.backbone is backbone and model.neck.in_channels == [64]
    assert build(cfg, "ToyTrainer", optimizer="mine").optimizer == "mine"  # required, and not in the config
    with pytest.raises(UnknownParameter, match="ToyDetector has no parameter backbon"):
        build(cfg, "ToyDetector", backbon=backbone)


def test_what_a_constructor_refuses_has_file_and_line():
    text = "architecture: ToyDetector\nToyDetector:\n  backbone: {name: ToyBackbone, depth: 201}"
    cfg = load_config(write("a.yml", text))
    with pytest.raises(UserError) as error:
        build_model(cfg)
    assert str(error.value) == "a.yml:3: ToyBackbone: depth above 200 does not exist"
    cfg = load_config(write("a.yml", "architecture: ToyDetector\n\nToyBackbone:\n  depth: 201"))
    with pytest.raises(UserError, match="^a.yml:3: ToyBackbone: depth above"):
        build_model(cfg)


def test_a_bug_in_a_constructor_is_not_the_users_mistake():
    cfg = load_config(write("a.yml", "architecture: ToyDetector\nToyBackbone: {depth: 199}"))
    with pytest.raises(TypeError, match="^object of type 'int' has no len") as error:
        build_model(cfg)
    assert error.traceback[-1].name == "__init__" and error.traceback[-1].path.name == "toy_components.py"


def test_a_class_without_constructor_has_its_parents_parameters():
    assert vars(built("HalfToyLoss: {weight: 2}", "HalfToyLoss")) == {"weight": 2.0, "gamma": 2.0}


def test_things_that_the_config_does_not_have_cannot_be_built():
    cfg = load_config(write("a.yml", ""))
    for call, message in (
        (lambda: build_model(cfg), "a.yml: the config names no architecture"),
        (lambda: build(cfg, "EvalDataset"), "the config has no section EvalDataset"),
        (lambda: build(cfg, "ToyBakbone"), "no component 'ToyBakbone'; did you mean 'ToyBackbone'?"),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value) == message


def test_the_public_entry_points():
    import ppdet_repro

    assert (ppdet_repro.load_config, ppdet_repro.build_model) == (load_config, build_model)
    cfg = load_config(write("some/name.yml", ""))
    assert (cfg.name, cfg.path) == ("name", Path("some/name.yml"))


# --- printing ---


def test_show_has_every_value_with_its_origin():
    write("b.yml", "architecture: ToyDetector\nToyNeck: {spp: true}\nToyLoss: {weight: 1}")
    text = "_BASE_: b.yml\nToyHead:\n  losses:\n    - ToyLoss: {gamma: 1}\nToyAdam:\nexport:\n  nms: false"
    printed = show(load_config(write("a.yml", text), ["ToyBackbone.depth=18"]))
    rows = [tuple(part.strip() for part in line.split("  ") if part.strip()) for line in printed.splitlines()]
    for row in (
        ("architecture: ToyDetector", "b.yml:1"),
        ("epoch: 0", "default"),
        ("backbone: ToyBackbone", "default"),
        ("depth: 18", "command line"),
        ("levels: [2]", "default"),
        ("spp: true", "b.yml:2"),
        ("in_channels:", "the outputs of the part before"),
        ("losses:", "a.yml:3"),
        ("- ToyLoss", "a.yml:4"),
        ("gamma: 1.0", "a.yml:4"),
        ("weight: 1.0", "b.yml:3"),
        ("# ToyAdam: nothing uses this section", "a.yml:5"),
        ("nms: false", "a.yml:7"),
        ("benchmark: false", "default"),
    ):
        assert row in rows
    assert printed.count("nothing uses this section") == 1
    origins = {line.rindex("  ") for line in printed.splitlines() if line.endswith("default")}
    assert len(origins) == 1  # one column


def test_print_config_reports_in_one_line_with_exit_code_2():
    command = [sys.executable, str(ROOT / "tools/print_config.py"), "-c", write("a.yml", "epochs: 1")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr == "error: a.yml:1: unknown key 'epochs'; did you mean 'epoch'?\n"
    command[-1] = write("b.yml", "")
    command += ["-o", "epoch=5", "-o", "seed=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "epoch: 5" in result.stdout and "seed: 1" in result.stdout
    assert "\033" not in result.stdout
