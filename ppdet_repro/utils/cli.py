"""What the command lines of this package have in common."""

from __future__ import annotations

import argparse
from typing import Optional

FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def flag(text: str) -> bool:
    """`True`, `yes`, `on`, `1` and their opposites, in any case."""
    if text.lower() not in FLAGS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return FLAGS[text.lower()]


def add_switch(parser: argparse._ActionsContainer, name: str, default: Optional[bool], help: str) -> None:
    """A switch that is accepted as `--x`, `--x True` and `--x=False` alike."""
    parser.add_argument(name, type=flag, nargs="?", const=True, default=default, metavar="BOOL", help=help)


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `-c CONFIG` and `-o a.b.c=value ...`, which may be given many times."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-c", "--config", required=True, help="the YAML file")
    parser.add_argument(
        "-o", "--opt", nargs="+", action="extend", default=[], metavar="a.b.c=value", help="override a value"
    )
    return parser


def add_slim_config(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The flag `--slim_config`."""
    text = "a second YAML file, over the first: how to slim the model"
    parser.add_argument("--slim_config", metavar="FILE", required=required, help=text)
