"""Operators on which the installed Paddle's oneDNN fails are found by trying them out, once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ppdet_repro.paddle_private import onednn_check
from ppdet_repro.paddle_private.onednn_check import SUSPECTS, onednn_failure, run_child, works
from ppdet_repro.runtime.paddle_network import without_failing_onednn
from ppdet_repro.runtime.paddle_options import PaddleOptions
from ppdet_repro.utils.errors import UserError

PIR, PROTOBUF = Path("m/model.json"), Path("m/model.pdmodel")
NECK = ["conv2d", "nearest_interp", "conv2d"]
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
FAIL = f"import sys; sys.exit({onednn_check.FAILED})"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, on disk and in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    works.cache_clear()
    yield tmp_path / "ppdet_repro" / "onednn"
    works.cache_clear()


@pytest.fixture
def children(monkeypatch):
    """The code that child processes ran; replace `code` to let them run something else."""

    class Children:
        code = "pass"
        ran = 0

    def run(code):
        Children.ran += 1
        return run_child(Children.code)

    monkeypatch.setattr(onednn_check, "run_child", run)
    return Children


@pytest.mark.parametrize("name", SUSPECTS)
def test_the_installed_paddle_is_tried_out(name, cache):
    """A real child process. Whatever it finds, the answer is clear and kept."""
    assert works(name) in (True, False)
    (record,) = cache.iterdir()
    assert record.read_text() == ("works" if works(name) else "fails")


@pytest.mark.parametrize("code", [CRASH, FAIL])
def test_a_program_that_fails_is_named_and_remembered(code, children):
    children.code = code
    assert onednn_failure(PIR, NECK).endswith("fails on nearest_interp")
    assert onednn_failure(PIR, NECK) is not None and children.ran == 1  # the answer is in memory
    works.cache_clear()
    assert onednn_failure(PIR, NECK) is not None and children.ran == 1  # and on disk
    assert onednn_failure(PIR, [*NECK, "leaky_relu"]).endswith("fails on nearest_interp and leaky_relu")


def test_a_program_that_runs_is_remembered(children):
    assert onednn_failure(PIR, NECK) is None
    works.cache_clear()
    assert onednn_failure(PIR, NECK) is None and children.ran == 1


@pytest.mark.parametrize("program, operators", [(PROTOBUF, NECK), (PIR, ["conv2d", "relu"])])
def test_nothing_is_tried_out_for_programs_of_paddle_2_and_without_suspects(program, operators, children):
    assert onednn_failure(program, operators) is None and children.ran == 0


@pytest.mark.parametrize("code", ["import sys; sys.exit(1)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_that_never_got_to_its_program_decides_nothing_for_later(code, children, cache):
    children.code = code
    assert not works("leaky_relu")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(children, cache):
    cache.parent.write_text("a file where the folder would be")
    assert works("leaky_relu") and children.ran == 1


def test_another_processor_or_paddle_is_tried_out_again(monkeypatch):
    first = onednn_check.installation()
    assert first == onednn_check.installation() and onednn_check.PADDLE in first
    monkeypatch.setattr(Path, "read_text", lambda self, **options: "flags : avx9000")
    assert onednn_check.installation() != first


def test_a_child_finds_the_package_and_reports_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_child("import ppdet_repro; raise SystemExit(3)") == 3
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert run_child("pass") is None


def test_the_network_runs_without_onednn_and_a_line_says_so(children, logged):
    children.code = FAIL
    options = PaddleOptions(cpu_threads=2)
    assert without_failing_onednn(PIR, options, NECK) == options._replace(enable_mkldnn=False)
    (line,) = logged.messages
    assert "fails on nearest_interp; the network runs without it, slower" in line and line.startswith(
        "oneDNN of Paddle"
    )
    with pytest.raises(UserError, match="--enable_mkldnn_bfloat16 needs oneDNN, but oneDNN of Paddle"):
        without_failing_onednn(PIR, options._replace(enable_mkldnn_bfloat16=True), NECK)


def test_with_an_untested_paddle_a_line_says_where_onednn_fails_even_if_the_network_is_not_affected(
    children, logged, monkeypatch
):
    children.code, options = FAIL, PaddleOptions()
    monkeypatch.setattr(onednn_check, "TESTED", True)
    assert without_failing_onednn(PIR, options, ["conv2d"]) == options and not logged.messages and children.ran == 0
    monkeypatch.setattr(onednn_check, "TESTED", False)
    assert without_failing_onednn(PROTOBUF, options, ["conv2d"]) == options and children.ran == 0
    assert without_failing_onednn(PIR, options, ["conv2d"]) == options
    (line,) = logged.messages
    assert "leaky_relu, which this network does not have; it runs with oneDNN" in line


@pytest.mark.parametrize("fields", [{"enable_mkldnn": False}, {"device": "gpu"}])
def test_without_onednn_nothing_is_tried_out(fields, children):
    options = PaddleOptions(**fields)
    assert without_failing_onednn(PIR, options, NECK) == options and children.ran == 0
