"""Exports of every detector for Paddle, ONNX and Paddle-Lite find the eager model's boxes; and errors."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import yaml
from paths import ROOT
from small_detectors import SIDE, SMALL, small_config, taught_model
from tiny_yolof import write_images

from ppdet_repro.cli import infer_exported
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.engine.export import verify as verify_module
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.infer_cfg import read_input
from ppdet_repro.engine.export.verify import TOLERANCES, Tolerance, choose_files, output_differences, stage_of, verify
from ppdet_repro.metrics.agreement import agreement
from ppdet_repro.paddle_private import targets
from ppdet_repro.paddle_private.targets import check_target
from ppdet_repro.runtime.manifest import MANIFEST, read_manifest
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.utils.errors import UserError

TARGETS = {"paddle": (), "onnx": ("paddle2onnx", "onnxruntime"), "lite": ("paddlelite",)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def taught(data):
    """Returns the config and the model of a small detector, which is trained once."""
    found = {}

    def get(name):
        if name not in found:
            cfg = small_config(name, data)
            found[name] = cfg, taught_model(cfg, SMALL[name].steps)
        return found[name]

    return get


@pytest.fixture(scope="module")
def exported(data, taught, tmp_path_factory):
    """Returns the folder of a small detector's export, which is written once. What changes it copies it before."""
    found = {}

    def get(name, target="paddle", *overrides):
        key = name, target, *overrides
        if key not in found:
            cfg = small_config(name, data, *overrides)
            found[key] = export_model(taught(name)[1], cfg, tmp_path_factory.mktemp("exported"), target)
        return found[key]

    return get


def need(target):
    """Skip a test where a package is missing, or Paddle-Lite cannot read the programs of the installed Paddle."""
    for package in TARGETS[target]:
        pytest.importorskip(package)
    try:
        check_target(target)
    except UserError as error:
        pytest.skip(str(error))


def checked(cfg, model, folder, target, precision="fp32", images=3):
    """The agreement of final boxes that `verify` finds; there must be boxes."""
    found = verify(model, folder, target, precision, read_input(cfg).eager, choose_files(cfg, images, None))
    assert found.final.rows > 0 and found.images == images
    return found.final


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("target", TARGETS)
def test_an_export_finds_the_eager_models_boxes(name, target, taught, exported):
    need(target)
    cfg, model = taught(name)
    folder = exported(name, target)
    found = checked(cfg, model, folder, target)
    tolerance = {"paddle": (1e-3, 1e-5)}.get(target, (0.05, 1e-4))
    assert found.unmatched == 0 and found.box <= tolerance[0] and found.score <= tolerance[1]
    files = {"paddle": ["model.pdiparams", network_file(folder, "paddle").name], "onnx": ["model.onnx"]}
    files["lite"] = ["model_arm.nb", "model_x86.nb"]
    names = [path.name for path in folder.iterdir() if path.suffix != ".info"]
    assert sorted(names) == sorted(["infer_cfg.yml", "manifest.json", *files[target]])


@pytest.mark.parametrize("precision", ["int16", "int8", "fp16"])
def test_other_precisions_of_paddle_lite_agree_within_their_tolerances(precision, taught, exported, tmp_path):
    need("lite")
    cfg, model = taught("pafnet_lite")
    folder = export_model(model, cfg, tmp_path, "lite", precision)
    checked(cfg, model, folder, "lite", precision)
    plain = exported("pafnet_lite", "lite")
    if precision != "fp16":
        for file in ("model_arm.nb", "model_x86.nb"):
            assert (folder / file).stat().st_size < 0.7 * (plain / file).stat().st_size


def test_folding_and_normalization_in_the_network_change_nothing(data, taught, tmp_path):
    need("onnx")
    _, model = taught("yolof")
    cfg = small_config("yolof", data, "TestReader.fuse_normalize=true", "export.fuse_conv_bn=true")
    folder = export_model(model, cfg, tmp_path, "onnx")
    content = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    assert "NormalizeImage" not in [step["type"] for step in content["Preprocess"]]
    assert checked(cfg, model, folder, "onnx").unmatched == 0


