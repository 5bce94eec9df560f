"""The names of all components and the parameters that they take.

The package's own are read from its syntax trees without importing any module, so that a config can be checked where
Paddle is not installed. Components that a program outside the package registers are read from their signatures.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Set, Tuple

import ppdet_repro
from ppdet_repro.core import registry
from ppdet_repro.core.config.types import Alias, Type, last_name, parse_annotation

PACKAGE = Path(ppdet_repro.__file__).parent


@dataclass(frozen=True)
class Expression:
    """A default that is not a literal. Only its text is known until the class is imported."""

    text: str


MAX_WORD = 80  # characters; finding the nearest word takes quadratic time

REQUIRED = inspect.Parameter.empty  # stands for the default of a parameter that has none


class Parameter(NamedTuple):
    """One constructor parameter; `role` is value, shared or upstream (see `core.registry`)."""

    name: str
    type: Type
    default: Any
    role: str


@dataclass(frozen=True)
class Component:
    """A registered class. `parameters` have the order of the constructor's parameters."""

    name: str
    module: str
    parameters: Mapping[str, Parameter]

    def load(self) -> type:
        """The class, whose module is imported if necessary."""
        return registry.registered().get(self.name) or getattr(importlib.import_module(self.module), self.name)


class Module(NamedTuple):
    """What a module defines: classes, imports (local name -> (module, name)) and assigned names, by name."""

    file: Path
    classes: Dict[str, ast.ClassDef]
    imports: Dict[str, Tuple[str, str]]
    assigned: Dict[str, ast.expr]


def find(name: str) -> Optional[Component]:
    """The component of that name. A `ValueError` if a program registered a class with the name of a packaged one."""
    packaged = catalog().get(name)
    added = registry.registered().get(name)
    if added is not None and not in_package(added.__module__):
        if packaged is not None:
            raise ValueError(f"component {name!r} of {added.__module__} has the name of {packaged}'s")
        return from_signature(added)
    return None if packaged is None else from_tree(packaged, name)


def names() -> list[str]:
    """The names of all components, sorted."""
    return sorted({*catalog(), *registry.registered()})


def shared_names() -> Set[str]:
    """The names of all `Shared` parameters."""
    known = filter(None, map(find, names()))
    return {p.name for component in known for p in component.parameters.values() if p.role == registry.SHARED}


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of the words; empty if none is similar, or the word is very long."""
    if len(str(word)) > MAX_WORD:
        return ""
    by_lower = {str(known).lower(): str(known) for known in words}
    matches = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean '{by_lower[matches[0]]}'?" if matches else ""


def in_package(module: str) -> bool:
    return module.split(".")[0] == ppdet_repro.__name__


@cache
def catalog() -> Dict[str, str]:
    """The module of every class in the package that is decorated with `@register`, by class name."""
    found: Dict[str, str] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for class_name, node in read_module(name).classes.items():
            if any(last_name(decorator) == "register" for decorator in node.decorator_list):
                if class_name in found:
                    raise ValueError(f"component {class_name!r} is in {found[class_name]} and in {name}")
                found[class_name] = name
    return found


@cache
def read_module(name: str) -> Module:
    """Read one of the package's modules from its syntax tree."""
    file = PACKAGE.parent.joinpath(*name.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    classes, imports, assigned = {}, {}, {}
    for node in ast.parse(file.read_text(encoding="utf-8"), str(file)).body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.update({item.asname or item.name: (node.module, item.name) for item in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = node.value
    return Module(file, classes, imports, assigned)


def lookup(module: Module, name: str) -> Optional[Tuple[Module, ast.AST]]:
    """What a name stands for in a module (a class or an expression), and the module that defines it."""
    if name in module.classes:
        return module, module.classes[name]
    if name in module.assigned:
        return module, module.assigned[name]
    source, original = module.imports.get(name, ("", ""))
    return lookup(read_module(source), original) if in_package(source) else None


@cache
def from_tree(module_name: str, name: str) -> Component:
    """A component of the package, from the definitions of its class and its base classes."""
    found = find_constructor(read_module(module_name), name)
    return Component(name, module_name, tree_parameters(found[0], name, found[1]) if found else {})


def find_constructor(module: Module, name: str) -> Optional[Tuple[Module, ast.FunctionDef]]:
    """The `__init__` of a class and the module that it is in: its own, or that of the first base with one."""
    home, node = lookup(module, name) or (module, None)
    if not isinstance(node, ast.ClassDef):
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return home, item
    inherited = (find_constructor(home, base.id) for base in node.bases if isinstance(base, ast.Name))
    return next(filter(None, inherited), None)


def tree_parameters(module: Module, owner: str, constructor: ast.FunctionDef) -> Dict[str, Parameter]:
    """The parameters of a constructor without `self`."""
    arguments, file = constructor.args, module.file
    if arguments.vararg or arguments.kwarg:
        raise TypeError(f"{file}:{constructor.lineno}: {owner} must name its parameters, without * or **")

    def alias(name: str) -> Optional[ast.expr]:
        found = lookup(module, name)
        return found[1] if found and isinstance(found[1], ast.expr) else None

    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    parameters = {}
    for item, node in [*zip(positional[1:], defaults[1:]), *zip(arguments.kwonlyargs, arguments.kw_defaults)]:
        default, where = REQUIRED if node is None else literal(node), f"{file}:{item.lineno}: {owner}"
        parameters[item.arg] = make_parameter(item.arg, item.annotation, default, alias, where)
    return parameters


def make_parameter(name: str, annotation: Optional[ast.expr], default: Any, alias: Alias, where: str) -> Parameter:
    """A parameter from its annotation. A `TypeError` if that is missing or outside the type language."""
    if annotation is None:
        raise TypeError(f"{where}: parameter {name!r} has no annotation")
    try:
        role, type_ = parse_annotation(annotation, alias)
    except TypeError as error:
        raise TypeError(f"{where}: parameter {name!r}: {error}") from error
    return Parameter(name, type_, default, role)


def literal(node: ast.expr) -> Any:
    """The value of a literal; an `Expression` for anything else."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Expression(ast.unparse(node))


def from_signature(cls: type) -> Component:
    """A component from the signature of a class."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    owner = next(c for c in cls.__mro__ if "__init__" in vars(c))
    parameters = {}
    if owner.__module__.split(".")[0] not in ("builtins", "paddle"):
        scope = vars(inspect.getmodule(owner))

        def alias(name: str) -> Optional[ast.expr]:
            value = scope.get(name)
            return None if value is None or isinstance(value, type) else as_tree(value)

        for parameter in inspect.signature(cls).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{where} must name its parameters, without * or **")
            annotation = None if parameter.annotation is parameter.empty else as_tree(parameter.annotation)
            parameters[parameter.name] = make_parameter(parameter.name, annotation, parameter.default, alias, where)
    return Component(cls.__name__, cls.__module__, parameters)


def as_tree(annotation: Any) -> ast.expr:
    """The syntax tree of an annotation, which is a string or an object."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return ast.parse(text, mode="eval").body
