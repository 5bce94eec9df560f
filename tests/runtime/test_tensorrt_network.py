"""--engine=tensorrt: engines are built for real where TensorRT-RTX is installed, and run with replacements of CUDA and
TensorRT's runtime (see `fake_nvidia`), because no GPU is at hand."""

from __future__ import annotations

import gc
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_nvidia import FakeCuda, FakeTensorRt

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.runtime.cuda import CHUNK, Buffer, Cuda
from ppdet_repro.runtime.engines import open_network, open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.precision import low_precision
from ppdet_repro.runtime.tensorrt_build import Sizes, build_engine, engine_file, open_library, usual_sizes
from ppdet_repro.utils.errors import UserError

RTX = importlib.util.find_spec("tensorrt_rtx") is not None
PREPROCESS = [{"type": "Resize", "target_size": [800, 1333]}, {"type": "PadStride", "stride": 32}]


@pytest.fixture(scope="module")
def exported_onnx(tiny, model):
    return export_model(model, load_config(tiny / "tiny.yml"), tiny / "export", target="onnx")


@pytest.fixture
def nvidia(monkeypatch, tmp_path):
    """A machine with a GPU, CUDA and TensorRT, all made up, and an empty cache."""
    made = SimpleNamespace(cuda=FakeCuda(), tensorrt=FakeTensorRt())
    packages = {name: ModuleType(name) for name in ("cuda", "cuda.bindings")}
    packages["cuda.bindings"].runtime = made.cuda
    for name, module in {**packages, "tensorrt": made.tensorrt}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def flags_for(folder, *more):
    return build_parser().parse_args([f"--model_dir={folder}", "--engine=tensorrt", *more])


def opened(folder, *more):
    return open_network(open_model_folder(folder, engine="tensorrt"), flags_for(folder, *more))


def inputs_of(batch, height, width, seed=0):
    return {
        "image": np.random.default_rng(seed).normal(size=[batch, 3, height, width]).astype(np.float32),
        "im_shape": np.full([batch, 2], (height, width), np.float32),
        "scale_factor": np.ones([batch, 2], np.float32),
    }


# Sizes and the cache ----------------------------------------------------------------------------------------


def test_the_usual_size_is_the_resized_one_and_the_largest_has_room_for_it():
    # 1333 is padded to 42 x 32 = 1344, above the flags' 1280, and is the largest side of either orientation
    sizes = usual_sizes(PREPROCESS, 8, (1, 640, 1280))
    assert sizes == Sizes((1, 8, 8), (32, 800, 1344), (32, 1344, 1344))
    assert sizes.shapes([-1, 3, -1, -1]) == [(1, 3, 32, 32), (8, 3, 800, 1344), (8, 3, 1344, 1344)]
    assert sizes.shapes([-1, 2]) == [(1, 2), (8, 2), (8, 2)]
    assert sizes.shapes([1, 3, 64, 96]) == [(1, 3, 64, 96)] * 3


def test_without_resizing_the_flags_count():
    assert usual_sizes([], 1, (100, 320, 500)) == Sizes((1, 1, 1), (96, 320, 512), (96, 320, 512))
    small = [{"type": "Resize", "target_size": [40, 40]}, {"type": "PadStride", "stride": 128}]
    assert usual_sizes(small, 1, (320, 640, 1280)) == Sizes((1, 1, 1), (128, 128, 1280), (128, 128, 1280))


def test_an_engine_has_a_file_for_all_that_it_depends_on(nvidia, tmp_path):
    onnx, library, sizes = tmp_path / "a.onnx", open_library(), usual_sizes(PREPROCESS, 1, (1, 640, 1280))
    onnx.write_bytes(b"a")
    first = engine_file("cache", onnx, library, sizes, "L4-8.9", tf32=False)
    assert first == engine_file("cache", onnx, library, sizes, "L4-8.9", tf32=False)
    assert first.name.startswith("TensorRT10.13.0_L4_8.9-")
    others = [
        engine_file("cache", onnx, library, sizes._replace(batch=(1, 2, 2)), "L4-8.9", tf32=False),
        engine_file("cache", onnx, library, sizes, "L40-8.9", tf32=False),
        engine_file("cache", onnx, library, sizes, "L4-8.9", tf32=True),
        engine_file("cache", onnx, library._replace(version="11"), sizes, "L4-8.9", tf32=False),
    ]
    onnx.write_bytes(b"b")
    others.append(engine_file("cache", onnx, library, sizes, "L4-8.9", tf32=False))
    assert len({first, *others}) == 6


# Running ----------------------------------------------------------------------------------------------------


