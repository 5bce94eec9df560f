"""The command line: every subcommand answers at once, and the scripts in tools/ are the same commands."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

import pytest
from paths import ROOT

import ppdet_repro
from ppdet_repro.cli.main import COMMANDS, build_parser, load, quiet_paddle, run_script
from ppdet_repro.utils.errors import UserError

OF_DATA = ("box_distribution", "slice_image", "x2coco")  # scripts of PaddleDetection, partly in `ppdet-repro data`
SCRIPTS = [*ROOT.glob("tools/*.py"), ROOT / "deploy/python/infer.py"]


def flags(parser):
    """What argparse knows of every argument of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                yield from flags(subcommand)
        else:
            yield action


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "ppdet_repro", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environ)


def test_help_of_every_command_imports_neither_paddle_nor_numpy():
    code = f"""
import sys
from ppdet_repro.cli.main import build_parser
for arguments in {[[name] for name in COMMANDS] + [["infer", "--model_dir=m"], ["data", "synth"]]!r}:
    try:
        build_parser(arguments).parse_args([*arguments, "--help"])
    except SystemExit as end:
        assert not end.code, arguments
assert not {{"paddle", "numpy", "yaml", "cv2"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ppdet-repro") == len(COMMANDS) + 2


@pytest.mark.parametrize("command", [*COMMANDS, "infer_exported", *OF_DATA])
def test_every_flag_has_help_and_every_value_its_default(command):
    parser = argparse.ArgumentParser()
    load(command).add_arguments(parser)
    for flag in flags(parser):
        assert flag.help, flag.option_strings
        if flag.option_strings and flag.default not in (None, [], argparse.SUPPRESS, False):
            assert "default" in flag.help, flag.option_strings


def test_every_script_is_a_command():
    """A script names its command; both read the flags from the command's module."""
    commands = {
        found.group(1): path
        for path in SCRIPTS
        if (found := re.search(r'run_script\("(\w+)"\)', path.read_text(encoding="utf-8")))
    }
    assert set(commands) - {*OF_DATA} == {*COMMANDS, "infer_exported"} - {"report", "verify"}


@pytest.mark.parametrize("command", ["train", "export", "infer", "infer_exported", "serve"])
def test_a_script_and_its_subcommand_have_the_same_options(command, capsys, monkeypatch):
    name = command.split("_")[0]
    arguments = ["--model_dir=m", "--help"] if command == "infer_exported" else ["--help"]
    texts = []
    monkeypatch.setattr(sys, "argv", ["ppdet-repro " + name, *arguments])
    for parse in (lambda: run_script(command), lambda: build_parser([name, *arguments]).parse_args([name, *arguments])):
        with pytest.raises(SystemExit):
            parse()
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_infer_takes_a_config_or_an_exported_model():
    assert build_parser(["infer", "-c", "a.yml"]).parse_args(["infer", "-c", "a.yml"]).config == "a.yml"
    exported = ["infer", "--model_dir", "m", "--image_file", "a.jpg"]
    assert build_parser(exported).parse_args(exported).image_file == "a.jpg"


def test_python_m_prints_the_version():
    done = run("--version")
    assert done.stdout == f"ppdet-repro {ppdet_repro.__version__}\n"


def test_a_users_mistake_is_one_line_and_code_2(tmp_path):
    done = run("config", "-c", "absent.yml", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "absent.yml" in done.stderr
    unknown = run("train", "--absent")
    assert unknown.returncode == 2 and "usage: ppdet-repro train" in unknown.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["export", "-c", "a.yml", "--precision", "int8"], "--precision int8 is for --target lite"),
        (["export", "-c", "a.yml", "--verify_images", "photos"], "--verify_images needs --verify N"),
        (["quantize", "-c", "a.yml", "--slim_config", "b.yml", "--eval", "--target", "onnx"], "leave out either"),
        (["infer", "--model_dir=m", "--use_gpu"], "use --device=gpu"),
        (["infer", "--model_dir=m"], "give --image_file"),
        (["data", "show"], "no dataset given"),
        (["verify", "-c", "a.yml", "--model_dir", "absent"], "absent is not a folder that `ppdet-repro export` wrote"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(arguments, message):
    parsed = build_parser(arguments).parse_args(arguments)
    with pytest.raises(UserError, match=message):
        parsed.run(parsed)


@pytest.mark.parametrize(
    "line, expected",
    [("ppdet-repro po", "positives"), ("ppdet-repro infer --infer_d", "--infer_dir"),
     ("ppdet-repro infer --model_dir=m --save_c", "--save_csv")],
)  # fmt: skip
def test_the_shell_completes_commands_and_flags(tmp_path, line, expected):
    """What argcomplete's shell function does: a line in the environment, words on file descriptor 8."""
    out = tmp_path / "words"
    environ = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "IFS": "\n",
    }
    code = "import sys; sys.argv[0] = 'ppdet-repro'; from ppdet_repro.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, timeout=60)
    assert out.read_text().split() == [expected]


@pytest.mark.parametrize("given, level", [({}, "1"), ({"GLOG_minloglevel": "0"}, "0")])
def test_paddles_cpp_code_logs_warnings_unless_the_user_wants_more(monkeypatch, given, level):
    monkeypatch.setattr(os, "environ", dict(given))
    quiet_paddle()
    assert dict(os.environ) == {"GLOG_minloglevel": level}
