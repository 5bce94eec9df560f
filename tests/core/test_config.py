"""The config system: the YAML dialect, the checks, and what gets built."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Set

import pytest
from paths import CONFIGS, ROOT

from ppdet_repro.core import registry
from ppdet_repro.core.config import build, build_model, components, load_config, show
from ppdet_repro.core.config.components import REQUIRED, Expression, Parameter
from ppdet_repro.core.config.document import Node, Problem
from ppdet_repro.core.config.reading import compose
from ppdet_repro.core.config.run import NO_EFFECT, UNSUPPORTED_HARDWARE, ExportSettings, RunSettings
from ppdet_repro.core.config.schema import Checker, Scope
from ppdet_repro.core.config.types import ListOf, OneOf, Scalar, parse_annotation
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.utils import packaged
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger


class Shape(NamedTuple):
    channels: int
    stride: int


@register
class ToyBackbone:
    """A backbone with one output a level."""

    def __init__(self, depth: int = 50, levels: Sequence[int] = (2,), norm_type: Shared[str] = "bn"):
        if depth > 200:
            raise UserError("depth above 200 does not exist")
        if depth == 199:
            len(depth)  # a programming error
        self.depth, self.norm_type, self.levels = depth, norm_type, levels
        self.out_shape = [Shape(64 * 2**level, 4 * 2**level) for level in levels]


@register
class ToyNeck:
    """A neck that halves the channels."""

    def __init__(self, in_channels: Upstream[List[int]], in_strides: Upstream[List[int]] = None, spp: bool = False):
        self.in_channels, self.in_strides, self.spp = in_channels, in_strides, spp
        self.out_shape = [Shape(c // 2, s) for c, s in zip(in_channels, in_strides)]


@register
class ToyBranch:
    """A part of the head that wants one map's channels."""

    def __init__(self, feat_in: Upstream[int], convs: int = 2):
        self.feat_in, self.convs = feat_in, convs


@register
class HardNMS:
    """Has parameters of its own and some in common with SoftNMS."""

    def __init__(self, score_threshold: float = 0.05, nms_threshold: float = 0.5, keep_top_k: int = 100):
        self.score_threshold, self.nms_threshold, self.keep_top_k = score_threshold, nms_threshold, keep_top_k


@register
class SoftNMS:
    def __init__(self, score_threshold: float = 0.05, sigma: float = 2.0, keep_top_k: int = 100):
        self.score_threshold, self.sigma, self.keep_top_k = score_threshold, sigma, keep_top_k


@register
class ToyLoss:
    def __init__(self, weight: float, gamma: float = 2.0):
        self.weight, self.gamma = weight, gamma


@register
class HalfToyLoss(ToyLoss):
    """Takes its parent's parameters."""


@register
class ToyHead:
    def __init__(
        self,
        num_classes: Shared[int] = 80,
        branch: Part[Any] = "ToyBranch",
        nms: Part[Any] = "HardNMS",
        loss: Optional[Part[Any]] = None,
        losses: Optional[List[Part[Any]]] = None,
    ):
        self.num_classes, self.branch, self.nms = num_classes, branch, nms
        self.loss, self.losses = loss, losses


@register
class ToyDetector:
    def __init__(self, backbone: Part[Any] = "ToyBackbone", neck: Part[Any] = "ToyNeck", head: Part[Any] = "ToyHead"):
        self.backbone, self.neck, self.head = backbone, neck, head


@register
class ToyOptimizer:
    def __init__(self, momentum: float = 0.9):
        self.momentum = momentum


@register
class ToyAdam:
    def __init__(self, beta: float = 0.9):
        self.beta = beta


@register
class ToyTrainer:
    def __init__(self, optimizer: Part[Any], steps: List[int] = None, extra: Any = None):
        self.optimizer, self.steps, self.extra = optimizer, steps, extra


@register
class ToySet:
    def __init__(self, folder: str, empty: bool = False):
        self.folder, self.empty = folder, empty