def test_boxes_are_those_of_onnx_runtime_and_the_engine_is_built_once(nvidia, exported_onnx):
    network = opened(exported_onnx, "--batch_size=2")
    expected = open_network(
        open_model_folder(exported_onnx, engine="onnxruntime"), flags_for(exported_onnx, "--engine=onnxruntime")
    )
    for batch, height, width in ((1, 64, 96), (2, 128, 128), (1, 32, 32)):  # buffers grow, and shapes change
        inputs = inputs_of(batch, height, width)
        for ours, theirs in zip(network.run(inputs), expected.run(inputs)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert nvidia.tensorrt.built == 1 and nvidia.tensorrt.flags == set()  # without TF32
    opened(exported_onnx, "--batch_size=2")
    assert nvidia.tensorrt.built == 1
    opened(exported_onnx, "--batch_size=4")
    assert nvidia.tensorrt.built == 2


def test_more_images_than_the_engine_takes_are_run_in_parts(nvidia, exported_onnx):
    one, both = opened(exported_onnx), opened(exported_onnx, "--batch_size=3")
    inputs = inputs_of(3, 64, 64)
    for ours, theirs in zip(one.run(inputs), both.run(inputs)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_sizes_are_an_error_that_names_the_flags(nvidia, exported_onnx):
    network = opened(exported_onnx, "--trt_opt_shape=128", "--trt_max_shape=160")
    with pytest.raises(UserError, match=r"image from \[1, 3, 32, 32\] to \[1, 3, 160, 160\], not \[1, 3, 192, 64\]"):
        network.run(inputs_of(1, 192, 64))


def test_memory_is_given_back(nvidia, exported_onnx):
    network = opened(exported_onnx)
    network.run(inputs_of(1, 64, 64))
    assert nvidia.cuda.allocated
    del network
    gc.collect()
    assert not nvidia.cuda.allocated


def test_buffers_grow_but_do_not_shrink(nvidia):
    buffer = Buffer(Cuda())
    buffer.reserve([3], np.float32)[:] = [1, 2, 3]
    assert buffer.room == CHUNK and len(nvidia.cuda.allocated) == 2
    buffer.upload()
    buffer.array[:] = 0
    buffer.download()
    assert buffer.array.tolist() == [1, 2, 3]
    buffer.reserve([CHUNK + 1], np.uint8)
    assert buffer.room == 2 * CHUNK and len(nvidia.cuda.allocated) == 2
    buffer.reserve([0, 4], np.float16)
    assert buffer.room == 2 * CHUNK and buffer.array.shape == (0, 4)
    with pytest.raises(UserError, match="cudaMalloc.* fails: out of memory"):
        buffer.reserve([(1 << 30) + 1], np.uint8)


def test_infer_compares_with_the_cpu_and_finds_the_same(nvidia, exported_onnx, logged):
    model, flags = open_model_folder(exported_onnx, engine="tensorrt"), flags_for(exported_onnx)
    low = low_precision(model, flags)
    assert low is not None and (low.float32.engine, low.float32.device) == ("onnxruntime", "cpu")
    image = np.random.default_rng(0).integers(0, 255, [96, 128, 3], np.uint8)
    (found,) = open_pipeline(model, flags)([image])
    (expected,) = open_pipeline(model, flags_for(exported_onnx, "--engine=onnxruntime"))([image])
    again, total = found_again(expected.rows, found.rows)
    assert again == total > 0
    assert [record.levelname for record in logged.records] == ["INFO"]  # that it is built


# What is missing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "without, message",
    [
        (["tensorrt", "tensorrt_rtx"], r"TensorRT is not installed; install it with: pip install"),
        (["cuda", "cuda.bindings"], r"cuda-bindings is not installed; install it with: pip install"),
    ],
)
def test_a_missing_package_is_named(nvidia, exported_onnx, monkeypatch, without, message):
    for name in without:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=message) as caught:
        opened(exported_onnx)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gpus, message", [(0, "CUDA finds none"), (None, "driver: .* driver is too old")])
def test_a_missing_gpu_is_one_line(nvidia, exported_onnx, gpus, message):
    nvidia.cuda.gpus = gpus
    with pytest.raises(UserError, match=f"--engine=tensorrt needs an NVIDIA GPU.*{message}"):
        opened(exported_onnx)


def test_an_old_tensorrt_is_refused(nvidia, exported_onnx):
    nvidia.tensorrt.__version__ = "8.6.1"
    with pytest.raises(UserError, match=r"TensorRT 8.6.1 is too old .* install tensorrt>=10"):
        opened(exported_onnx)


def test_what_tensorrt_cannot_read_is_one_line(nvidia, exported_onnx):
    nvidia.tensorrt.failure = "No importer registered for op: Foo\nmore"
    with pytest.raises(UserError, match=r"TensorRT 10.13.0 cannot read .*model.onnx: No importer registered for op"):
        opened(exported_onnx)


def test_the_precision_is_that_of_the_file(nvidia, exported_onnx):
    with pytest.raises(UserError, match="--run_mode=trt_fp16 is for --engine=paddle; .*--precision fp16"):
        opened(exported_onnx, "--run_mode=trt_fp16")


def test_a_cache_that_cannot_be_written_is_one_line(nvidia, exported_onnx, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot keep the engine there: .*; --trt_cache_dir names a folder"):
        opened(exported_onnx, f"--trt_cache_dir={tmp_path / 'file'}")


# Building for real ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not RTX, reason="tensorrt-rtx-cu13 is not installed")
def test_tensorrt_rtx_builds_engines_on_the_cpu(exported_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    library = open_library()
    assert library.for_rtx
    sizes = usual_sizes(open_model_folder(exported_onnx, engine="tensorrt").preprocess, 2, (1, 128, 160))
    assert len(build_engine(library, exported_onnx / "model.onnx", sizes, capabilities=["SM86"])) > 10_000


@pytest.mark.skipif(not RTX, reason="tensorrt-rtx-cu13 is not installed")
def test_tensorrt_rtx_says_what_is_wrong_with_a_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"TensorRT-RTX [0-9.]+ cannot read .*model.onnx: .+"):
        build_engine(open_library(), tmp_path / "model.onnx", usual_sizes([], 1, (32, 64, 64)), capabilities=["SM86"])
