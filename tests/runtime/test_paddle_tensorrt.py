"""TensorRT: precision, shape ranges, converted programs and the cache.

TensorRT needs a GPU, and none was there. The calls of Paddle's settings and of `paddle.tensorrt` are recorded; these
tests build no engine.
"""

from __future__ import annotations

import enum
import json
import threading
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pytest
from paddle import inference
from paths import FIXTURES

from ppdet_repro.runtime import paddle_tensorrt as tensorrt
from ppdet_repro.runtime import paddle_tensorrt_convert as conversion
from ppdet_repro.runtime.model_folder import ModelFolder, open_model_folder
from ppdet_repro.runtime.paddle_options import PaddleOptions
from ppdet_repro.utils.errors import UserError

INPUTS = {
    "image": np.random.default_rng(0).uniform(-2, 2, [1, 3, 128, 128]).astype(np.float32),
    "im_shape": np.array([[128, 128]], np.float32),
    "scale_factor": np.ones([1, 2], np.float32),
}


class Recorder:
    """Replaces paddle.inference.Config and records the calls of its methods."""

    def __init__(self, *files):
        self.calls = {}

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.__setitem__(name, options or args)


# Programs of Paddle 2 ---------------------------------------------------------------------------------------


def plain_model(folder, dynamic_shape=True):
    """Files that nothing reads."""
    files = [folder / name for name in ("model.pdmodel", "model.pdiparams")]
    for file in files:
        file.write_bytes(file.name.encode())
    return ModelFolder(files[0], folder / "infer_cfg.yml", "YOLOF", [], [], dynamic_shape, 40, 0.5)


def tensorrt_calls(folder, dynamic_shape=True, shapes=None, **options):
    recorder = Recorder()
    model = plain_model(folder, dynamic_shape)
    tensorrt.configure_tensorrt(recorder, PaddleOptions(**options), model, folder / "cache", shapes)
    return recorder.calls


@pytest.mark.parametrize("mode, precision", [("trt_fp32", "Float32"), ("trt_fp16", "Half"), ("trt_int8", "Int8")])
def test_tensorrt_takes_precision_batch_and_shape_range(mode, precision, tmp_path):
    options = {"device": "gpu", "run_mode": mode, "batch_size": 2, "trt_calib_mode": True}
    calls = tensorrt_calls(tmp_path, **options)
    engine = calls["enable_tensorrt_engine"]
    assert engine["precision_mode"] == getattr(inference.PrecisionType, precision)
    assert (engine["max_batch_size"], engine["min_subgraph_size"], engine["use_calib_mode"]) == (2, 40, True)
    assert engine["use_static"] is True and calls["set_optim_cache_dir"] == (str(tmp_path / "cache"),)
    shapes = [shape["image"] for shape in calls["set_trt_dynamic_shape_info"]]
    assert shapes == [[2, 3, 1, 1], [2, 3, 1280, 1280], [2, 3, 640, 640]]  # shortest, longest, usual
    assert "set_trt_dynamic_shape_info" not in tensorrt_calls(tmp_path, dynamic_shape=False, **options)


def test_collected_shape_ranges_come_before_those_of_the_flags(tmp_path):
    file = tmp_path / "shapes.pbtxt"
    file.write_text("")
    calls = tensorrt_calls(tmp_path, shapes=file, device="gpu", run_mode="trt_fp16")
    assert calls["enable_tuned_tensorrt_dynamic_shape"] == (str(file), True)
    assert "set_trt_dynamic_shape_info" not in calls


def test_the_users_file_of_shape_ranges_comes_before_the_caches(tmp_path):
    model, cache, own = plain_model(tmp_path), tmp_path / "cache", tmp_path / "own.pbtxt"
    assert tensorrt.shape_file(str(own), cache, model) == cache / "shape_ranges.pbtxt"
    own.write_text("")
    assert tensorrt.shape_file(str(own), cache, model) == own
    assert tensorrt.shape_file("absent", cache, plain_model(tmp_path, dynamic_shape=False)) is None