@register
class ToyVOCSet:
    def __init__(self, folder: str, labels: str = "labels.txt"):
        self.folder, self.labels = folder, labels


@register
class ToyOuroboros:
    def __init__(self, tail: Part[Any] = "ToyOuroboros"):
        self.tail = tail


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, so messages name files as a user types them."""
    monkeypatch.chdir(tmp_path)


BCCD_LABELS = "TestDataset.anno_path=configs/datasets/bccd_label_list.txt"
FEAT_IN = "ToyBranch.feat_in=1"  # for a head that is built without a part before it


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def problems(text: str, *overrides: str, name: str = "a.yml") -> List[str]:
    """The lines of the report on a config."""
    with pytest.raises(UserError) as error:
        load_config(write(name, text), overrides)
    return str(error.value).splitlines()


def built(text: str, section: str, *overrides: str) -> Any:
    return build(load_config(write("a.yml", text), overrides), section)


# --- files ---------------------------------------------------------------------------------------------


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


def test_bases_in_a_circle_are_an_error():
    write("b.yml", "_BASE_: a.yml")
    assert problems("_BASE_: b.yml") == ["b.yml: _BASE_ goes in a circle: a.yml -> b.yml -> a.yml"]


def test_a_missing_file_is_named_with_the_file_that_wants_it():
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
    with pytest.raises(UserError, match="a.yml: cannot be read"):
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


# --- merging components --------------------------------------------------------------------------------


def test_another_class_keeps_the_keys_it_has_and_drops_the_others():
    """PaddleDetection merges the dicts whatever the name and dies of the keys that the new class lacks."""
    write("b.yml", "ToyHead: {nms: {name: HardNMS, keep_top_k: 7, nms_threshold: 0.6}}")
    head = built("_BASE_: b.yml\nToyHead: {nms: {name: SoftNMS, sigma: 3.0}}", "ToyHead", FEAT_IN)
    assert vars(head.nms) == {"score_threshold": 0.05, "sigma": 3.0, "keep_top_k": 7}


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


# --- overrides -----------------------------------------------------------------------------------------


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
    assert problems("epoch: 1", "epoch=a") == ["command line: epoch wants an integer, got 'a'"]


# --- checks --------------------------------------------------------------------------------------------


def test_all_problems_come_together_each_with_file_line_and_nearest_match():
    write("base/nms.yml", "\n\nToyHead:\n  nms:\n    name: HardNMS\n    keep_topk: 5\n")
    report = problems(
        """_BASE_: base/nms.yml
epochs: 1
num_classes: many
ToyBackbon: {}
ToyBackbone:
  depth: 5.5