def test_any_size_in_onnx(data, taught, tmp_path):
    need("onnx")
    _, model = taught("yolof")
    wide = {"target_size": [96, 128], "keep_ratio": True}
    overrides = [f"TestReader.sample_transforms.1.Resize.{key}={json.dumps(value)}" for key, value in wide.items()]
    cfg = small_config("yolof", data, "TestReader.inputs_def.image_shape=[3,-1,-1]", *overrides)
    folder = export_model(model, cfg, tmp_path, "onnx")
    sizes = {from_list(read_input(cfg).steps)([file]).image.shape for file in choose_files(cfg, 6, None)}
    assert len(sizes) > 1
    assert checked(cfg, model, folder, "onnx", images=6).unmatched == 0


def test_raw_outputs_are_compared_relatively(data, taught, tmp_path):
    _, model = taught("yolof")
    cfg = small_config("yolof", data, "export.post_process=false")
    folder = export_model(model, cfg, tmp_path, "paddle", verify_on=choose_files(cfg, 1, None))
    found = verify(model, folder, "paddle", "fp32", read_input(cfg).eager, choose_files(cfg, 1, None))
    assert found.final is None and set(found.outputs) == {"0", "1", "2"} and max(found.outputs.values()) < 1e-4


def test_a_failed_verification_is_an_error_and_leaves_the_old_export(taught, tmp_path, monkeypatch):
    cfg, model = taught("yolof")
    (tmp_path / cfg.name).mkdir()
    (tmp_path / cfg.name / "old").write_text("old")
    monkeypatch.setitem(TOLERANCES, ("paddle", "fp32"), Tolerance(1e-12, 1e-12, 1e-12))
    with pytest.raises(UserError, match="does not agree with the eager model: .* nothing was exported") as caught:
        export_model(model, cfg, tmp_path, verify_on=choose_files(cfg, 2, None))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [cfg.name]
    assert [path.name for path in (tmp_path / cfg.name).iterdir()] == ["old"]


def test_a_wrong_raw_output_is_named():
    result = verify_module.Verified(1, {"0": 1e-6, "1": 0.5}, None)
    with pytest.raises(UserError, match="its output 1 differs by 0.5 of its largest value"):
        verify_module.check_tolerance(result, TOLERANCES["paddle", "fp32"], "paddle", "fp32")
    assert "output 1" in result.table() and "final boxes" not in result.table()


def test_outputs_are_distinguished_by_their_shapes_and_compared_as_sets():
    boxes, scores = np.arange(24.0).reshape(1, 6, 4), np.arange(12.0).reshape(1, 2, 6)
    assert stage_of([boxes, scores]) == "decoded"
    assert stage_of([np.zeros((3, 6)), np.array([3], np.int32)]) == "final"
    assert stage_of([boxes, boxes]) == "raw" and stage_of([scores]) == "raw"
    eager = {"decoded": [boxes, scores]}
    assert output_differences([boxes[:, ::-1], scores[:, :, ::-1]], eager) == {"boxes": 0.0, "scores": 0.0}
    assert output_differences([boxes, scores + 0.25], eager)["scores"] == 0.25
    (raw,) = output_differences([np.array([1.0, 2.0])], {"raw": [np.array([1.0, 4.0])]}).values()
    assert raw == 0.5  # 2 of 4


def test_too_few_images_are_an_error(taught):
    cfg, _ = taught("yolof")
    with pytest.raises(UserError, match="--verify 7: EvalDataset has 6 images"):
        choose_files(cfg, 7, None)


