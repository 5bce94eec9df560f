"""How components are read from the package, and the configs of the repository."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import List

import pytest
from paths import ROOT
from toy_components import write

from ppdet_repro.core import registry
from ppdet_repro.core.config import components, load_config
from ppdet_repro.core.config.components import REQUIRED, Expression, Parameter
from ppdet_repro.core.config.document import Node, Problem
from ppdet_repro.core.config.schema import Checker, Scope
from ppdet_repro.core.config.types import ListOf, OneOf, Scalar


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
    module = components.Module(Path("bad.py"), {}, {}, {})
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
        if mine.default is not REQUIRED and not isinstance(mine.default, Expression):
            problems: List[Problem] = []
            Checker(Node({})).value(mine.type, Node.of(mine.default), name, Scope(problems, complete=False))
            assert problems == []
    assert component.load().__doc__


@pytest.mark.parametrize("path", [p for p in ROOT.glob("configs/**/*.yml") if p.parent.name != "_base_"])
def test_every_config_of_the_repository_passes(path, logged):
    load_config(path)
    assert "has no effect" not in logged.text
