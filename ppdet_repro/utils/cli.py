"""Argument types and flags that several commands share."""

from __future__ import annotations

import argparse
from typing import Optional

FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def flag(text: str) -> bool:
    """Parse `True`, `yes`, `on`, `1` or one of their opposites, in upper or lower case."""
    if text.lower() not in FLAGS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return FLAGS[text.lower()]


def add_switch(parser: argparse._ActionsContainer, name: str, default: Optional[bool], help: str) -> None:
    """Add a boolean flag that accepts `--x`, `--x True` and `--x=False` alike."""
    parser.add_argument(name, type=flag, nargs="?", const=True, default=default, metavar="BOOL", help=help)


def at_least_one(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `-c CONFIG` and `-o KEY=VALUE ...`."""
    text = "YAML config: a file, or the name of one that the package brings, such as yolof/yolof_r50_c5_1x_coco.yml"
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help=text)
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `-o KEY=VALUE ...`, which may be repeated."""
    text = "override a value of the config; the key is a path such as TrainReader.batch_size; may be repeated"
    parser.add_argument("-o", "--opt", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help=text)


def add_slim_config(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add `--slim_config FILE`."""
    text = "second YAML config, merged over the first: quantization or distillation settings"
    parser.add_argument("--slim_config", metavar="FILE", required=required, help=text)


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Add `--offline`."""
    add_switch(parser, "--offline", False, "never download weights: use the cached file of a URL (default: False)")