def test_sizes_that_a_target_does_not_support_are_an_error(data, taught, tmp_path, monkeypatch):
    _, model = taught("yolof")
    monkeypatch.setattr(targets, "SAVES_PIR", False)  # as with Paddle 2
    free = small_config("yolof", data, "TestReader.inputs_def.image_shape=[3,-1,-1]")
    with pytest.raises(UserError, match="Paddle-Lite needs a fixed size; give --input_size HEIGHT WIDTH"):
        export_model(model, free, tmp_path, "lite")
    keep = "TestReader.sample_transforms.1.Resize.keep_ratio=true"
    oblong = small_config("yolof", data, "TestReader.inputs_def.image_shape=[3,64,96]", keep)
    with pytest.raises(UserError, match="64 x 96 is fixed, but TestReader's Resize keeps the aspect ratio"):
        export_model(model, oblong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_that_keep_their_ratio_are_padded_to_a_fixed_square(data, taught, tmp_path):
    _, model = taught("yolof")
    cfg = small_config("yolof", data, "TestReader.sample_transforms.1.Resize.keep_ratio=true")
    steps = read_input(cfg).steps
    assert [step["type"] for step in steps] == ["Resize", "NormalizeImage", "Pad", "Permute"]
    inputs = from_list(steps)([np.full((100, 50, 3), 255, np.uint8)])
    assert inputs.image.shape == (1, 3, SIDE, SIDE) and inputs.im_shape.tolist() == [[64, 32]]
    assert (inputs.image[..., 32:] == 0).all() and (inputs.image[..., :32] > 1).all()
    folder = export_model(model, cfg, tmp_path)
    assert checked(cfg, model, folder, "paddle").unmatched == 0


# deploy/python/infer.py ------------------------------------------------------------------------------------


@pytest.fixture
def infer(data, tmp_path):
    """Runs the command of infer.py on the images and returns its result rows. OpenVINO runs in a process of its own,
    because Paddle 3.2 brings libraries of another OpenVINO."""

    def run(folder, *flags):
        out = tmp_path / "out"
        given = [f"--model_dir={folder}", f"--image_dir={data / 'images'}", f"--output_dir={out}"]
        given += ["--save_results", "--save_images=False", *flags]
        if "--engine=openvino" in flags:
            subprocess.run([sys.executable, ROOT / "deploy" / "python" / "infer.py", *given], check=True)
        else:
            infer_exported.run(build_parser().parse_args(given))
        return json.loads((out / "bbox.json").read_text())

    return run


def as_rows(found, image):
    rows = [(row["category_id"], row["score"], *row["bbox"]) for row in found if row["image_id"] == image]
    return np.array(rows).reshape(-1, 6)


@pytest.mark.parametrize("engine, target", [("onnxruntime", "onnx"), ("openvino", "onnx"), ("lite", "lite")])
def test_every_engine_gives_paddles_boxes(engine, target, exported, infer):
    need(target)
    if engine == "openvino" and not find_spec("openvino"):
        pytest.skip("openvino is not installed")
    expected = infer(exported("yolof"))
    found = infer(exported("yolof", target), f"--engine={engine}", "--batch_size=2", "--cpu_threads=2")
    assert len(expected) > 0
    for image in range(6):
        assert agreement(as_rows(expected, image), as_rows(found, image), 1e-4, 0.05).unmatched == 0


@pytest.mark.parametrize("engine, target", [("onnxruntime", "onnx"), ("lite", "lite")])
@pytest.mark.parametrize("name", ["yolof", "pafnet_lite"])
def test_images_without_any_detection_give_no_rows(name, engine, target, exported, infer, tmp_path):
    """No score reaches the threshold. With the suppression in the network, Paddle-Lite would abort."""
    need(target)
    folder = shutil.copytree(exported(name, target), tmp_path / "export")
    content = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    (threshold,) = {"score_threshold", "score_thresh"} & set(content["PostProcess"])
    content["PostProcess"][threshold] = 1.0
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(content))
    assert infer(folder, f"--engine={engine}") == []


def test_a_damaged_paddle_lite_model_is_an_error_of_one_line(exported, infer, tmp_path):
    need("lite")
    folder = shutil.copytree(exported("yolof", "lite"), tmp_path / "export")
    file = folder / "model_x86.nb"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="model_x86.nb is not what was exported: it has 1,000 bytes"):
        infer(folder, "--engine=lite")
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="Paddle-Lite on .*model_x86.nb, tried out .*, crashed") as caught:
        infer(folder, "--engine=lite")
    assert "\n" not in str(caught.value)


