"""The reference pages of the documentation, which mkdocs makes from the sources whenever it builds the site.

`mkdocs.yml` names this file as a hook. It adds three pages to those in docs/: every key of a config, from the
signatures and docstrings of the components; every command with its flags, from their parsers; and the notebook with
its outputs. Nothing here imports Paddle.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import _checkout

from ppdet_repro.cli.main import COMMANDS, PROGRAM, build_parser
from ppdet_repro.core.config import components
from ppdet_repro.core.config.components import REQUIRED, Component, Expression, Parameter
from ppdet_repro.core.config.run import NO_EFFECT, RunSettings
from ppdet_repro.core.config.types import describe, parse_type, spell
from ppdet_repro.core.registry import SHARED, UPSTREAM

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {  # the sections of the page about configs: folders of the package, in the order of a detector
    "modeling.architectures": "Detectors",
    "modeling.backbones": "Backbones",
    "modeling.necks": "Necks",
    "modeling.heads": "Heads",
    "modeling.assigners": "Matching",
    "modeling.losses": "Losses",
    "modeling": "Anchors, levels, post-processing",
    "data.source": "Data sets",
    "data.reader": "Readers",
    "data.transform": "Transforms",
    "optimizer": "Optimizer and schedule",
    "slim": "Slimming",
}
MEANINGS = {  # of keys that mean the same in every component that has them
    "num_classes": "number of classes, without background",
    "norm_type": "bn or sync_bn, which computes the statistics over all GPUs",
    "backbone": "the network that gives feature maps",
    "neck": "what combines the feature maps of the backbone",
    "conv_feat": "the convolutions before the output layers",
    "anchor_generator": "the anchors of every location",
    "bbox_assigner": "which anchors learn an object: one of the components under Matching",
    "loss_class": "the loss of the classes",
    "loss_bbox": "the loss of the boxes",
    "nms": "what suppresses boxes that overlap a better one",
    "loss_weight": "the factor of the loss",
    "reduction": "whether the losses of the boxes are summed, averaged, or returned one by one",
    "feat_in": "channels of the feature map",
    "feat_out": "channels of the convolutions",
    "out_channel": "channels of the maps that it returns",
    "num_convs": "number of 3x3 convolutions",
    "depth": "number of layers, which names the variant of the network",
    "use_warmup": "whether to apply the warmup, if there is one",
    "param_groups": "learning rates of parts of the network; see OptimizerBuilder",
}
FROM_BEFORE = "the part before gives it"


class Key(NamedTuple):
    """A row of the reference: a key of a config."""

    name: str
    type: str
    default: str
    meaning: str  # empty if nothing says it


def arguments_in(docstring: str) -> Dict[str, str]:
    """The meanings in the section `Args` of a docstring, by name. `a, b: text` is the meaning of both."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    found: Dict[str, str] = {}
    names: List[str] = []
    for line in section[1].splitlines() if section else ():
        entry = re.match(r" {4}([\w`][\w, `]*): +(.*)", line)
        if entry:
            names = re.findall(r"\w+", entry[1])
            found.update(dict.fromkeys(names, entry[2]))
        elif names and line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def docstrings(component: Component) -> List[str]:
    """The docstrings of a component's class and of its base classes in the package, nearest first."""
    texts: List[str] = []
    waiting = [(components.read_module(component.module), component.name)]
    while waiting and len(texts) < 8:  # a base class may refer to a class that is built on it
        home, node = components.lookup(*waiting.pop(0)) or (None, None)
        if home is not None and isinstance(node, ast.ClassDef):
            texts.append(ast.get_docstring(node) or "")
            referred = re.search(r"[Ss]ee `(\w+)` for the parameters", texts[-1])
            waiting += [(home, referred[1])] if referred and referred[1] != component.name else []
            waiting += [(home, base.id) for base in node.bases if isinstance(base, ast.Name)]
    return texts


def meaning(component: Component, parameter: Parameter, texts: List[str]) -> str:
    """What a parameter is for: by the first docstring that lists or mentions it, or by `MEANINGS`."""
    for text in texts:
        if parameter.name in arguments_in(text):
            return arguments_in(text)[parameter.name]
    for text in texts:
        prose = " ".join(re.sub(r"^Args:\n(?:[ \t]+.*\n|\n)*", "", text + "\n", flags=re.MULTILINE).split())
        for sentence in re.split(r"(?<=[.:;]) ", prose):
            if f"`{parameter.name}`" in sentence:
                return sentence
    return MEANINGS.get(parameter.name, FROM_BEFORE if parameter.role == UPSTREAM else "")


def keys_of(component: Component) -> Iterator[Key]:
    """The keys of a component's section."""
    texts = docstrings(component)
    for parameter in component.parameters.values():
        text = meaning(component, parameter, texts)
        no_effect = NO_EFFECT.get(f"{component.name}.{parameter.name}")
        default = parameter.default
        if default is REQUIRED:
            shown = FROM_BEFORE if parameter.role == UPSTREAM else "required"
        else:
            shown = f"`{default.text if isinstance(default, Expression) else spell(default)}`"
        text = f"no effect: {no_effect}" if no_effect else text
        if parameter.role == SHARED and text:
            text += " (by default that of the top level)"
        yield Key(parameter.name, describe(parameter.type), shown, text)


