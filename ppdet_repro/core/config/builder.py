"""Loads a config from a YAML file and builds objects from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Literal, Optional, Sequence, Union

from ppdet_repro.core import registry
from ppdet_repro.core.config.components import REQUIRED, Parameter
from ppdet_repro.core.config.document import Node, Problems, raise_problems
from ppdet_repro.core.config.plan import FromUpstream, Plan, Setting
from ppdet_repro.core.config.reading import load_document
from ppdet_repro.core.config.run import NO_EFFECT, ExportSettings, PaperRow, RunSettings
from ppdet_repro.core.config.schema import Checker
from ppdet_repro.core.config.types import ListOf, OneOf, TupleOf, spell
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import user_path
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.packaged import own_or_packaged

TEACHER = "teacher."
PRUNER: Literal["Pruner"] = "Pruner"
NOT_SUPPORTED = {  # values of `slim` in PaddleDetection's files, and what to take instead
    "OFA": "slim: Pruner removes filters, and slim: Distill adds a teacher",
    "UnstructuredPruner": "slim: Pruner removes whole filters, which makes models faster on every engine",
}


@dataclass(frozen=True)
class Config:
    """A checked config. It is immutable."""

    path: Path  # the file that it was read from
    document: Node  # the merged content of all files and overrides
    run: RunSettings
    slim_path: Optional[Path] = None  # a second file, which says how to slim the model
    teacher: Optional[Config] = None  # what the second file describes if it has `slim: Distill`; it is not merged then

    @property
    def name(self) -> str:
        """The setting `filename`, else that of the file, or of the second file if there is one; without a suffix."""
        return Path(self.run.filename or self.slim_path or self.path).stem

    def tree(self) -> Dict[str, Setting]:
        """All run settings, then everything that a run builds by section; each value with its origin."""
        checker = Checker(self.document)
        return {**checker.run_settings([]), **checker.document([])}


class UnknownParameter(TypeError):
    """`build` was given an argument that the component does not take."""


def load_config(
    path: Union[str, Path], overrides: Sequence[str] = (), slim_config: Optional[Union[str, Path]] = None
) -> Config:
    """Read and check a config.

    Args:
        path: A YAML file, or the name of a packaged config such as `yolof/yolof_r50_c5_1x_coco.yml`, which is found
            from any folder.
        overrides: Values of the form `a.b.c=value`, which beat the file.
        slim_config: A second file, which says how to slim the model. With `slim: PTQ`, `QAT`, `Pruner` or `PrunerQAT`
            in it, its values beat those of the first; with `slim: Distill` it is the config of a teacher, and overrides
            of the form `teacher.a.b.c=value` apply to it, all others to the first; with `slim: DistillPrune`, the same,
            and its section `Pruner` belongs to the student.

    Raises:
        UserError: The config is wrong. The message has a line per problem, with file and line number.

    Example:
        >>> from ppdet_repro import load_config
        >>> cfg = load_config("yolof/yolof_r50_c5_1x_coco.yml", overrides=["epoch=24"])
        >>> cfg.run.architecture, cfg.run.num_classes, cfg.run.epoch
        ('YOLOF', 80, 24)
    """
    path = own_or_packaged(user_path(path), path)
    if slim_config is None:
        return _load(path, overrides)
    slim_path = own_or_packaged(user_path(slim_config), slim_config)
    slim = load_document(slim_path, (), []).value.get("slim")
    if slim is None:
        raise UserError(f"{slim_config}: there is no key 'slim'; it says how to slim the model, such as slim: PTQ")
    if slim.value in NOT_SUPPORTED:
        raise UserError(f"{slim.origin}: slim: {slim.value} is not supported; {NOT_SUPPORTED[slim.value]}")
    if slim.value in ("Distill", "DistillPrune"):
        theirs = [text.strip()[len(TEACHER) :] for text in overrides if text.strip().startswith(TEACHER)]
        own = [text for text in overrides if not text.strip().startswith(TEACHER)]
        if slim.value == "Distill":
            student = _load(path, own)
        else:
            student = _load(path, own, slim_path, only=[PRUNER])
            student = replace(student, run=replace(student.run, slim=PRUNER))
        return replace(student, slim_path=slim_path, teacher=_load(slim_path, theirs))
    return replace(_load(path, overrides, slim_path), slim_path=slim_path)


def _load(
    path: Path, overrides: Sequence[str], over: Optional[Path] = None, only: Optional[Sequence[str]] = None
) -> Config:
    """A config from one file, or from two; the values of `over`, or its top-level keys in `only`, beat the first's."""
    problems: Problems = []
    document = load_document(path, overrides, problems, over, only)
    checker = Checker(document)
    settings = checker.run_settings(problems)
    plans = checker.document(problems)
    raise_problems(problems)
    written = dict(pair for key, setting in {**settings, **plans}.items() for pair in setting.written(key))
    for key in sorted(NO_EFFECT.keys() & written):
        get_logger().info(f"{written[key]}: {key} has no effect: {NO_EFFECT[key]}")
    values = {key: setting.plain() for key, setting in settings.items()}
    values["export"], values["paper"] = ExportSettings(**values["export"]), PaperRow(**values["paper"])
    return Config(path, document, RunSettings(**values))


