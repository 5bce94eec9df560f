"""What ONNX Runtime runs on with --device=gpu, tested with a made-up ONNX Runtime: no GPU was at hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.networks import OnnxNetwork
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.precision import low_precision

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Opens a network where ONNX Runtime has some providers, of which some raise and some are left out silently."""

    def make(available, raising=(), silent=(), device="gpu"):
        asked = []

        class Session:
            def __init__(self, path, options, providers, disabled_optimizers):
                asked.append(providers)
                if providers[0] in raising:
                    raise RuntimeError(f"{providers[0]} has no library\nsecond line")
                self.providers = [name for name in providers if name not in silent]

            def get_providers(self):
                return self.providers

            def get_inputs(self):
                return []

        fake = SimpleNamespace(
            SessionOptions=SimpleNamespace, InferenceSession=Session, get_available_providers=lambda: available
        )
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        (tmp_path / "model.onnx").write_bytes(b"")
        opened = OnnxNetwork(tmp_path / "model.onnx", device=device)
        return opened.session.get_providers(), asked

    return make


def test_tensorrt_is_first_and_the_others_are_behind_it(network, logged):
    assert network([TENSORRT, CUDA, CPU])[0] == [TENSORRT, CUDA, CPU]
    assert not logged.records


def test_cuda_follows_if_tensorrt_fails_and_one_line_says_why(network, logged):
    providers, asked = network([TENSORRT, CUDA, CPU], raising=[TENSORRT])
    assert providers == [CUDA, CPU] and asked == [[TENSORRT, CUDA, CPU], [CUDA, CPU]]
    messages = [record.getMessage() for record in logged.records]
    assert messages == [f"ONNX Runtime cannot use TensorRT: {TENSORRT} has no library; CUDA is next"]


def test_a_provider_that_is_left_out_silently_counts_as_failed(network, logged):
    providers, _ = network([TENSORRT, CUDA, CPU], silent=[TENSORRT, CUDA])
    assert providers == [CPU]
    assert [record.getMessage() for record in logged.records] == [
        "ONNX Runtime cannot use TensorRT: its libraries, or a GPU, are missing; CUDA is next",
        "ONNX Runtime cannot use CUDA: its libraries, or a GPU, are missing; the CPU is next",
    ]


def test_an_onnx_runtime_for_cpus_says_which_package_has_a_gpu(network, logged):
    providers, asked = network([CPU])
    assert providers == [CPU] and asked == [[CPU]]
    assert [record.getMessage() for record in logged.records] == [
        f"ONNX Runtime cannot use {name}: the installed onnxruntime does not have it; onnxruntime-gpu does; {following}"
        for name, following in (("TensorRT", "CUDA is next"), ("CUDA", "the CPU is next"))
    ]


def test_without_the_flag_it_is_the_cpu(network, logged):
    assert network([TENSORRT, CUDA, CPU], device="cpu") == ([CPU], [[CPU]])
    assert not logged.records


def test_the_gpu_is_compared_with_the_cpu(exported):
    flags = build_parser().parse_args([f"--model_dir={exported}", "--engine=onnxruntime", "--device=GPU"])
    low = low_precision(open_model_folder(exported), flags)
    assert low is not None and low.float32.device == "cpu" and low.float32.engine == "onnxruntime"