def test_an_engine_is_kept_for_one_content_version_precision_and_batch(tmp_path, monkeypatch):
    model = plain_model(tmp_path)
    first = tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1)
    assert first == tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1)
    others = [
        tensorrt.cache_folder(str(tmp_path), model, mode, batch) for mode, batch in [("trt_fp32", 1), ("trt_fp16", 2)]
    ]
    monkeypatch.setattr(inference, "get_trt_compile_version", lambda: (8, 6, 1))
    others.append(tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1))
    assert "tensorrt8.6.1-fp16-batch1" in others[-1].name
    (model.folder / "model.pdiparams").write_bytes(b"other weights")
    others.append(tensorrt.cache_folder(str(tmp_path), model, "trt_fp16", 1))
    assert len({first, *others}) == 5


def test_operators_that_tensorrt_leaves_out_are_named():
    operators = ["conv2d", "deformable_conv", "deformable_conv", "matrix_nms"]
    sentence = tensorrt.describe_left_out(operators)
    assert "2 deformable_conv (DCN" in sentence and "1 matrix_nms" in sentence and "\n" not in sentence
    assert tensorrt.describe_left_out(["conv2d"]) is None


def test_missing_shape_ranges_are_collected_by_a_real_run_without_tensorrt(tmp_path, monkeypatch):
    """On the CPU: the run that collects is real, TensorRT itself is recorded."""
    model = open_model_folder(FIXTURES / "version_0_1_0" / "exported")._replace(dynamic_shape=True)
    monkeypatch.setattr(tensorrt, "check_options", lambda options, build: None)
    network = tensorrt.TensorRtNetwork(model, PaddleOptions(run_mode="trt_fp16", trt_cache_dir=str(tmp_path)))
    created = []
    real = tensorrt.create_predictor

    def create(config, folder):
        created.append(config)
        return real(config, folder)

    recorded = {}
    monkeypatch.setattr(tensorrt, "create_predictor", create)
    monkeypatch.setattr(
        tensorrt, "configure_tensorrt", lambda config, options, model, cache, shapes: recorded.update(shapes=shapes)
    )
    bbox, _ = network.run(INPUTS)
    assert len(bbox) and len(created) == 2  # one that collects, one that would have TensorRT
    text = recorded["shapes"].read_text()
    assert 'name: "image"' in text and "max_shape: 128" in text
    assert recorded["shapes"].parent.name.endswith("fp16-batch1")
    network.run(INPUTS)
    assert len(created) == 2  # each is created once


# Programs of Paddle 3 ---------------------------------------------------------------------------------------


def data(name, shape):
    """An input of a .json program, as Paddle 3.2.2 writes it, without its results."""
    kinds = {"name": ("0.a_str", name), "shape": ("1.a_intarray", shape), "dtype": ("1.a_dtype", "float32")}
    return {"#": "1.data", "A": [{"AT": {"#": kind, "D": value}, "N": key} for key, (kind, value) in kinds.items()]}


def pir_model(folder, shape=(-1, 3, -1, -1), operators=("1.conv2d", "1.multiclass_nms3")):
    """A .json program with two inputs."""
    folder.mkdir(exist_ok=True)
    inputs = [data("image", list(shape)), data("scale_factor", [shape[0], 2])]
    block = {"ops": [{"#": "p", "A": [0, 1, 1, "w"]}, *inputs, *({"#": name} for name in operators)]}
    program = {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [block]}]}}
    (folder / "model.json").write_text(json.dumps(program))
    (folder / "model.pdiparams").write_bytes(b"weights")
    return ModelFolder(folder / "model.json", folder / "infer_cfg.yml", "YOLOF", [], [], shape[2] == -1, 40, 0.5)


class Input(NamedTuple):
    """Has the parameters of `paddle.tensorrt.Input` in Paddle 3.2."""

    warmup_data: Optional[Tuple[np.ndarray, ...]] = None
    min_input_shape: Optional[tuple] = None
    max_input_shape: Optional[tuple] = None
    optim_input_shape: Optional[tuple] = None
    input_data_type: Optional[str] = "float32"
    input_range: Optional[tuple] = None
    name: Optional[str] = None


