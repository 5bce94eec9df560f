"""A model that no manifest vouches for is loaded the first time in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
from paths import FIXTURES

from ppdet_repro.runtime import engines, trial
from ppdet_repro.runtime.manifest import MANIFEST
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.trial import WORKS, allowed_memory, judge, record_file, settings_of, try_out
from ppdet_repro.utils.errors import UserError

OLD = FIXTURES / "version_0_1_0" / "exported"  # has no manifest
FLAGS = Namespace(engine="paddle")
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ppdet_repro" / "loaded"


@pytest.fixture
def folder(tmp_path):
    """A copy of an export without a manifest."""
    return shutil.copytree(OLD, tmp_path / "model")


@pytest.fixture
def children(monkeypatch):
    """The calls of `run_child`, which returns `children.result` and starts nothing."""

    class Children(list):
        result = (0, "VERDICT null\n")

    found = Children()

    def pretend(arguments):
        found.append(arguments)
        return found.result

    monkeypatch.setattr(trial, "run_child", pretend)
    return found


# In real processes ------------------------------------------------------------------------------------------------


def test_a_model_that_works_is_tried_out_once(folder, cache, monkeypatch):
    model = open_model_folder(folder)
    try_out(model, FLAGS)
    (record,) = cache.iterdir()
    assert record.read_bytes() == WORKS
    monkeypatch.setattr(trial, "run_child", lambda arguments: pytest.fail("it was tried again"))
    try_out(model, FLAGS)


def test_parameters_that_are_cut_off_are_one_line(folder, cache):
    path = folder / "model.pdiparams"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=f"Paddle cannot load {folder}: .*; export it again") as caught:
        try_out(open_model_folder(folder), FLAGS)
    assert "\n" not in str(caught.value) and not cache.exists()


def test_a_crash_is_one_line_and_exit_code_2(folder, monkeypatch):
    """As a user sees it, with an engine that crashes."""
    monkeypatch.setattr(trial, "CHILD", CRASH)
    with pytest.raises(UserError) as caught:
        try_out(open_model_folder(folder), FLAGS)
    expected = f"Paddle on {folder}/model.pdmodel, tried out in a process of its own, crashed (SIGSEGV), most likely"
    assert str(caught.value) == f"{expected} because the model is damaged; copy or export the model again"


def test_a_file_that_aborts_paddle_lite_is_one_line(tmp_path):
    pytest.importorskip("paddlelite")
    (tmp_path / "model_x86.nb").write_bytes(b"not a model")
    shutil.copy(OLD / "infer_cfg.yml", tmp_path)
    model = open_model_folder(tmp_path, engine="lite")
    with pytest.raises(UserError, match=r"Paddle-Lite on .*model_x86.nb, tried out .* (crashed \(SIG|ended early)"):
        try_out(model, Namespace(engine="lite"))


def test_a_process_that_hangs_is_ended(folder, monkeypatch):
    monkeypatch.setattr(trial, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(trial, "SECONDS", 0.5)
    with pytest.raises(UserError, match=r"took more than 0.5 seconds; copy or export the model again"):
        try_out(open_model_folder(folder), FLAGS)


def test_the_child_has_limited_memory(folder, monkeypatch):
    code = """
        import sys
        from ppdet_repro.runtime import trial
        trial.error_of = lambda model, flags: f"took {len(bytes(int(sys.argv.pop())))}"
        trial.child(*sys.argv[1:4])
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    (folder / "model.onnx").write_bytes(b"x")
    allowed = allowed_memory(open_model_folder(folder, engine="onnxruntime"))
    environment = {**os.environ, "PYTHONPATH": str(trial.PACKAGE_ROOT)}
    for size, fits in ((allowed // 2, True), (allowed + (64 << 20), False)):
        command = [sys.executable, "-c", code, str(folder), "", '{"engine": "onnxruntime"}', str(size)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (f'VERDICT "took {size}"' in done.stdout) == fits
        assert ("MemoryError" in done.stderr) != fits


# What decides --------------------------------------------------------------------------------------------------


def test_the_manifest_decides_whether_a_model_is_tried_out(exported, tmp_path, children, monkeypatch):
    monkeypatch.setattr(engines, "OnnxNetwork", lambda *arguments: None)
    flags = Namespace(engine="onnxruntime", cpu_threads=1)
    known = open_model_folder(shutil.copytree(exported, tmp_path / "copy"))
    engines.open_network(known, flags)
    assert len(children) == 0
    (tmp_path / "copy" / MANIFEST).unlink()
    engines.open_network(open_model_folder(tmp_path / "copy"), flags)
    assert len(children) == 1


@pytest.mark.parametrize("change", ["model.pdmodel", "model.pdiparams", "infer_cfg.yml", "engine", "flag", "version"])
def test_everything_that_matters_is_tried_out_again(change, folder, children, monkeypatch):
    def record(flags=FLAGS):
        return record_file(open_model_folder(folder), settings_of(flags))

    first, flags = record(), FLAGS
    assert first == record()
    if change == "engine":
        flags = Namespace(engine="onnxruntime")
    elif change == "flag":
        flags = Namespace(engine="paddle", enable_mkldnn=False)
    elif change == "version":
        monkeypatch.setattr(trial, "versions", lambda packages: {"paddlepaddle": "9.9"})
    else:
        with open(folder / change, "ab") as file:
            file.write(b"\n")
    assert record(flags) != first


def test_the_device_and_the_threads_do_not_matter():
    gpu = Namespace(engine="paddle", device="gpu", run_mode="trt_fp16", cpu_threads=8, enable_mkldnn=False)
    assert settings_of(gpu) == settings_of(Namespace(engine="paddle"))


@pytest.mark.parametrize("broken", ["a file in its place", "another content", "no home"])
def test_the_cache_is_never_a_reason_to_fail(broken, folder, cache, children, monkeypatch):
    model = open_model_folder(folder)
    if broken == "a file in its place":
        cache.parent.parent.write_text("a file where the folder would be")
    elif broken == "another content":
        record = record_file(model, settings_of(FLAGS))
        record.parent.mkdir(parents=True)
        record.write_text("x")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr("pathlib.Path.home", raise_no_home)
    try_out(model, FLAGS)
    assert len(children) == 1
    try_out(model, FLAGS)
    assert len(children) == (1 if broken == "another content" else 2)


def raise_no_home():
    raise RuntimeError("Could not determine home directory.")


# What the child's end means ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, output, message",
    [
        (-11, "", r"X crashed \(SIGSEGV\), most likely because the model is damaged"),
        (-6, "VERDICT null\n", r"X crashed \(SIGABRT\)"),  # when it ended
        (-9, "", r"X crashed \(SIGKILL\), most likely because the machine has too little memory"),
        (1, "Traceback", "X ended early with exit code 1, most likely"),
        (1, "VERDICT null\n", "X ended early with exit code 1"),
        (0, "", "X ended early with exit code 0"),  # a library called exit
        (0, 'noise\nVERDICT "the reason"\nnoise', "^the reason$"),
    ],
)
def test_every_other_end_of_the_child_is_an_error(code, output, message):
    with pytest.raises(UserError, match=message):
        judge(code, output, "X")
    judge(0, "noise\nVERDICT null\nnoise\n", "X")


def test_models_may_take_memory_by_the_size_of_their_files_and_input(folder):
    model = open_model_folder(folder)
    files = sum((folder / name).stat().st_size for name in ("model.pdmodel", "model.pdiparams"))
    assert model.preprocess[0]["target_size"] == [128, 128]
    assert allowed_memory(model) == (400 << 20) + 8 * files + 2048 * 128 * 128
    huge = model._replace(preprocess=[{"type": "Resize", "target_size": [16384, 16384]}])
    assert allowed_memory(huge) == 4 << 30
    assert np.isfinite(allowed_memory(model._replace(preprocess=[])))