def build_model(cfg: Config) -> Any:
    """Build the detector that a config describes: a `paddle.nn.Layer` with newly initialized weights.

    Raises a `UserError` if the config names no architecture, or if a component refuses a value.

    Example:
        >>> from ppdet_repro import build_model, load_config
        >>> model = build_model(load_config("demo/yolof_demo.yml"))
        >>> type(model).__name__, model.neck.out_shape
        ('YOLOF', [ShapeSpec(channels=64, stride=8)])
    """
    if cfg.run.architecture is None:
        raise UserError(f"{cfg.path}: the config names no architecture")
    return build(cfg, cfg.run.architecture)


def build(cfg: Config, name: str, **given: Any) -> Any:
    """Build a component that a config describes: a section such as `EvalDataset`, or any component by its name.

    Constructor arguments in `given`, which are values or finished objects, beat the config.

    Raises:
        UserError: The config lacks something, or a constructor refuses a value.
        UnknownParameter: The component has no parameter of a name in `given`.

    Example:
        >>> from ppdet_repro import build, load_config
        >>> cfg = load_config("yolof/yolof_r50_c5_1x_coco.yml")
        >>> build(cfg, "EvalReader", batch_size=2).batch_size
        2
    """
    problems: Problems = []
    setting = Checker(cfg.document).root(name, problems, given)
    raise_problems(problems)
    return construct(setting.value, None, given)


def construct(plan: Plan, source: Any, given: Dict[str, Any]) -> Any:
    """Build the parts of a component in the order of the constructor's parameters, then the component.

    A part with an `out_shape` is the source of the parts after it; `source` is the last one built before, or None. The
    arguments in `given` beat the plan.
    """
    component = plan.component
    unknown = sorted(set(given) - set(component.parameters))
    if unknown:
        raise UnknownParameter(f"{component.name} has no parameter {', '.join(unknown)}")
    arguments, inner = dict(given), source
    for name, parameter in component.parameters.items():
        if name not in given:
            setting = plan.settings[name]
            if parameter.role == registry.UPSTREAM and source is not None:
                arguments[name] = from_upstream(plan, parameter, setting, source)
            elif isinstance(setting.value, FromUpstream):
                if parameter.default is REQUIRED:
                    raise UserError(f"{plan.origin}: {component.name} needs {name!r}; no part before gives it")
            elif setting.origin is not None or setting.has_parts():
                arguments[name] = materialize(setting, inner)
        if getattr(arguments.get(name), "out_shape", None) is not None:
            inner = arguments[name]
    try:
        return component.load()(**arguments)
    except UserError as error:
        owner = "" if str(error).startswith(component.name) else f"{component.name}: "
        raise UserError(f"{plan.origin}: {owner}{error}") from error


def materialize(setting: Setting, source: Any) -> Any:
    """The value of a setting, with its parts built. Lists and dicts are fresh copies."""
    value = setting.value
    if isinstance(value, Plan):
        return construct(value, source, {})
    if isinstance(value, (list, tuple)):
        return type(value)(materialize(item, source) for item in value)
    if isinstance(value, dict):
        return {key: materialize(item, source) for key, item in value.items()}
    return value


def from_upstream(plan: Plan, parameter: Parameter, setting: Setting, source: Any) -> Any:
    """The value of an `Upstream` parameter: from the outputs of the previous part.

    If the YAML has other channels or scales, a warning says that they are ignored. PaddleDetection ignores them, too;
    some of its files have those of another backbone. Other strides are an error: PaddleDetection would use them.
    """
    values = [shape_value(parameter.name, shape) for shape in source.out_shape]
    name, giver = f"{plan.component.name}.{parameter.name}", type(source).__name__
    if not isinstance(setting.value, FromUpstream):
        written = setting.plain()
        if values == (list(written) if isinstance(written, (list, tuple)) else [written]):
            return written
        problem = f"{setting.origin}: {name} is {spell(written)}, but {giver} gives {spell(values)}"
        if "stride" in parameter.name:
            raise UserError(f"{problem}; leave it out or make them agree")
        get_logger().warning(f"{problem}; the value in the file is ignored")
    types = parameter.type.options if isinstance(parameter.type, OneOf) else (parameter.type,)
    if any(isinstance(type_, (ListOf, TupleOf)) for type_ in types):
        return values
    if len(values) != 1:
        raise UserError(f"{plan.origin}: {name} is for one feature map, but {giver} gives {len(values)}")
    return values[0]


def shape_value(parameter: str, shape: Any) -> Any:
    """The property of a feature map that a parameter of this name stands for; see `core.registry`."""
    if "stride" in parameter:
        return shape.stride
    return 1.0 / shape.stride if "scale" in parameter else shape.channels