architecture: ToyDetectr
export: {nmss: true}
TrainDataset: {name: ToySets}
""",
        "seed=-1",
    )
    assert report == [
        "a.yml:2: unknown key 'epochs'; did you mean 'epoch'?",
        "a.yml:3: num_classes wants an integer, got 'many'",
        "a.yml:4: no component 'ToyBackbon'; did you mean 'ToyBackbone'?",
        "a.yml:6: ToyBackbone.depth wants an integer, got 5.5",
        "a.yml:7: architecture: no component 'ToyDetectr'; did you mean 'ToyDetector'?",
        "a.yml:8: export has no key 'nmss'; did you mean 'nms'?",
        "a.yml:9: TrainDataset: no component 'ToySets'; did you mean 'ToySet'?",
        "base/nms.yml:6: HardNMS has no parameter 'keep_topk'; did you mean 'keep_top_k'?",
        "command line: seed wants at least 0, got -1",
    ]


def test_an_unknown_parameter_without_a_near_one_lists_what_there_is():
    (line,) = problems("ToyNeck: {zzz: 1}")
    assert line == "a.yml:1: ToyNeck has no parameter 'zzz'; it has in_channels, in_strides, spp"


def test_a_number_that_yaml_takes_for_text_says_how_to_write_it():
    for written, right in (("1e-4", "1.0e-4"), ("2.5e3", "2.5e+3"), ("-1.e5", "-1.0e+5")):
        assert problems(f"ema_decay: {written}") == [
            f"a.yml:1: ema_decay wants a number, got {written!r}, which YAML reads as text; write {right}"
        ]
    assert load_config(write("a.yml", "ema_decay: 1.0e-4")).run.ema_decay == 1e-4


def test_a_missing_parameter_names_the_part_that_lacks_it():
    text = "architecture: ToyDetector\nToyHead:\n  loss:\n    name: ToyLoss"
    assert problems(text) == ["a.yml:3: ToyLoss needs 'weight' (a number), which is missing in ToyHead.loss"]
    assert problems("TrainDataset: {name: ToySet}") == [
        "a.yml:1: ToySet needs 'folder' (text), which is missing in TrainDataset"
    ]


def test_a_section_that_nothing_uses_may_lack_parameters_but_not_have_wrong_ones():
    load_config(write("a.yml", "ToyLoss: {gamma: 1.0}\nToyNeck:"))
    assert problems("ToyLoss: {gamma: x}") == ["a.yml:1: ToyLoss.gamma wants a number, got 'x'"]


def test_a_section_must_be_a_mapping():
    assert problems("ToyLoss: [1]") == ["a.yml:1: ToyLoss wants a mapping of parameters, got [1]"]


def test_a_trainer_without_epochs_is_incomplete():
    assert "a.yml:1: there is a TrainReader, but 'epoch' is missing" in problems("TrainReader: {x: 1}")


def test_hardware_that_is_not_supported_may_only_be_false():
    load_config(write("a.yml", "use_xpu: false\nuse_mlu: false\nuse_npu: false"))
    (line,) = problems("use_npu: true")
    assert line == "a.yml:1: use_npu must be false: only CPUs and NVIDIA GPUs are supported"


def test_a_component_cannot_contain_itself():
    (line,) = problems("architecture: ToyOuroboros")
    assert line.endswith("a component cannot contain itself: ToyOuroboros -> ToyOuroboros")


def test_plain_values_are_not_components():
    (line,) = problems("ToyTrainer: {optimizer: ToyAdam, extra: [!ToyAdam {}]}")
    assert line == "a.yml:1: ToyTrainer.extra[0] takes plain values, not the component !ToyAdam"


@pytest.mark.parametrize(
    "annotation, text, expected",
    [
        ("int", "3", 3),
        ("int", "true", "X wants an integer, got true"),
        ("int", "3.0", "X wants an integer, got 3.0"),
        ("float", "3", 3.0),
        ("float", ".5", 0.5),
        ("float", "35.", 35.0),
        ("float", "false", "X wants a number, got false"),
        ("float", "NULL", "X wants a number, got null"),
        ("bool", "1", "X wants true or false, got 1"),
        ("bool", "False", False),
        ("str", "11point", "11point"),
        ("str", "50", "X wants text, got 50"),
        ("Optional[str]", "null", None),
        ("str | None", "x", "x"),
        ("Any", "{a: [1, x]}", {"a": [1, "x"]}),
        ("list[int]", "[1, 2]", [1, 2]),
        ("List[int]", "5", "X wants a list (an integer each), got 5"),
        ("Sequence[float]", "[1, a]", "X[1] wants a number, got 'a'"),
        ("Tuple[int, int]", "[1, 2]", (1, 2)),
        ("Tuple[int, int]", "[1]", "X wants a list of 2 (an integer, an integer), got [1]"),
        ("tuple[float, ...]", "[1, 2, 3]", (1.0, 2.0, 3.0)),
        ("Dict[str, int]", "{a: 1}", {"a": 1}),
        ("Dict[str, int]", "{a: x}", "X.a wants an integer, got 'x'"),
        ("dict[str, int]", "{1: 1}", "a key of X wants text, got 1"),
        ("dict", "!ToyAdam {}", "X wants a mapping, got {name: 'ToyAdam'}"),
        ("Literal['O1', 'O2']", "O2", "O2"),
        ("Literal['O1', 'O2']", "O3", "X wants 'O1' or 'O2', got 'O3'"),
        ("Literal[18, 34, 50]", "17", "X wants one of 18, 34, 50, got 17"),
        ("Literal[0, 1]", "false", "X wants 0 or 1, got false"),
        ("Union[int, List[int]]", "[1]", [1]),
        ("Union[int, List[int]]", "[x]", "X[0] wants an integer, got 'x'"),
        ("Union[int, List[int]]", "x", "X wants an integer or a list (an integer each), got 'x'"),
        ("Union[int, float]", "3", 3),
        ("Optional[List[Union[float, List[float]]]]", "[1, [2]]", [1.0, [2.0]]),
    ],
)
def test_types(annotation, text, expected):
    role, type_ = parse_annotation(ast.parse(annotation, mode="eval").body)
    problems: List[Problem] = []
    setting = Checker(Node({})).value(type_, compose(text, Path("x.yml"), []), "X", Scope(problems))
    if problems:
        assert problems[0].text == expected
    else:
        assert setting.plain() == expected and type(setting.plain()) is type(expected)


def test_an_annotation_outside_the_type_language_is_a_programming_error():
    with pytest.raises(TypeError, match="'set\\[int\\]' is not in the config's type language"):
        parse_annotation(ast.parse("set[int]", mode="eval").body)


# --- settings without effect ----------------------------------------------------------------------------


def test_a_setting_without_effect_loads_with_one_line_in_the_log(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    text = "find_unused_parameters: true\nGridMask: {upper_iter: 5}\nTrainReader:\n  sample_transforms: [GridMask]"
    load_config(write("a.yml", f"epoch: 1\n{text}\nPTQ: {{ptq_config: {{upsample_bins: 127}}}}"))
    assert sorted(record.getMessage().split(": ")[0] for record in caplog.records) == ["a.yml:2", "a.yml:3", "a.yml:6"]
    assert (
        "a.yml:2: find_unused_parameters has no effect: parameters without a gradient are always allowed" in caplog.text
    )


def reads_of_run_settings() -> Set[str]:
    """The fields that the package reads as `run.field`, `cfg.run.field`, `export.field` or `settings.field`."""
    found = set()
    for path in (ROOT / "ppdet_repro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Attribute, ast.Name)):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                if owner in ("run", "export", "settings"):
                    found.add(node.attr)
    return found


def test_every_run_setting_is_read_or_known_to_have_no_effect():
    known = reads_of_run_settings() | set(NO_EFFECT) | set(UNSUPPORTED_HARDWARE)
    names = [field.name for cls in (RunSettings, ExportSettings) for field in fields(cls)]
    assert [name for name in names if name not in known] == []


def test_every_parameter_of_a_component_is_read_or_known_to_have_no_effect():
    unread = set()
    for name, module_name in components.catalog().items():
        module = components.read_module(module_name)
        _, constructor = components.find_constructor(module, module.classes[name]) or (None, None)
        if constructor is not None:
            body = {node.id for item in constructor.body for node in ast.walk(item) if isinstance(node, ast.Name)}
            arguments = (*constructor.args.args[1:], *constructor.args.kwonlyargs)
            unread |= {f"{name}.{argument.arg}" for argument in arguments if argument.arg not in body}
    assert unread - set(NO_EFFECT) == set()
    assert {key for key in NO_EFFECT if key.count(".") == 1} <= unread


# --- building ------------------------------------------------------------------------------------------


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


def test_upstream_values_in_the_yaml_must_agree():
    text = "architecture: ToyDetector\nToyNeck:\n  in_channels: [{}]"
    assert build_model(load_config(write("a.yml", text.format(256)))).neck.in_channels == [256]
    with pytest.raises(UserError) as error:
        build_model(load_config(write("a.yml", text.format(512))))
    assert str(error.value) == (
        "a.yml:3: ToyNeck.in_channels is [512], but ToyBackbone gives [256]; leave it out or make them agree"
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
    with pytest.raises(TypeError, match="ToyDetector has no parameter backbon"):
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
    assert error.traceback[-1].name == "__init__" and error.traceback[-1].path == Path(__file__)


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


# --- the package's own components -----------------------------------------------------------------------


def test_a_class_of_the_users_cannot_take_the_name_of_a_component():
    cls = type("ResNet", (), {"__module__": "users_module"})
    registry._registered["ResNet"], before = cls, registry._registered.get("ResNet")
    with pytest.raises(ValueError, match="component 'ResNet' of users_module has the name of ppdet_repro"):
        components.find("ResNet")
    registry._registered.pop("ResNet")
    if before is not None:
        registry._registered["ResNet"] = before


BASE_CLASS = """
class Base(nn.Layer):
    def __init__(self, size: Size, ratio: float = 1 / 3, norm: "Shared[str]" = "bn", *, deep: bool):
        pass