class TensorRTConfig(NamedTuple):
    """Has the parameters of `paddle.tensorrt.TensorRTConfig` in Paddle 3.2."""

    inputs: List[Input]
    min_subgraph_size: int = 3
    save_model_dir: Optional[str] = None
    disable_ops: Optional[List[str]] = None
    precision_mode: Any = None
    ops_run_float: Optional[List[str]] = None
    optimization_level: int = 3
    disable_passes: Sequence[str] = ()
    workspace_size: int = 1 << 30
    refit_params_path: Optional[str] = None


class TensorRt:
    """Replaces the module `paddle.tensorrt`. Its conversions write what Paddle's write, or raise `error`."""

    PrecisionMode = enum.Enum("PrecisionMode", ["FP32", "FP16", "BF16", "INT8"])
    Input, TensorRTConfig = Input, TensorRTConfig

    def __init__(self, error=None):
        self.error, self.converted = error, []

    def convert(self, prefix, config):
        self.converted.append((prefix, config))
        if self.error is not None:
            raise self.error
        assert Path(f"{prefix}.json").is_file()
        engines = Path(config.save_model_dir)
        engines.mkdir()
        (engines / "engine_1_1.trt").write_bytes(b"")
        for suffix in (".json", ".pdiparams"):
            engines.with_suffix(suffix).write_text("converted")


@pytest.fixture
def paddle_tensorrt(monkeypatch):
    recorder = TensorRt()
    monkeypatch.setattr(conversion, "import_tensorrt", lambda: recorder)
    monkeypatch.setattr(conversion.device.cuda, "get_device_name", lambda: "NVIDIA RTX 5090 (test)")
    return recorder


def options_for(**fields):
    return PaddleOptions(device="gpu", run_mode="trt_fp16", **fields)


def convert(model, cache, options=None):
    return conversion.converted_program(model, options or options_for(), INPUTS, ["multiclass_nms3"], cache)


@pytest.mark.parametrize("mode, precision", [("trt_fp32", "FP32"), ("trt_fp16", "FP16"), ("trt_int8", "INT8")])
def test_a_program_of_paddle_3_is_converted_as_the_flags_say(mode, precision, paddle_tensorrt, tmp_path):
    model = pir_model(tmp_path / "m")
    options = options_for(batch_size=2)._replace(run_mode=mode)
    program = convert(model, tmp_path / "cache", options)
    ((prefix, config),) = paddle_tensorrt.converted
    assert prefix == str(tmp_path / "m" / "model")
    assert config.precision_mode.name == precision and config.min_subgraph_size == 40
    assert config.disable_ops == ["pd_op.multiclass_nms3"]
    assert config.workspace_size == 1 << 30
    assert Path(config.save_model_dir).is_absolute() and program == Path(config.save_model_dir + ".json")
    assert [item.name for item in config.inputs] == ["image", "scale_factor"]  # no others: the program has two
    image, scale = (item.warmup_data for item in config.inputs)
    assert [a.shape for a in image] == [(1, 3, 32, 32), (2, 3, 640, 640), (2, 3, 1280, 1280)]
    assert [a.shape for a in scale] == [(1, 2), (2, 2), (2, 2)]
    assert {a.dtype for a in (*image, *scale)} == {np.dtype("float32")}
    np.testing.assert_array_equal(image[0].ravel()[:3], INPUTS["image"].ravel()[:3])


def test_sides_are_widened_to_what_feature_pyramids_take():
    flags = {"trt_min_shape": 300, "trt_opt_shape": 300, "trt_max_shape": 1333}
    assert conversion.sizes(options_for(**flags)).side == (288, 320, 1344)
    assert conversion.sizes(options_for(trt_min_shape=1)).side[0] == 32


def test_a_fixed_size_stays_and_the_size_of_the_image_is_told():
    declared = {"image": [1, 3, 64, 96], "im_shape": [1, 2]}
    found = conversion.examples(declared, conversion.sizes(options_for(batch_size=4)), INPUTS)
    assert {a.shape for a in found["image"]} == {(1, 3, 64, 96)}
    assert all(a.tolist() == [[64, 96]] for a in found["im_shape"])


