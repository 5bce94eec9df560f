"""From a YAML file to objects.

cfg = load_config("configs/yolof/yolof_r50_c5_1x_coco.yml", overrides=["epoch=24"])
model = build_model(cfg)
reader = build(cfg, "TrainReader")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence, Union

from ppdet_repro.core import registry
from ppdet_repro.core.config.components import REQUIRED, Parameter
from ppdet_repro.core.config.document import Node, Problems, load_document, raise_problems
from ppdet_repro.core.config.run import ExportSettings, RunSettings
from ppdet_repro.core.config.schema import Checker, FromUpstream, Plan, Setting
from ppdet_repro.core.config.types import ListOf, OneOf, TupleOf, Type, VariadicTuple, spell
from ppdet_repro.utils.errors import UserError


@dataclass(frozen=True)
class Config:
    """A checked config. A value: nothing that happens elsewhere in the process changes it.

    `slim_path` is the second file, which says how to slim the model, if there is one; with `slim: Distill` in it, it is
    the teacher's config, `teacher`, and is not merged over the one at `path`.
    """

    path: Path
    document: Node
    run: RunSettings
    slim_path: Optional[Path] = None
    teacher: Optional[Config] = None

    @property
    def name(self) -> str:
        """The name of the file without its ending; with a second one that slims the model, of that."""
        return (self.slim_path or self.path).stem

    def tree(self) -> Dict[str, Setting]:
        """Every run setting, then what a run builds by section, each value with its origin."""
        checker = Checker(self.document)
        return {**checker.run_settings([]), **checker.document([])}


class Source(NamedTuple):
    """The last part that was built and has outputs: its name and its `out_shape`."""

    name: str
    out_shape: Sequence[Any]


def load_config(
    path: Union[str, Path], overrides: Sequence[str] = (), slim_config: Optional[Union[str, Path]] = None
) -> Config:
    """Read and check a config; `overrides` are `a.b.c=value` and beat the file. `slim_config` is a second file, which
    says how to slim the model: with `slim: PTQ` or `QAT` its values beat the first file's, with `slim: Distill` it is
    the config of a teacher.

    UserError: everything that is wrong with the config, a line each.
    """
    if slim_config is None:
        return _load(path, overrides)
    slim_path = Path(slim_config).expanduser()
    slim = load_document(slim_path, (), []).value.get("slim")
    if slim is None:
        raise UserError(f"{slim_config}: there is no key 'slim'; it says how to slim the model, such as slim: PTQ")
    if slim.value == "Distill":
        return replace(_load(path, overrides), slim_path=slim_path, teacher=_load(slim_path, ()))
    return replace(_load(path, overrides, slim_path), slim_path=slim_path)


def _load(path: Union[str, Path], overrides: Sequence[str], over: Optional[Path] = None) -> Config:
    """A config of one file, or of two merged."""
    problems: Problems = []
    document = load_document(path, overrides, problems, over)
    checker = Checker(document)
    settings = checker.run_settings(problems)
    checker.document(problems)
    raise_problems(problems)
    values = {key: setting.plain() for key, setting in settings.items()}
    values["export"] = ExportSettings(**values["export"])
    return Config(Path(path).expanduser(), document, RunSettings(**values))


def build_model(cfg: Config) -> Any:
    """The detector that the config describes, a `paddle.nn.Layer` with freshly initialised weights."""
    if cfg.run.architecture is None:
        raise UserError(f"{cfg.path}: the config names no architecture")
    return build(cfg, cfg.run.architecture)


def build(cfg: Config, name: str, **given: Any) -> Any:
    """The object of a section (`TrainReader`, `EvalDataset`) or of any component by its name.

    `given` are constructor arguments that beat the config: finished objects or values.
    UserError: what the config lacks, or what a constructor refuses, with file and line.
    """
    problems: Problems = []
    setting = Checker(cfg.document).root(name, problems, given)
    raise_problems(problems)
    return construct(setting.value, None, given)


def construct(plan: Plan, source: Optional[Source], given: Dict[str, Any]) -> Any:
    """Build a component after its parts; `source` is the part before it that has outputs.

    Parts are built in the order of the constructor's parameters; each that has an `out_shape` is the
    source of those after it.
    """
    component = plan.component
    unknown = set(given) - set(component.parameters)
    if unknown:
        raise TypeError(f"{component.name} has no parameter {', '.join(sorted(unknown))}")
    arguments = dict(given)
    inner = source
    for name, parameter in component.parameters.items():
        if name not in given:
            setting = plan.settings[name]
            if parameter.role == registry.UPSTREAM and source is not None:
                arguments[name] = from_upstream(plan, parameter, setting, source)
            elif isinstance(setting.value, FromUpstream):
                if parameter.default == REQUIRED:
                    raise UserError(f"{where(plan)}{component.name} needs {name!r}; no part before gives it")
            elif setting.origin is not None or setting.has_parts():
                arguments[name] = materialise(setting, inner)
        out_shape = getattr(arguments.get(name), "out_shape", None)
        if out_shape is not None:
            inner = Source(type(arguments[name]).__name__, out_shape)
    try:
        return component.load()(**arguments)
    except UserError as error:
        owner = "" if str(error).startswith(component.name) else f"{component.name}: "
        raise UserError(f"{where(plan)}{owner}{error}") from error


def where(plan: Plan) -> str:
    """The start of a message about a component."""
    return f"{plan.origin}: "


def materialise(setting: Setting, source: Optional[Source]) -> Any:
    """A setting's value with its parts built; lists and dicts are fresh."""
    value = setting.value
    if isinstance(value, Plan):
        return construct(value, source, {})
    if isinstance(value, list):
        return [materialise(item, source) for item in value]
    if isinstance(value, tuple):
        return tuple(materialise(item, source) for item in value)
    if isinstance(value, dict):
        return {key: materialise(item, source) for key, item in value.items()}
    return value


def from_upstream(plan: Plan, parameter: Parameter, setting: Setting, source: Source) -> Any:
    """What the previous part's outputs say of a parameter; UserError if the YAML says something else."""
    values = [shape_value(parameter.name, shape) for shape in source.out_shape]
    name = f"{plan.component.name}.{parameter.name}"
    if not isinstance(setting.value, FromUpstream):
        written = setting.plain()
        if values != (list(written) if isinstance(written, (list, tuple)) else [written]):
            raise UserError(
                f"{setting.origin}: {name} is {spell(written)}, but {source.name} gives {spell(values)}; "
                "leave it out or make them agree"
            )
        return written
    if wants_list(parameter.type):
        return values
    if len(values) != 1:
        raise UserError(f"{where(plan)}{name} is for one feature map, but {source.name} gives {len(values)}")
    return values[0]


def shape_value(parameter: str, shape: Any) -> Any:
    """What a parameter of this name means by a feature map: its stride, its scale or its channels."""
    if "stride" in parameter:
        return shape.stride
    return 1.0 / shape.stride if "scale" in parameter else shape.channels


def wants_list(type_: Type) -> bool:
    """Whether a type has a list among its options."""
    options = type_.options if isinstance(type_, OneOf) else (type_,)
    return any(isinstance(option, (ListOf, VariadicTuple, TupleOf)) for option in options)