"""


def test_parents_aliases_and_defaults_are_read_without_importing(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "PACKAGE", tmp_path / "ppdet_repro")
    write("ppdet_repro/zoo/base.py", "raise ImportError\nSize = Union[int, List[int]]\n" + BASE_CLASS)
    write("ppdet_repro/zoo/child.py", "from ppdet_repro.zoo.base import Base as B\nclass Child(B): pass")
    component = components.from_tree("ppdet_repro.zoo.child", "Child")
    size = OneOf((Scalar("int"), ListOf(Scalar("int"))))
    assert list(component.parameters.values()) == [
        Parameter("size", size, REQUIRED, "value"),
        Parameter("ratio", Scalar("float"), Expression("1 / 3"), "value"),
        Parameter("norm", Scalar("str"), "bn", "shared"),
        Parameter("deep", Scalar("bool"), REQUIRED, "value"),
    ]
    assert (component.line, component.file) == (2, tmp_path / "ppdet_repro/zoo/child.py")


@pytest.mark.parametrize(
    "parameters, message",
    [
        ("size", "parameter 'size' has no annotation"),
        ("size: set", "parameter 'size': annotation 'set' is not in the config's type language"),
        ("**options: int", "must name its parameters, without \\* or \\*\\*"),
    ],
)
def test_what_a_constructor_must_not_do(parameters, message):
    (function,) = ast.parse(f"def __init__(self, {parameters}): pass").body
    module = components.Module("ppdet_repro.zoo.bad", Path("bad.py"), {}, {}, {})
    with pytest.raises(TypeError, match=f"bad.py:1: Bad.*{message}"):
        components.tree_parameters(module, "Bad", function)


@pytest.mark.parametrize("name", [n for n in components.names() if n in components.catalog()])
def test_what_the_syntax_tree_says_of_a_component_is_what_python_says(name):
    """Names, order, types, roles and defaults; and every default is of its type."""
    component = components.find(name)
    python = components.from_signature(component.load())
    assert list(component.parameters) == list(python.parameters)
    for mine, true in zip(component.parameters.values(), python.parameters.values()):
        assert (mine.type, mine.role) == (true.type, true.role)
        if not isinstance(mine.default, Expression):
            assert mine.default == true.default
        if mine.default != REQUIRED and not isinstance(mine.default, Expression):
            problems: List[Problem] = []
            Checker(Node({})).value(mine.type, Node.of(mine.default), name, Scope(problems, complete=False))
            assert problems == []
    assert component.doc


@pytest.mark.parametrize("path", [p for p in ROOT.glob("configs/**/*.yml") if p.parent.name != "_base_"])
def test_every_config_of_the_repository_passes(path, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    load_config(path)
    assert "has no effect" not in caplog.text


# --- printing ------------------------------------------------------------------------------------------


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
