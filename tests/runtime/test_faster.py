"""`infer --run_benchmark` names the faster of Paddle Inference and ONNX Runtime, if both exports are there."""

from __future__ import annotations

import time

import pytest

from ppdet_repro.runtime import faster as module
from ppdet_repro.runtime.faster import faster_engine, other_flags
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.utils.errors import UserError


@pytest.fixture
def folders(tmp_path):
    for name, file in (("a", "model.pdmodel"), ("a_onnx", "model.onnx"), ("alone", "model.pdmodel")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    return tmp_path


def given(*flags):
    return build_parser().parse_args([f"--model_dir={flags[0]}", *flags[1:]])


class Takes:
    def __init__(self, seconds):
        self.seconds, self.runs = seconds, 0

    def run(self, inputs):
        self.runs += 1
        time.sleep(self.seconds)


def test_the_export_beside_the_model_is_the_other(folders):
    other = other_flags(given(folders / "a"))
    assert (other.engine, other.model_dir) == ("onnxruntime", str(folders / "a_onnx"))
    other = other_flags(given(folders / "a_onnx", "--engine=onnxruntime"))
    assert (other.engine, other.model_dir) == ("paddle", str(folders / "a"))


@pytest.mark.parametrize(
    "flags",
    [["alone"], ["a", "--device=gpu"], ["a", "--enable_mkldnn_bfloat16"], ["a", "--run_mode=trt_fp16"],
     ["a_onnx", "--engine=openvino"], ["a", "--use_fd_format"]],
)  # fmt: skip
def test_other_flags_have_no_other_engine(flags, folders):
    assert other_flags(given(folders / flags[0], *flags[1:])) is None


@pytest.mark.parametrize("seconds, lines", [(0.001, 1), (0.01, 0)])
def test_the_faster_engine_is_one_line(seconds, lines, folders, logged, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 5)
    ours, theirs = Takes(0.01), Takes(seconds)
    faster_engine(ours, given(folders / "a"), {}, lambda folder, flags: theirs)
    assert ours.runs == theirs.runs == module.WARM_UPS + 5
    found = [record.getMessage() for record in logged.records]
    assert len(found) == lines
    if lines:
        assert found[0].startswith(f"faster on this machine: --model_dir={folders / 'a_onnx'} --engine=onnxruntime (")


def test_an_engine_that_is_not_installed_is_one_line(folders, logged):
    def fails(folder, flags):
        raise UserError("onnxruntime is not installed")

    ours = Takes(0)
    faster_engine(ours, given(folders / "a"), {}, fails)
    assert "a_onnx cannot be compared: onnxruntime is not installed" in logged.text and ours.runs == 0
