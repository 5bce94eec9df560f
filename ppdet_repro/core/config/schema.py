"""Checks a document against the constructors of the components, without importing or building any.

The result are plans: for every component that a run builds, the value of each parameter and where it was written.
"""

from __future__ import annotations

import ast
import re
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Collection, Dict, Iterable, Mapping, NamedTuple, Optional, Tuple, Union

from ppdet_repro.core import registry
from ppdet_repro.core.config import components, run
from ppdet_repro.core.config.absent import find_absent
from ppdet_repro.core.config.absent import reason as absent_reason
from ppdet_repro.core.config.components import REQUIRED, Component, Expression, nearest
from ppdet_repro.core.config.document import MAX_PROBLEMS, Node, Origin, Problem, Problems, part_form
from ppdet_repro.core.config.plan import FromUpstream, Plan, Setting
from ppdet_repro.core.config.run import RunSettings
from ppdet_repro.core.config.types import (
    Anything,
    DictOf,
    ListOf,
    OneOf,
    PartOf,
    Record,
    Scalar,
    TupleOf,
    Type,
    convert_scalar,
    describe,
    parse_type,
    spell,
)
from ppdet_repro.utils.errors import UserError

DATASETS = ("TrainDataset", "EvalDataset", "TestDataset")
MAX_CHECKED = 100_000
SLIM_SECTIONS = ("PTQ", "QAT", "Pruner", "PrunerQAT")
RUN_SECTIONS = ("TrainReader", "EvalReader", "TestReader", "LearningRate", "OptimizerBuilder", "TrainPhases")
SECTIONS = (*RUN_SECTIONS, *SLIM_SECTIONS)


class Scope(NamedTuple):
    """The circumstances of a check."""

    problems: Problems  # where it reports
    stack: Tuple[str, ...] = ()  # the components that it is inside, outermost first
    complete: bool = True  # whether missing parameters are problems and defaults are resolved

    def report(self, origin: Optional[Origin], text: str) -> None:
        self.problems.append(Problem(origin, text))


def record_type(settings: Any) -> Record:
    """The type of a dataclass of settings, with the values of this one as defaults. It may contain others."""
    types: Dict[str, Type] = {}
    for field in fields(settings):
        value, tree = getattr(settings, field.name), ast.parse(str(field.type), mode="eval").body
        types[field.name] = record_type(value) if is_dataclass(value) else parse_type(tree)
    return Record(types, Node.of(asdict(settings)).value)


RUN_TYPE = record_type(RunSettings())


