"""Checking configs: which mistakes are reported and how, and which settings have no effect."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import List, Set

import pytest
from paths import ROOT
from toy_components import problems, write

from ppdet_repro.core.config import components, load_config
from ppdet_repro.core.config.document import Node, Problem
from ppdet_repro.core.config.run import NO_EFFECT, UNSUPPORTED_HARDWARE, ExportSettings, PaperRow, RunSettings
from ppdet_repro.core.config.schema import Checker, Scope
from ppdet_repro.core.config.types import parse_annotation
from ppdet_repro.core.config.yaml_text import compose


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
        "a.yml:3: num_classes must be an integer, got 'many'",
        "a.yml:4: no component 'ToyBackbon'; did you mean 'ToyBackbone'?",
        "a.yml:6: ToyBackbone.depth must be an integer, got 5.5",
        "a.yml:7: architecture: no component 'ToyDetectr'; did you mean 'ToyDetector'?",
        "a.yml:8: export has no key 'nmss'; did you mean 'nms'?",
        "a.yml:9: TrainDataset: no component 'ToySets'; did you mean 'ToySet'?",
        "base/nms.yml:6: HardNMS has no parameter 'keep_topk'; did you mean 'keep_top_k'?",
        "command line: seed must be at least 0, got -1",
    ]


def test_an_unknown_parameter_without_a_near_one_lists_what_there_is():
    (line,) = problems("ToyNeck: {zzz: 1}")
    assert line == "a.yml:1: ToyNeck has no parameter 'zzz'; it has in_channels, in_strides, spp"


def test_a_number_that_yaml_takes_for_text_says_how_to_write_it():
    for written, right in (("1e-4", "1.0e-4"), ("2.5e3", "2.5e+3"), ("-1.e5", "-1.0e+5")):
        assert problems(f"ema_decay: {written}") == [
            f"a.yml:1: ema_decay must be a number, got {written!r}, which YAML reads as text; write {right}"
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
    assert problems("ToyLoss: {gamma: x}") == ["a.yml:1: ToyLoss.gamma must be a number, got 'x'"]


def test_a_section_must_be_a_mapping():
    assert problems("ToyLoss: [1]") == ["a.yml:1: ToyLoss must be a mapping of parameters, got [1]"]


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
        ("int", "true", "X must be an integer, got true"),
        ("int", "3.0", "X must be an integer, got 3.0"),
        ("float", "3", 3.0),
        ("float", ".5", 0.5),
        ("float", "35.", 35.0),
        ("float", "false", "X must be a number, got false"),
        ("float", "NULL", "X must be a number, got null"),
        ("bool", "1", "X must be true or false, got 1"),
        ("bool", "False", False),
        ("str", "11point", "11point"),
        ("str", "50", "X must be text, got 50"),
        ("Optional[str]", "null", None),
        ("str | None", "x", "x"),
        ("Any", "{a: [1, x]}", {"a": [1, "x"]}),
        ("list[int]", "[1, 2]", [1, 2]),
        ("List[int]", "5", "X must be a list (an integer each), got 5"),
        ("Sequence[float]", "[1, a]", "X[1] must be a number, got 'a'"),
        ("Tuple[int, int]", "[1, 2]", (1, 2)),
        ("Tuple[int, int]", "[1]", "X must be a list of 2 (an integer, an integer), got [1]"),
        ("tuple[float, ...]", "[1, 2, 3]", (1.0, 2.0, 3.0)),
        ("Dict[str, int]", "{a: 1}", {"a": 1}),
        ("Dict[str, int]", "{a: x}", "X.a must be an integer, got 'x'"),
        ("dict[str, int]", "{1: 1}", "a key of X must be text, got 1"),
        ("dict", "!ToyAdam {}", "X must be a mapping, got {name: 'ToyAdam'}"),
        ("Literal['O1', 'O2']", "O2", "O2"),
        ("Literal['O1', 'O2']", "O3", "X must be 'O1' or 'O2', got 'O3'"),
        ("Literal[18, 34, 50]", "17", "X must be one of 18, 34, 50, got 17"),
        ("Literal[0, 1]", "false", "X must be 0 or 1, got false"),
        ("Union[int, List[int]]", "[1]", [1]),
        ("Union[int, List[int]]", "[x]", "X[0] must be an integer, got 'x'"),
        ("Union[int, List[int]]", "x", "X must be an integer or a list (an integer each), got 'x'"),
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


# --- settings without effect ---


def test_a_setting_without_effect_loads_with_one_line_in_the_log(logged):
    text = "find_unused_parameters: true\nGridMask: {upper_iter: 5}\nTrainReader:\n  sample_transforms: [GridMask]"
    load_config(write("a.yml", f"epoch: 1\n{text}\nPTQ: {{ptq_config: {{upsample_bins: 127}}}}"))
    assert sorted(record.getMessage().split(": ")[0] for record in logged.records) == ["a.yml:2", "a.yml:3", "a.yml:6"]
    assert (
        "a.yml:2: find_unused_parameters has no effect: parameters without a gradient are always allowed" in logged.text
    )


def reads_of_run_settings() -> Set[str]:
    """The fields that core, engine and cli read as attributes of `run`, `cfg.run`, `export`, `paper` or `settings`."""
    found = set()
    for path in (
        path for folder in ("core", "engine", "cli") for path in (ROOT / "ppdet_repro" / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Attribute, ast.Name)):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                if owner in ("run", "export", "paper", "settings"):
                    found.add(node.attr)
    return found


def test_every_run_setting_is_read_or_known_to_have_no_effect():
    known = reads_of_run_settings() | set(NO_EFFECT) | set(UNSUPPORTED_HARDWARE)
    names = [field.name for cls in (RunSettings, ExportSettings, PaperRow) for field in fields(cls)]
    assert [name for name in names if name not in known] == []


def test_every_parameter_of_a_component_is_read_or_known_to_have_no_effect():
    unread = set()
    without_effect = {key for key in NO_EFFECT if key.count(".") == 1}
    for name, module_name in components.catalog().items():
        module = components.read_module(module_name)
        _, constructor = components.find_constructor(module, name) or (None, None)
        if constructor is not None:
            if constructor not in module.classes[name].body:  # it may read what only some of its classes use
                without_effect = {key for key in without_effect if key.split(".")[0] != name}
            body = {node.id for item in constructor.body for node in ast.walk(item) if isinstance(node, ast.Name)}
            arguments = (*constructor.args.args[1:], *constructor.args.kwonlyargs)
            unread |= {f"{name}.{argument.arg}" for argument in arguments if argument.arg not in body}
    assert unread - set(NO_EFFECT) == set()
    assert without_effect <= unread


def test_readers_without_ground_truth_to_stack_do_not_collate():
    for name in ("EvalReader", "TestReader"):
        assert f"{name}.collate_batch" in NO_EFFECT
        assert not components.find(name).load()(collate_batch=True).collate_batch