def test_a_program_is_converted_once_per_gpu_and_range_of_sizes(paddle_tensorrt, tmp_path, monkeypatch):
    model, cache = pir_model(tmp_path / "m"), tmp_path / "cache"
    first = convert(model, cache)
    assert convert(model, cache) == first and len(paddle_tensorrt.converted) == 1
    assert first.parent.parent.name == "batch1-1-1-side32-640-1280-NVIDIA_RTX_5090_test_"
    others = {convert(model, cache, options_for(**flags)) for flags in ({"batch_size": 2}, {"trt_max_shape": 640})}
    monkeypatch.setattr(conversion.device.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert len({first, *others, convert(model, cache)}) == 4
    assert len(paddle_tensorrt.converted) == 4


def test_a_moved_or_damaged_cache_is_not_used(paddle_tensorrt, tmp_path):
    """A program holds the absolute paths of its engines."""
    model = pir_model(tmp_path / "m")
    first = convert(model, tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    first.parent.mkdir(parents=True)
    first.write_text("left behind")
    second = convert(model, tmp_path / "moved")
    assert (tmp_path / "moved").resolve() in second.parents and len(paddle_tensorrt.converted) == 2
    second.unlink()
    assert convert(model, tmp_path / "moved").is_file() and len(paddle_tensorrt.converted) == 3


def test_processes_that_need_the_same_program_convert_it_once(paddle_tensorrt, tmp_path):
    pytest.importorskip("fcntl")
    model, programs = pir_model(tmp_path / "m"), []
    plain, started = paddle_tensorrt.convert, threading.Barrier(2)

    def slow(prefix, config):
        threading.Event().wait(0.2)
        plain(prefix, config)

    def run():
        started.wait()
        programs.append(convert(model, tmp_path / "cache"))

    paddle_tensorrt.convert = slow
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert programs[0] == programs[1] and len(paddle_tensorrt.converted) == 1


@pytest.mark.parametrize(
    "error, reason",
    [
        (NotImplementedError("Converter for pd_op.x not implemented."), "Converter for pd_op.x not implemented."),
        (OSError("libnvinfer_plugin.so: cannot open shared object file"), "libnvinfer_plugin.so: cannot open"),
        (AssertionError("Failed to build engine. please see ERROR log"), "Failed to build engine"),
    ],
)
def test_a_failed_conversion_is_an_error_of_one_line_and_leaves_nothing(error, reason, paddle_tensorrt, tmp_path):
    paddle_tensorrt.error = error
    with pytest.raises(UserError, match=f"^TensorRT cannot convert {tmp_path}/m: {reason}.*; run it with --run_mode"):
        convert(pir_model(tmp_path / "m"), tmp_path / "cache")
    (place,) = (tmp_path / "cache").iterdir()
    assert [path.name for path in place.iterdir()] == ["lock"]
    paddle_tensorrt.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        convert(pir_model(tmp_path / "m"), tmp_path / "cache")
    assert [path.name for path in place.iterdir()] == ["lock"]


def test_a_conversion_that_writes_nothing_and_a_cache_that_cannot_be_written_are_errors(paddle_tensorrt, tmp_path):
    paddle_tensorrt.convert = lambda prefix, config: None
    with pytest.raises(UserError, match="it wrote no program"):
        convert(pir_model(tmp_path / "m"), tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write TensorRT's engines to .*file/batch1"):
        convert(pir_model(tmp_path / "m"), tmp_path / "file")


@pytest.mark.parametrize(
    "missing, message",
    [
        ("paddle.tensorrt", "the installed Paddle has no paddle.tensorrt, .* install paddlepaddle-gpu, or leave"),
        ("tensorrt", "TensorRT's Python package cannot be imported .* pip install tensorrt==8.6.1$"),
    ],
)
def test_what_is_not_installed_is_an_error_of_one_line(missing, message, monkeypatch):
    def absent(name):
        assert name == "paddle.tensorrt"
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr(conversion.importlib, "import_module", absent)
    monkeypatch.setattr(inference, "get_trt_compile_version", lambda: (8, 6, 1))
    with pytest.raises(UserError, match=message):
        conversion.import_tensorrt()


def test_cpu_builds_of_paddle_have_no_paddle_tensorrt():
    """Real: the tests run on CPU builds."""
    with pytest.raises(UserError, match="the installed Paddle has no paddle.tensorrt"):
        conversion.import_tensorrt()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"collect_trt_shape_info": True}, "--collect_trt_shape_info has no meaning for a .json model"),
        ({"tuned_trt_shape_file": "own.pbtxt"}, "--tuned_trt_shape_file has no meaning .* --trt_min_shape"),
        ({"trt_calib_mode": True}, "--trt_calib_mode has no meaning for a .json model"),
        ({"run_mode": "trt_int8"}, "--run_mode=trt_int8: m is not a quantized model; ppdet-repro quantize"),
    ],
)
def test_flags_that_programs_of_paddle_3_do_not_know_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        conversion.check_flags(options_for()._replace(**fields), ["conv2d"], Path("m"))
    conversion.check_flags(options_for(), ["conv2d"], Path("m"))
    conversion.check_flags(options_for()._replace(run_mode="trt_int8"), ["quantize_linear"], Path("m"))


