"""The names of all components and the parameters that they take.

The package's own components are read from its syntax trees without importing any module, so that a config can be
checked where Paddle is not installed. Components that a program outside the package registers are read from their
signatures.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

import ppdet_repro
from ppdet_repro.core import registry
from ppdet_repro.core.config.types import Alias, Type, last_name, parse_annotation

PACKAGE = Path(ppdet_repro.__file__).parent


@dataclass(frozen=True)
class Expression:
    """A default that is not a literal. Only its text is known until the class is imported."""

    text: str


@dataclass(frozen=True)
class Required:
    """Stands for the default of a parameter that has none."""


REQUIRED = Required()


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
    file: Path
    line: int
    doc: str
    parameters: Mapping[str, Parameter]

    def load(self) -> type:
        """Import the component's module and return the class."""
        if self.name in registry.registered():
            return registry.registered()[self.name]
        return getattr(importlib.import_module(self.module), self.name)


class Module(NamedTuple):
    """What a module defines: classes, imports (local name -> (module, name)) and assigned names, by name."""

    name: str
    file: Path
    classes: Dict[str, ast.ClassDef]
    imports: Dict[str, Tuple[str, str]]
    assigned: Dict[str, ast.expr]


def find(name: str) -> Optional[Component]:
    """The component of that name, or None.

    Raises:
        ValueError: A program registered a class with the name of one of the package's components.
    """
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


def everything() -> List[Component]:
    """All components, sorted by name."""
    return [component for component in map(find, names()) if component is not None]


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of the words; empty if none is similar."""
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
            if not any(last_name(d) == "register" for d in node.decorator_list):
                continue
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
    return Module(name, file, classes, imports, assigned)


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
    module = read_module(module_name)
    node = module.classes[name]
    home, constructor = find_constructor(module, node) or (module, None)
    parameters = {} if constructor is None else tree_parameters(home, name, constructor)
    return Component(name, module_name, module.file, node.lineno, ast.get_docstring(node) or "", parameters)


def find_constructor(module: Module, node: ast.ClassDef) -> Optional[Tuple[Module, ast.FunctionDef]]:
    """The `__init__` of a class and the module that it is in: its own, or that of the first base with one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return module, item
    for base in node.bases:
        found = lookup(module, base.id) if isinstance(base, ast.Name) else None
        if found and isinstance(found[1], ast.ClassDef):
            constructor = find_constructor(found[0], found[1])
            if constructor:
                return constructor
    return None


def tree_parameters(module: Module, owner: str, constructor: ast.FunctionDef) -> Dict[str, Parameter]:
    """The parameters of a constructor without `self`."""
    arguments = constructor.args
    if arguments.vararg or arguments.kwarg:
        where = f"{module.file}:{constructor.lineno}: {owner}"
        raise TypeError(f"{where} must name its parameters, without * or **")

    def alias(name: str) -> Optional[ast.expr]:
        found = lookup(module, name)
        return found[1] if found and isinstance(found[1], ast.expr) else None

    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(positional[1:], defaults[1:]), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return {
        argument.arg: make_parameter(
            argument.arg,
            argument.annotation,
            REQUIRED if default is None else literal(default),
            alias,
            f"{module.file}:{argument.lineno}: {owner}",
        )
        for argument, default in pairs
    }


def make_parameter(name: str, annotation: Optional[ast.expr], default: Any, alias: Alias, where: str) -> Parameter:
    """A parameter from its annotation; a `TypeError` if that is missing or outside the type language."""
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
        for parameter in inspect.signature(cls).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{where} must name its parameters, without * or **")
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            annotation = None if parameter.annotation is parameter.empty else as_tree(parameter.annotation)
            parameters[parameter.name] = make_parameter(
                parameter.name, annotation, default, lambda name: alias_value(scope, name), where
            )
    try:
        file, line = Path(inspect.getsourcefile(cls) or cls.__module__), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        file, line = Path(cls.__module__), 0
    return Component(cls.__name__, cls.__module__, file, line, inspect.getdoc(cls) or "", parameters)


def as_tree(annotation: Any) -> ast.expr:
    """The syntax tree of an annotation, which is a string or an object."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return ast.parse(text, mode="eval").body


def alias_value(scope: Mapping[str, Any], name: str) -> Optional[ast.expr]:
    """The type that a variable of a module stands for; None if there is no such variable or it is a class."""
    value = scope.get(name)
    return None if value is None or isinstance(value, type) else as_tree(value)