class Checker:
    """Checks the nodes of a document against the components."""

    def __init__(self, document: Node):
        self.top: Mapping[Any, Node] = document.value
        self.origin = document.origin
        self.checked = 0  # values so far; one that has aliases, or a section that is used again, counts again
        self.hints = MAX_PROBLEMS  # each takes milliseconds, so only as many are searched as are shown

    def document(self, problems: Problems) -> Dict[str, Setting]:
        """Check all keys; the plans of everything that a run builds, by the name of the section.

        UserError if the document is built on something of PaddleDetection that this package has not.
        """
        absent = find_absent(self.top)
        if absent is not None:
            raise UserError(f"{absent.origin}: {absent.name}: {absent.why}")
        names = (*RUN_TYPE.fields, *DATASETS, *components.shared_names())
        for key, node in self.top.items():
            component = components.find(key) if isinstance(key, str) else None
            if component is not None:  # a section may lack parameters: others may give them
                self.component(component, key, Scope(problems, complete=False))
            elif key not in names:
                kind = "no component" if str(key)[:1].isupper() else "unknown key"
                hint = self.nearest(key, (*names, *components.names()))
                problems.append(Problem(node.origin, f"{kind} {key!r}{hint}"))
        plans = {}
        architecture = self.top.get("architecture")
        if architecture is not None and isinstance(architecture.value, str):
            plans[architecture.value] = self.part(architecture, "architecture", Scope(problems))
        for name in (*SECTIONS, *DATASETS):
            if name in self.top and (name in DATASETS or components.find(name)):
                plans[name] = self.root(name, problems)
        return plans

    def root(self, name: str, problems: Problems, given: Collection[str] = ()) -> Setting:
        """The plan of a dataset section, or of a component without the parameters in `given`; `UserError` if absent."""
        if name in DATASETS:
            if name not in self.top:
                raise UserError(f"the config has no section {name}")
            return self.part(self.top[name], name, Scope(problems))
        component = components.find(name)
        if component is None:
            raise UserError(f"no component {name!r}{self.nearest(name, components.names())}")
        return Setting(self.component(component, name, Scope(problems), given=given))

    def component(
        self, component: Component, where: str, scope: Scope, inline: Optional[Node] = None, given: Collection[str] = ()
    ) -> Plan:
        """The plan of a component without the parameters in `given`, which the caller supplies.

        The parameters of its top-level section are beaten by those of `inline`, a part that names it. `where` is the
        path in the config that asks for it, for messages.
        """
        section = self.top.get(component.name, Node({}))
        if section.tag or not isinstance(section.value, (dict, type(None))):
            got = spell(section.plain())
            scope.report(section.origin, f"{component.name} must be a mapping of parameters, got {got}")
            section = Node({}, section.origin)
        form = part_form(inline) if inline else None
        own = form.arguments if form else {}
        arguments = {**(section.value or {}), **own}
        mentions = [inline] if own else [section, inline]
        origin = next((node.origin for node in mentions if node and node.origin), self.origin)
        self.count(len(arguments), origin)
        for key, argument in arguments.items():
            if key not in component.parameters and not argument.inherited:
                scope.report(argument.origin, self.unknown_parameter(component, key))
        if component.name in scope.stack:
            circle = " -> ".join((*scope.stack[scope.stack.index(component.name) :], component.name))
            scope.report(origin, f"{where}: a component cannot contain itself: {circle}")
            return Plan(component, {}, origin)
        inside = scope._replace(stack=(*scope.stack, component.name))
        settings = {}
        for parameter in component.parameters.values():
            if parameter.name in given:
                continue
            shared = self.top if parameter.role == registry.SHARED else {}
            node = arguments.get(parameter.name, shared.get(parameter.name))
            path = f"{component.name}.{parameter.name}"
            if node is not None:
                used = path if parameter.name in arguments else parameter.name
                settings[parameter.name] = self.value(parameter.type, node, used, inside)
            elif parameter.role == registry.UPSTREAM:
                settings[parameter.name] = Setting(FromUpstream())
            elif parameter.default is REQUIRED and scope.complete:
                wanted = f"{component.name} needs {parameter.name!r} ({describe(parameter.type)})"
                scope.report(origin, f"{wanted}, which is missing in {where}")
            elif scope.complete and (parameter.default is None or isinstance(parameter.default, Expression)):
                settings[parameter.name] = Setting(parameter.default)
            elif scope.complete:
                settings[parameter.name] = self.value(parameter.type, Node.of(parameter.default), path, inside)
        return Plan(component, settings, origin)

    def count(self, values: int, origin: Optional[Origin]) -> None:
        """Count values that are checked. UserError if they are far more than those of a config."""
        self.checked += values
        if self.checked > MAX_CHECKED:
            raise UserError(f"{origin}: more than {MAX_CHECKED:,} values; those of a section count for each use of it")

    def value(self, type_: Type, node: Node, where: str, scope: Scope) -> Setting:
        """Convert a node to a type, or report why it is not of the type."""
        self.count(1, node.origin)
        if isinstance(type_, OneOf):
            return self.one_of(type_, node, where, scope)
        if isinstance(type_, PartOf):
            return self.part(node, where, scope)
        if isinstance(type_, Anything):
            return self.anything(node, where, scope)
        if not node.tag:
            if isinstance(node.value, list) and isinstance(type_, (ListOf, TupleOf)):
                return self.sequence(type_, node, where, scope)
            if isinstance(node.value, dict) and isinstance(type_, DictOf):
                return self.mapping(type_, node, where, scope)
            if isinstance(node.value, dict) and isinstance(type_, Record):
                return self.record(type_, node, where, scope)
        try:
            return Setting(convert_scalar(type_, node.value), node.origin)
        except ValueError:
            scope.report(node.origin, wrong_type(type_, node, where))
            return Setting(None, node.origin)

    def anything(self, node: Node, where: str, scope: Scope) -> Setting:
        """Convert a node to plain data of any shape. A component is not plain."""
        if node.tag:
            scope.report(node.origin, f"{where} takes plain values, not the component !{node.tag}")
        if isinstance(node.value, list):
            return self.sequence(ListOf(Anything()), node, where, scope)
        if isinstance(node.value, dict):
            return self.mapping(DictOf(Anything(), Anything()), node, where, scope)
        return Setting(node.value, node.origin)

    def sequence(self, type_: Union[ListOf, TupleOf], node: Node, where: str, scope: Scope) -> Setting:
        """Convert a list item by item."""
        types = type_.items if isinstance(type_, TupleOf) else (type_.item,) * len(node.value)
        if len(types) != len(node.value):
            scope.report(node.origin, wrong_type(type_, node, where))
        pairs = enumerate(zip(types, node.value))
        items = [self.value(item_type, item, f"{where}[{i}]", scope) for i, (item_type, item) in pairs]
        return Setting(type_.container(items) if isinstance(type_, ListOf) else tuple(items), node.origin)

    def mapping(self, type_: DictOf, node: Node, where: str, scope: Scope) -> Setting:
        """Convert a mapping pair by pair."""
        pairs = {}
        for key, item in node.value.items():
            self.value(type_.key, Node(key, item.origin), f"a key of {where}", scope)
            pairs[key] = self.value(type_.value, item, f"{where}.{key}", scope)
        return Setting(pairs, node.origin)

    def record(self, type_: Record, node: Node, where: str, scope: Scope) -> Setting:
        """Convert a mapping with fixed keys; absent ones have their defaults."""
        pairs = {}
        for key, item in {**type_.defaults, **node.value}.items():
            if key in type_.fields:
                pairs[key] = self.value(type_.fields[key], item, f"{where}.{key}" if where else key, scope)
            else:
                scope.report(item.origin, f"{where} has no key {key!r}{self.nearest(key, type_.fields)}")
        return Setting(pairs, node.origin)

    def one_of(self, type_: OneOf, node: Node, where: str, scope: Scope) -> Setting:
        """Convert to the first option that accepts the node. If only one has its shape, report that one's problems."""
        if node.value is None and Scalar("None") in type_.options:
            return Setting(None, node.origin)
        attempts = []
        for option in (option for option in type_.options if has_shape(option, node)):
            problems: Problems = []
            setting = self.value(option, node, where, scope._replace(problems=problems))
            if not problems:
                return setting
            attempts.append((option, problems))
        if len(attempts) == 1 and not isinstance(attempts[0][0], Scalar):
            scope.problems.extend(attempts[0][1])
        else:
            scope.report(node.origin, wrong_type(type_, node, where))
        return Setting(None, node.origin)

    def part(self, node: Node, where: str, scope: Scope) -> Setting:
        """The plan of a component in any of the forms of `document.part_form`."""
        form = part_form(node)
        component = components.find(form.name) if form else None
        if component is not None:
            return Setting(self.component(component, where, scope, inline=node), node.origin)
        if form is not None:
            why = absent_reason(form.name)
            hint = f"; {why}" if why else self.nearest(form.name, components.names())
            scope.report(node.origin, f"{where}: no component {form.name!r}{hint}")
        else:
            got = spell(node.plain())
            scope.report(node.origin, f"{where} must be a component: a name or {{name: X, ...}}, got {got}")
        return Setting(None, node.origin)

    def run_settings(self, problems: Problems) -> Dict[str, Setting]:
        """All run settings, those that the document does not give by default."""
        scope = Scope(problems)
        given = {key: node for key, node in self.top.items() if key in RUN_TYPE.fields}
        settings = self.record(RUN_TYPE, Node(given), "", scope).value
        for key, setting in settings.items():
            if key in run.AT_LEAST and setting.value is not None and setting.value < run.AT_LEAST[key]:
                scope.report(setting.origin, f"{key} must be at least {run.AT_LEAST[key]}, got {setting.value}")
            if key in run.UNSUPPORTED_HARDWARE and setting.value:
                scope.report(setting.origin, f"{key} must be false: only CPUs and NVIDIA GPUs are supported")
        if "TrainReader" in self.top and "epoch" not in given:
            scope.report(self.top["TrainReader"].origin, "there is a TrainReader, but 'epoch' is missing")
        return settings

    def unknown_parameter(self, component: Component, key: Any) -> str:
        """The message about a key that is not a parameter of the component."""
        known = f"; it has {', '.join(component.parameters)}" if component.parameters else "; it takes none"
        return f"{component.name} has no parameter {key!r}{self.nearest(key, component.parameters) or known}"

    def nearest(self, word: Any, words: Iterable[str]) -> str:
        """The hint at the most similar of the words, see `components.nearest`; empty after many hints."""
        self.hints -= 1
        return nearest(word, words) if self.hints >= 0 else ""


def has_shape(type_: Type, node: Node) -> bool:
    """Whether a node could be of the type, by its being a list, a mapping or a scalar."""
    if isinstance(type_, Anything):
        return True
    if isinstance(type_, PartOf):
        return part_form(node) is not None
    if isinstance(node.value, list):
        return isinstance(type_, (ListOf, TupleOf))
    if isinstance(node.value, dict):
        return isinstance(type_, (DictOf, Record))
    return isinstance(type_, Scalar)


def wrong_type(type_: Type, node: Node, where: str) -> str:
    """The message about a value of the wrong type, with a hint if YAML 1.1 reads a number such as 1e-4 as text."""
    text = f"{where} must be {describe(type_)}, got {spell(node.plain())}"
    options = type_.options if isinstance(type_, OneOf) else (type_,)
    if isinstance(node.value, str) and Scalar("float") in options:
        number = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)", node.value)
        if number:
            whole, fraction, sign, exponent = number.groups()
            fraction = fraction if fraction and fraction != "." else ".0"
            text += f", which YAML reads as text; write {whole}{fraction}e{sign or '+'}{exponent}"
    return text