def test_a_folder_for_another_engine_is_an_error(exported, infer, tmp_path):
    folder = shutil.copytree(exported("yolof"), tmp_path / "export")
    message = r"lacks model.onnx \(or it is empty\); it is for --engine=paddle; export"
    with pytest.raises(UserError, match=message):
        infer(folder, "--engine=onnxruntime")
    (folder / "model_x86.nb").write_bytes(b"x")
    with pytest.raises(UserError, match="infer_cfg.yml has no PostProcess, but --engine=lite needs a model"):
        infer(folder, "--engine=lite")


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Runs deploy/lite/convert.py on a folder, into the folder `lite`, and returns its exit code."""

    def run(folder):
        monkeypatch.setattr(sys, "argv", ["convert.py", f"--model_dir={folder}", f"--output_dir={tmp_path / 'lite'}"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "deploy" / "lite" / "convert.py"), run_name="__main__")
        return ended.value.code

    return run


def test_an_exported_paddle_model_is_converted_and_runs(exported, infer, tmp_path, convert):
    need("lite")
    plain = exported("yolof", "paddle", "export.nms=false")
    assert convert(plain) == 0
    before, after = (read_manifest(folder) for folder in (plain, tmp_path / "lite"))
    assert sorted(after["files"]) == ["infer_cfg.yml", "model_arm.nb", "model_x86.nb"]
    assert [after[key] for key in ("name", "config", "inputs", "outputs")] == [
        before[key] for key in ("name", "config", "inputs", "outputs")
    ]
    found = infer(tmp_path / "lite", "--engine=lite")
    expected = infer(exported("yolof"))
    assert len(expected) > 0
    for image in range(6):
        assert agreement(as_rows(expected, image), as_rows(found, image), 1e-4, 0.05).unmatched == 0


def test_numpy_suppresses_like_the_suppression_in_the_network(exported, infer):
    without = infer(exported("yolof", "paddle", "export.nms=false"))
    expected = infer(exported("yolof"))
    assert len(expected) > 0
    for image in range(6):
        assert agreement(as_rows(expected, image), as_rows(without, image), 1e-5, 1e-3).unmatched == 0


def test_what_cannot_be_converted_to_paddle_lite_is_an_error_of_one_line(exported, tmp_path, convert, capsys):
    need("lite")
    folder = exported("yolof")
    capsys.readouterr()
    assert convert(folder) == 2
    error = capsys.readouterr().err
    assert "contains multiclass_nms3, after which Paddle-Lite aborts" in error and error.count("\n") == 1
    assert not (tmp_path / "lite").exists()


def test_a_folder_without_a_program_of_paddle_2_is_an_error_of_one_line(tmp_path, convert, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert convert(folder) == 2
    error = capsys.readouterr().err
    assert "lacks model.pdmodel, model.pdiparams, infer_cfg.yml" in error and error.count("\n") == 1
    for name in ("model.json", "model.pdiparams", "infer_cfg.yml"):
        (folder / name).touch()
    assert convert(folder) == 2
    error = capsys.readouterr().err
    assert "model.json is a program of Paddle 3, but Paddle-Lite 2.13 reads" in error and error.count("error:") == 1
    assert not (tmp_path / "lite").exists()


def test_an_export_for_paddle_lite_needs_a_paddle_that_writes_programs_of_paddle_2(taught, tmp_path, monkeypatch):
    cfg, model = taught("yolof")
    monkeypatch.setattr(targets, "SAVES_PIR", True)  # as with Paddle 3
    with pytest.raises(UserError, match="--target lite: the installed Paddle writes programs of Paddle 3, but"):
        export_model(model, cfg, tmp_path, "lite")
    assert not list(tmp_path.iterdir())
