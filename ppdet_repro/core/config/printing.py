"""A resolved config as text: every value, beside the file and line where it was written."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Set

import yaml

from ppdet_repro.core.config import components
from ppdet_repro.core.config.builder import Config
from ppdet_repro.core.config.components import Expression
from ppdet_repro.core.config.plan import FromUpstream, Plan, Setting
from ppdet_repro.utils.printable import printable_line

INDENT = "  "
MAX_COLUMN = 72
DIM, PLAIN = "\033[2m", "\033[0m"


class Line(NamedTuple):
    """A line of YAML and the origin of its value ("" for a heading that nobody wrote)."""

    text: str
    origin: str


def show(cfg: Config, colour: bool = False) -> str:
    """The whole config as text, values in one column, their origins in another. `colour` dims origins and defaults."""
    tree = cfg.tree()
    lines = [line for name, setting in tree.items() for line in entry(f"{name}:", setting, "")]
    unused = set(components.names()).difference(*map(built, tree.values()))
    for name, node in cfg.document.value.items():
        if name in unused:
            lines.append(Line(f"# {name}: nothing uses this section", str(node.origin)))
    column = min(MAX_COLUMN, max(len(line.text) for line in lines))
    return "\n".join(align(line, column, colour) for line in lines)


def align(line: Line, column: int, colour: bool) -> str:
    """The text of a line, with its origin in the given column."""
    text, origin = printable_line(line.text).ljust(column), printable_line(line.origin)
    if not colour:
        return f"{text}  {origin}".rstrip()
    written = origin not in ("", "default")
    return f"{text}  {DIM}{origin}{PLAIN}" if written else f"{DIM}{text}  {origin}{PLAIN}"


def entry(key: str, setting: Setting, indent: str) -> Iterator[Line]:
    """The lines of a key (or the dash of a list item), its value and what is inside the value."""
    value, origin = setting.value, str(setting.origin or "default")
    if isinstance(value, Plan):
        own = key == f"{value.component.name}:"  # the section of a component does not repeat its name
        yield Line(key, str(value.origin or "")) if own else Line(f"{indent}{key} {value.component.name}", origin)
        for name, item in value.settings.items():
            yield from entry(f"{name}:", item, indent + INDENT)
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


def in_yaml(setting: Setting) -> str:
    """A plain value as YAML on one line."""
    if isinstance(setting.value, Expression):
        return setting.value.text
    text = yaml.safe_dump(setting.plain(), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.split("\n...")[0].strip()


def built(setting: Setting) -> Set[str]:
    """The names of all components in a setting."""
    own = {setting.value.component.name} if isinstance(setting.value, Plan) else set()
    return own.union(*map(built, setting.children()))