def keys_of_run(settings: Any, prefix: str = "") -> Iterator[Key]:
    """The keys at the top level of a config, from a dataclass of settings whose fields have comments."""
    source = inspect.getsource(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from keys_of_run(value, f"{field.name}.")
            continue
        line = re.search(rf"(?:^ *# ([^\n]*)\n)?^ *{field.name}: [^\n#]*(?:# ([^\n]*))?$", source, re.MULTILINE)
        text = (line[2] or line[1] or "") if line else ""
        no_effect = NO_EFFECT.get(field.name)
        type_ = describe(parse_type(ast.parse(str(field.type), mode="eval").body))
        yield Key(prefix + field.name, type_, f"`{spell(value)}`", f"no effect: {no_effect}" if no_effect else text)


def holes() -> List[str]:
    """The keys of components and runs, and the flags of commands, that nothing explains."""
    found = [key.name for key in keys_of_run(RunSettings()) if not key.meaning]
    for name in components.names():
        component = components.find(name)
        if component and components.in_package(component.module):
            found += [f"{name}.{key.name}" for key in keys_of(component) if not key.meaning]
    return found + [f"{words} {flag}" for words, parser in parsers() for flag, text in flags_of(parser) if not text]


def table(head: Tuple[str, ...], rows: Sequence[Tuple[str, ...]]) -> str:
    """A table in Markdown."""
    cells = [
        [" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def key_table(keys: List[Key]) -> str:
    rows = [(f"`{key.name}`", key.type, key.default, key.meaning) for key in keys]
    return table(("key", "type", "default", "meaning"), rows) if rows else "It takes no keys."


def folder_of(component: Component) -> str:
    """The key of `FOLDERS` with the longest path that a component's module begins with."""
    module = component.module.removeprefix("ppdet_repro.")
    return max((folder for folder in FOLDERS if f"{module}.".startswith(f"{folder}.")), key=len)


def configuration() -> str:
    """The page about configs: all keys of the top level, then all components."""
    parts = [
        "# Configuration reference",
        "This page is made from the code whenever the site is built. A config is a YAML file; `_BASE_` lists files "
        "whose values it takes over and may replace. `ppdet-repro config -c CONFIG` prints every value of a config "
        "with the file and the line that it comes from, and `-o a.b.c=value` replaces a value on the command line. An "
        "unknown key, or a value of another type, is an error that names the file and the line.",
        "## The run",
        "Keys at the top level of a config.",
        key_table(list(keys_of_run(RunSettings()))),
    ]
    found = [component for name in components.names() if (component := components.find(name))]
    for folder, title in FOLDERS.items():
        parts.append(f"## {title}")
        for component in found:
            if components.in_package(component.module) and folder_of(component) == folder:
                text = re.split(r"^(?:Args|Raises|Returns|Example)s?:", docstrings(component)[0], flags=re.MULTILINE)[0]
                parts += [f"### {component.name}", text.strip(), key_table(list(keys_of(component)))]
    return "\n\n".join(parts) + "\n"


def parsers() -> Iterator[Tuple[str, argparse.ArgumentParser]]:
    """All commands and their subcommands, by the words that call them."""
    for name in COMMANDS:
        yield from descend(name, child(build_parser([name]), name))
        if name == "infer":
            yield "infer --model_dir=DIR", child(build_parser([name, "--model_dir=DIR"]), name)


def child(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    return next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices[name]


def descend(words: str, parser: argparse.ArgumentParser) -> Iterator[Tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in action.choices:
                yield from descend(f"{words} {name}", action.choices[name])


def flags_of(parser: argparse.ArgumentParser) -> Iterator[Tuple[str, str]]:
    """The flags and positional arguments of a command, with their help."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)) or action.help == argparse.SUPPRESS:
            continue
        name = ", ".join(action.option_strings)
        default = formatter._get_default_metavar_for_optional(action) if name else action.dest
        values = formatter._format_args(action, default)
        yield f"{name} {values}".strip(), formatter._expand_help(action) if action.help else ""


def command_line() -> str:
    """The page about commands."""
    parts = [
        "# Command reference",
        f"This page is made from the parsers whenever the site is built; `{PROGRAM} COMMAND --help` prints the same. "
        "Exit codes: 0 success; 1 a check has found something, or a part of the work could not be done; 2 an error, "
        "which is one line on standard error; 130 interrupted.",
    ]
    for words, parser in parsers():
        title, _, text = (parser.description or "").strip().partition("\n")
        parts += [f"## {PROGRAM} {words}", title, text.strip("\n")]  # indented lines are code in Markdown, too
        rows = [(f"`{flag}`", text) for flag, text in flags_of(parser)]
        parts.append(table(("flag", ""), rows) if rows else "")
    return "\n\n".join(filter(None, parts)) + "\n"


def notebook(path: Path) -> str:
    """The page of an executed notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            picture = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
            text = "".join(output.get("text", data.get("text/plain", "")))
            if picture:
                parts.append(f'<img alt="output" src="data:{picture};base64,{"".join(data[picture].split())}">')
            elif text:
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


TITLES: Dict[str, str] = {}  # of the pages in the navigation, by file name


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs: adds the pages."""
    from mkdocs.structure.files import File

    pages = {"configuration.md": configuration(), "commands.md": command_line()}
    pages.update({f"{path.stem}_notebook.md": notebook(path) for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")})
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    TITLES.update(
        {name: title for tab in config.nav for page in tab.values() for item in page for title, name in item.items()}
    )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs: links whose text is a file name get the page's title; notebooks are linked as pages. Of links
    to files outside of docs/, which the site has not, only the text stays."""
    markdown = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
    markdown = re.sub(r"\]\(notebooks/(\w+)\.ipynb\)", r"](\1_notebook.md)", markdown)
    return re.sub(r"\[(\w+\.md)\]\(\1", lambda found: f"[{TITLES.get(found[1], found[1])}]({found[1]}", markdown)
