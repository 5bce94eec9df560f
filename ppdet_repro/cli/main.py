# PYTHON_ARGCOMPLETE_OK
"""The command `ppdet-repro`: one subcommand per module of this package.

A module's docstring is the subcommand's help: a summary, then examples. `add_arguments(parser)` declares the flags.
`run(arguments)` imports what it needs, does the work, and returns an exit code or None; raising `UserError` prints one
line and exits with code 2. Parsing imports neither Paddle nor NumPy, so that `--help` and a wrong flag are answered at
once. The scripts in tools/ run the same modules with the same flags.
"""

import argparse
import importlib
import os
import sys
from types import ModuleType
from typing import Optional, Sequence

import ppdet_repro
from ppdet_repro.cli.foreign import add_foreign
from ppdet_repro.utils.errors import run_command

PROGRAM = "ppdet-repro"
COMPLETION = f'Completion in bash and zsh: eval "$(register-python-argcomplete {PROGRAM})"'
HELP_FORMAT = argparse.RawDescriptionHelpFormatter  # keeps the lines of a docstring
COMMANDS = (
    "init", "train", "eval", "infer", "export", "quantize", "data", "serve", "report", "info", "config", "verify",
    "anchors", "assignment", "average", "cam", "compare", "convert", "positives",
    "reproduce", "lr_find", "tune",
)  # fmt: skip


def main() -> None:
    """Run `ppdet-repro` with the process's arguments, and exit."""
    completing = "_ARGCOMPLETE" in os.environ  # the shell asks how the line COMP_LINE can go on
    quiet_paddle()
    parser = build_parser(os.environ["COMP_LINE"].split() if completing else sys.argv[1:])
    if completing:
        import argcomplete

        argcomplete.autocomplete(parser)

    def command() -> Optional[int]:
        arguments = parser.parse_args()
        return arguments.run(arguments)

    run_command(command)


def run_script(command: str) -> None:
    """Run a script that is one command, such as tools/train.py, with the process's arguments, and exit."""
    quiet_paddle()
    module = load(command)
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=HELP_FORMAT)
    module.add_arguments(parser)
    add_foreign(parser, command)
    run_command(lambda: module.run(parser.parse_args()))


def quiet_paddle() -> None:
    """Let Paddle's C++ code log warnings and errors, but not what it does, unless the user has set its level."""
    os.environ.setdefault("GLOG_minloglevel", "1")


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of `ppdet-repro` for the arguments `argv`: with `--model_dir` among them, `infer` has other flags."""
    summary = ppdet_repro.__doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog=PROGRAM, description=summary, epilog=COMPLETION)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {ppdet_repro.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    exported = any(argument.split("=")[0] == "--model_dir" for argument in argv)
    for name in COMMANDS:
        module_name = "infer_exported" if name == "infer" and exported else name
        module = load(module_name)
        text = module.__doc__ or ""
        command = commands.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=HELP_FORMAT)
        module.add_arguments(command)
        add_foreign(command, module_name)
        command.set_defaults(run=module.run)
    return parser


def load(command: str) -> ModuleType:
    """The module of a command."""
    return importlib.import_module(f"ppdet_repro.cli.{command}")
