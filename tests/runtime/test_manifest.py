"""The manifest of an export: what it records, and what becomes of a model whose files differ from it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import paddle
import pytest
from paths import FIXTURES

from ppdet_repro import __version__
from ppdet_repro.core.config import load_config
from ppdet_repro.paddle_private.saved_program import signature
from ppdet_repro.runtime.manifest import MANIFEST, check_files, read_manifest, sha256, write_manifest
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.utils.errors import UserError

OLD = FIXTURES / "version_0_1_0" / "exported"  # has no manifest
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", from FIPS 180-2


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the exported folder that a test may change."""
    return shutil.copytree(exported, tmp_path / "model")


def flip(path, at, bit=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))


# What it records -------------------------------------------------------------------------------------------------


def test_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == ABC
    (tmp_path / "a").write_bytes(bytes(range(256)) * 9000)  # longer than a piece that is read at once
    assert sha256(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 9000).hexdigest()


def test_an_export_records_its_files_its_versions_and_its_config(tiny, exported):
    content = json.loads((exported / MANIFEST).read_text(encoding="utf-8"))
    names = sorted(path.name for path in exported.iterdir() if path.name != MANIFEST)
    assert sorted(content["files"]) == names and "infer_cfg.yml" in names
    for name in names:
        data = (exported / name).read_bytes()
        assert content["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert content["format"] == 1 and content["name"] == "tiny"
    assert content["versions"]["ppdet_repro"] == __version__
    assert content["versions"]["paddlepaddle"] == paddle.__version__ and content["versions"]["numpy"] == np.__version__
    assert content["config"] == json.loads(json.dumps(load_config(tiny / "tiny.yml").document.plain()))
    assert content["config"]["num_classes"] == 2


def test_an_export_records_its_inputs_and_outputs(exported):
    """The tiny model has a free size, and ends in final boxes: class, score and four corners each."""
    content = read_manifest(exported)
    expected = {"image": [-1, 3, -1, -1], "im_shape": [-1, 2], "scale_factor": [-1, 2]}
    assert {entry["name"]: entry["shape"] for entry in content["inputs"]} == expected
    assert {entry["type"] for entry in content["inputs"]} == {"float32"}
    boxes, count = content["outputs"]
    assert (boxes["shape"], boxes["type"]) == ([-1, 6], "float32")
    assert (count["shape"], count["type"]) == ([-1], "int32")


def test_the_signature_of_a_program_of_paddle_2():
    found = signature(OLD / "model.pdmodel")
    assert [entry["name"] for entry in found["inputs"]] == ["im_shape", "image", "scale_factor"]
    assert found["inputs"][1] == {"name": "image", "shape": [-1, 3, 128, 128], "type": "float32"}
    assert [(entry["shape"], entry["type"]) for entry in found["outputs"]] == [([-1, 6], "float32"), ([-1], "int32")]


# What it finds ---------------------------------------------------------------------------------------------------


def test_an_intact_export_is_known_without_a_line(folder, logged):
    assert open_model_folder(folder).checked
    assert logged.messages == []


@pytest.mark.parametrize("name", ["program", "model.pdiparams"])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_changed_bit_is_one_line(folder, name, bit):
    path = network_file(folder, "paddle") if name == "program" else folder / name
    flip(path, path.stat().st_size // 2, bit)
    with pytest.raises(UserError) as caught:
        open_model_folder(folder)
    message = str(caught.value)
    assert message.startswith(f"{path} is not what was exported: its SHA-256 begins with {sha256(path)[:12]}, ")
    assert message.endswith(f"copy or export the model again; after a change on purpose, delete {MANIFEST}")
    assert "\n" not in message


def test_an_incomplete_copy_is_one_line(folder):
    path = folder / "model.pdiparams"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(UserError, match=f"it has {size - 1:,} bytes, manifest.json expects {size:,}"):
        open_model_folder(folder)


def test_without_its_manifest_a_changed_export_is_accepted(folder, logged):
    flip(folder / "model.pdiparams", -1)
    (folder / MANIFEST).unlink()
    assert not open_model_folder(folder).checked
    assert logged.messages == [f"{folder} has no manifest.json, so its files cannot be checked for damage"]


def test_an_edited_infer_cfg_is_a_line_in_the_log(folder, logged):
    path = folder / "infer_cfg.yml"
    path.write_text(path.read_text().replace("draw_threshold: 0.5", "draw_threshold: 0.25"))
    model = open_model_folder(folder)
    assert model.checked and model.draw_threshold == 0.25
    assert logged.messages == [f"{path} was edited after the export"]


def test_a_model_that_was_put_into_the_folder_is_not_known(folder, logged):
    (folder / "model.onnx").write_bytes(b"made by another program")
    assert not open_model_folder(folder, engine="onnxruntime").checked
    assert logged.messages == [f"{folder / MANIFEST} does not list model.onnx, so it cannot be checked for damage"]


def test_files_that_the_engine_does_not_read_may_be_missing(tmp_path):
    for name in ("model_arm.nb", "model_x86.nb", "infer_cfg.yml"):
        (tmp_path / name).write_bytes(b"abc")
    write_manifest(tmp_path, "a", None, {"inputs": [], "outputs": []})
    (tmp_path / "model_arm.nb").unlink()
    assert check_files([tmp_path / "model_x86.nb"], tmp_path / "infer_cfg.yml")


# Damaged manifests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "damaged, or not the manifest"),
        ("{", "damaged, or not the manifest"),
        ("\xff", "damaged, or not the manifest"),
        ("[1]", "not an object with a format"),
        ("{}", "not an object with a format"),
        ('{"format": true}', "not an object with a format"),
        ("[" * 100_000, "too many levels"),
        (" " * (1 << 20) + "{}", "not a file of at most 1,048,576 bytes"),
        ('{"format": 2}', "format 2 is unknown here; install a newer ppdet-repro"),
        ('{"format": 1}', "'files' must be an object"),
        ('{"format": 1, "files": []}', "'files' must be an object"),
        ('{"format": 1, "files": {"a": 1}}', "'a' must have bytes and sha256, got 1"),
        ('{"format": 1, "files": {"a": {"bytes": "3", "sha256": "' + ABC + '"}}}', "must have bytes and sha256"),
        ('{"format": 1, "files": {"a": {"bytes": 3, "sha256": "' + ABC.upper() + '"}}}', "must have bytes and sha256"),
    ],
)
def test_a_damaged_manifest_is_one_line(folder, text, message):
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        open_model_folder(folder)
    assert str(folder / MANIFEST) in str(caught.value) and len(str(caught.value)) < 1000 + len(str(folder))


def test_a_folder_in_place_of_the_manifest_is_one_line(folder):
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(UserError, match="not a file of at most"):
        open_model_folder(folder)
