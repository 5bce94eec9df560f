"""The folder that `ppdet-repro export`, or tools/export_model.py of PaddleDetection, writes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Union

from ppdet_repro.core.config import components
from ppdet_repro.core.config.document import Node, Problems, raise_problems
from ppdet_repro.core.config.schema import Checker, Scope
from ppdet_repro.core.config.types import Anything, DictOf, ListOf, OneOf, Scalar, Type, parse_annotation, spell
from ppdet_repro.core.config.yaml_text import read_yaml
from ppdet_repro.data.transform.preprocess import KINDS
from ppdet_repro.runtime import suppress
from ppdet_repro.runtime.manifest import check_files
from ppdet_repro.runtime.networks import FILES, network_file
from ppdet_repro.utils.errors import UserError

SCALAR = OneOf(tuple(map(Scalar, ("str", "bool", "int", "float", "None"))))  # YAML reads a name such as `no` as a bool
NUMBERS = ListOf(Scalar("float"))
STEP = DictOf(Scalar("str"), Anything())
ENTRIES: Dict[str, Type] = {  # of infer_cfg.yml; others are PaddleDetection's
    "arch": Scalar("str"),
    "Preprocess": ListOf(STEP),
    "label_list": ListOf(SCALAR),
    "use_dynamic_shape": Scalar("bool"),
    "min_subgraph_size": Scalar("int"),
    "draw_threshold": Scalar("float"),
    "PostProcess": OneOf((STEP, Scalar("None"))),
}
OPTIONAL = ("draw_threshold", "PostProcess")
PARAMETER_NAMES = {"stride": "pad_to_stride"}  # keys of a step that the transform calls otherwise
MAX_SIDE = 1 << 14  # pixels, of the sizes and strides in Preprocess
ARCHITECTURES = ("YOLO", "YOLOF", "TTFNet", "RetinaNet", "SAPD")  # their exports end in bbox and bbox_num


class ModelFolder(NamedTuple):
    """An exported model: its files, and what its infer_cfg.yml says."""

    network_file: Path  # in the engine's format
    config_file: Path  # infer_cfg.yml, or inference.yml
    arch: str  # one of `ARCHITECTURES`
    preprocess: List[Dict[str, Any]]  # the steps from a decoded image to the network's input
    labels: List[str]  # the name of each class
    dynamic_shape: bool  # whether the network takes inputs of any size
    min_subgraph_size: int  # the number of operators from which on TensorRT takes a subgraph
    draw_threshold: float  # the lowest score of a box that is drawn
    post_process: Optional[Dict[str, Any]] = None  # the suppression; None if the network contains it
    checked: bool = False  # whether the network's files are, by the manifest, those that were exported

    @property
    def folder(self) -> Path:
        return self.network_file.parent

    @property
    def files(self) -> List[Path]:
        """All files of the network: those of Paddle have the parameters beside the program."""
        return network_files(self.network_file)


def open_model_folder(path: Union[str, Path], fastdeploy_names: bool = False, engine: str = "paddle") -> ModelFolder:
    """Read the folder of an exported model for an engine, see `FILES`. `fastdeploy_names`: its files have FastDeploy's
    names. UserError if the folder, a file or an entry is missing, a file is not what the manifest says, or the
    architecture is unknown."""
    folder = Path(path)
    stem, config = ("inference", "inference.yml") if fastdeploy_names else ("model", "infer_cfg.yml")
    if not folder.is_dir():
        raise UserError(f"--model_dir {folder} is not a folder; ppdet-repro export writes one")
    network = network_file(folder, engine, stem)
    files = [*network_files(network), folder / config]
    missing = [file.name for file in files if not file.is_file() or not file.stat().st_size]
    if missing:
        other = "inference.yml" if not fastdeploy_names else "infer_cfg.yml"
        hint = f"; set --use_fd_format={not fastdeploy_names}" if (folder / other).is_file() else ""
        others = [name for name in FILES if name != engine and network_file(folder, name).is_file()]
        if network.name in missing and others:
            hint += f"; it is for --engine={' or '.join(others)}"
        raise UserError(f"{folder} lacks {', '.join(missing)} (or it is empty){hint}; export the model again")
    checked = check_files(files[:-1], files[-1])
    return ModelFolder(network, files[-1], **_read_config(files[-1]), checked=checked)


def network_files(network: Path) -> List[Path]:
    """All files of a network, of which `network` is the one that an engine is given."""
    has_parameters = network.suffix in (".pdmodel", ".json")
    return [network, network.with_suffix(".pdiparams")] if has_parameters else [network]


def _read_config(path: Path) -> Dict[str, Any]:
    """The entries of infer_cfg.yml that inference needs."""
    document = read_yaml(path)
    missing = [key for key in ENTRIES if key not in document.value and key not in OPTIONAL]
    if missing:
        raise UserError(f"{path} has no entry {missing[0]!r}; export the model again")
    problems: Problems = []
    checker, scope = Checker(Node({})), Scope(problems)
    for key, type_ in ENTRIES.items():
        if key in document.value:
            checker.value(type_, document.value[key], key, scope)
    raise_problems(problems)
    for i, step in enumerate(document.value["Preprocess"].value):
        _check_step(checker, step, f"Preprocess[{i}]", scope)
    if "PostProcess" in document.value and document.value["PostProcess"].value is not None:
        _check_post_process(checker, document.value["PostProcess"], scope)
    raise_problems(problems)
    config = document.plain()
    arch = config["arch"]
    if arch not in ARCHITECTURES:
        raise UserError(f"{path}: architecture {arch[:40]!r} is not one of {', '.join(ARCHITECTURES)}")
    return {
        "arch": arch,
        "preprocess": config["Preprocess"],
        "labels": [str(label) for label in config["label_list"]],
        "dynamic_shape": config["use_dynamic_shape"],
        "min_subgraph_size": config["min_subgraph_size"],
        "draw_threshold": float(config.get("draw_threshold", 0.5)),
        "post_process": config.get("PostProcess"),
    }


def _check_post_process(checker: Checker, entry: Node, scope: Scope) -> None:
    """Report settings of the suppression that are not of the types of its parameters. `open_suppress` reports unknown
    types and keys."""
    kind = entry.plain().get("type")
    function = suppress.KINDS.get(kind) if isinstance(kind, str) else None
    for key, parameter in inspect.signature(function).parameters.items() if function else ():
        if key in entry.value:
            _, type_ = parse_annotation(components.as_tree(parameter.annotation))
            checker.value(type_, entry.value[key], f"PostProcess.{key}", scope)


def _check_step(checker: Checker, step: Node, where: str, scope: Scope) -> None:
    """Report values of a preprocessing step that are not of the types of the transform's parameters, or too large.
    `from_list` reports unknown types and keys."""
    kind = step.value["type"].plain() if "type" in step.value else None
    if not isinstance(kind, str):
        scope.report(step.origin, f"{where} needs a type, one of {', '.join(KINDS)}")
        return
    component = components.find(KINDS[kind][0].__name__) if kind in KINDS else None
    for key, node in step.value.items():
        parameter = component.parameters.get(PARAMETER_NAMES.get(key, key)) if component else None
        if parameter is not None:
            type_ = NUMBERS if key == "fill_value" else parameter.type  # exports have fractions there
            checker.value(type_, node, f"{where}.{key}", scope)
            value = node.plain()
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(number, (int, float)) and not abs(number) <= MAX_SIDE for number in numbers):
                scope.report(node.origin, f"{where}.{key} must have numbers of at most {MAX_SIDE}, got {spell(value)}")