def test_inputs_that_the_engines_do_not_take_are_errors():
    options = options_for(batch_size=2, trt_max_shape=650)  # widened to 672
    conversion.check_size([2, 3, 672, 32], options)
    with pytest.raises(UserError, match="sides from 32 to 672 pixels, not 704 x 64; change --trt_min_shape or"):
        conversion.check_size([1, 3, 704, 64], options)
    with pytest.raises(UserError, match="up to 2 images at once, not 3; change --batch_size"):
        conversion.check_size([3, 3, 64, 64], options)


@pytest.fixture
def network(paddle_tensorrt, tmp_path, monkeypatch):
    """A network of a .json program whose predictor is recorded."""
    created = []

    def open_network(model, options):
        network = tensorrt.TensorRtNetwork(model, options._replace(trt_cache_dir=str(tmp_path / "cache")))
        network.created = created
        return network

    monkeypatch.setattr(tensorrt, "check_options", lambda options, build: None)
    monkeypatch.setattr(tensorrt, "read_operators", lambda path: ["conv2d", "multiclass_nms3"])
    monkeypatch.setattr(tensorrt, "make_config", lambda program, options, operators: program)
    monkeypatch.setattr(tensorrt, "create_predictor", lambda config, folder: created.append(config))
    monkeypatch.setattr(tensorrt, "run_predictor", lambda predictor, inputs: ["boxes"])
    return open_network


def test_the_converted_program_is_what_paddle_inference_loads(network, paddle_tensorrt, tmp_path):
    model = pir_model(tmp_path / "m")
    opened = network(model, options_for())
    assert not paddle_tensorrt.converted  # only with the first batch
    assert opened.run(INPUTS) == ["boxes"]
    ((_, config),) = paddle_tensorrt.converted
    assert opened.created == [Path(config.save_model_dir + ".json")]
    cache = tensorrt.cache_folder(str(tmp_path / "cache"), model, "trt_fp16", 1)
    assert cache in opened.created[0].parents and "fp16-batch1" in cache.name
    assert {"pd_op.deformable_conv", "pd_op.matrix_nms", "pd_op.multiclass_nms3"} == set(config.disable_ops)
    network(model, options_for()).run(INPUTS)
    assert len(paddle_tensorrt.converted) == 1


def test_a_network_refuses_flags_at_once_and_sizes_before_it_converts(network, paddle_tensorrt, tmp_path):
    model = pir_model(tmp_path / "m")
    with pytest.raises(UserError, match="--collect_trt_shape_info has no meaning"):
        network(model, options_for(collect_trt_shape_info=True))
    with pytest.raises(UserError, match="sides from 32 to 96 pixels, not 128 x 128"):
        network(model, options_for(trt_opt_shape=64, trt_max_shape=96)).run(INPUTS)
    assert not paddle_tensorrt.converted
