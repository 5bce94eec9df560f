"""A resolved config as text: every value, beside the file and line where it was written."""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Set, Tuple

import yaml

from ppdet_repro.core.config import components
from ppdet_repro.core.config.builder import Config
from ppdet_repro.core.config.components import Expression
from ppdet_repro.core.config.plan import FromUpstream, Plan, Setting

INDENT = "  "
MAX_COLUMN = 72
DIM, PLAIN = "\033[2m", "\033[0m"


class Line(NamedTuple):
    """A line of YAML and the origin of its value ("" for a heading that nobody wrote)."""

    text: str
    origin: str


def show(cfg: Config, colour: bool = False) -> str:
    """The whole config as text, values in one column and their origins in another.

    Args:
        cfg: The config.
        colour: Whether to dim origins and defaults on a terminal.
    """
    lines = [line for name, setting in cfg.tree().items() for line in top_level(name, setting)]
    lines += [Line(f"# {name}: nothing uses this section", origin) for name, origin in unused(cfg)]
    column = min(MAX_COLUMN, max(len(line.text) for line in lines))
    return "\n".join(align(line, column, colour) for line in lines)


def align(line: Line, column: int, colour: bool) -> str:
    """The text of a line, with its origin in the given column."""
    text = line.text.ljust(column)
    if not colour:
        return f"{text}  {line.origin}".rstrip()
    written = line.origin not in ("", "default")
    return f"{text}  {DIM}{line.origin}{PLAIN}" if written else f"{DIM}{text}  {line.origin}{PLAIN}"


def top_level(name: str, setting: Setting) -> Iterator[Line]:
    """The lines of a run setting or a section. The section of a component does not repeat the component's name."""
    if isinstance(setting.value, Plan) and setting.value.component.name == name:
        yield Line(f"{name}:", str(setting.value.origin or ""))
        yield from parameters(setting.value, INDENT)
    else:
        yield from entry(f"{name}:", setting, "")


def entry(key: str, setting: Setting, indent: str) -> Iterator[Line]:
    """The lines of a key (or the dash of a list item), its value and what is inside the value."""
    value, origin = setting.value, str(setting.origin or "default")
    if isinstance(value, Plan):
        yield Line(f"{indent}{key} {value.component.name}", origin)
        yield from parameters(value, indent + INDENT)
    elif isinstance(value, (list, tuple)) and setting.has_parts():
        yield Line(f"{indent}{key}", origin)
        for item in value:
            yield from entry("-", item, indent + INDENT)
    elif isinstance(value, dict) and value:
        yield Line(f"{indent}{key}", origin)
        for name, item in value.items():
            yield from entry(f"{name}:", item, indent + INDENT)
    elif isinstance(value, FromUpstream):
        yield Line(f"{indent}{key}", "the outputs of the part before")
    else:
        yield Line(f"{indent}{key} {in_yaml(setting)}", origin)


def parameters(plan: Plan, indent: str) -> Iterator[Line]:
    """The lines of all parameters of a component."""
    for name, setting in plan.settings.items():
        yield from entry(f"{name}:", setting, indent)


def in_yaml(setting: Setting) -> str:
    """A plain value as YAML on one line."""
    if isinstance(setting.value, Expression):
        return setting.value.text
    text = yaml.safe_dump(setting.plain(), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.split("\n...")[0].strip()


def unused(cfg: Config) -> List[Tuple[str, str]]:
    """The name and the origin of every section whose component is not built."""
    reached: Set[str] = set()
    for setting in cfg.tree().values():
        reached |= built(setting)
    return [
        (name, str(node.origin))
        for name, node in cfg.document.value.items()
        if name not in reached and name in components.names()
    ]


def built(setting: Setting) -> Set[str]:
    """The names of all components in a setting."""
    names = {setting.value.component.name} if isinstance(setting.value, Plan) else set()
    inner = setting.value.settings.values() if isinstance(setting.value, Plan) else setting.children()
    return names.union(*map(built, inner))
