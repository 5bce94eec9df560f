"""Weights that come with the package: how they are stored, found, verified, and what `init` does with them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from dataset_formats import write, write_picture
from paths import CONFIGS
from voc_devkit import xml

from ppdet_repro import build_model, load_config
from ppdet_repro.engine.model_weights import load_exact, load_pretrained, weights_of
from ppdet_repro.engine.starting.init import init
from ppdet_repro.engine.starting.recipes import CPU
from ppdet_repro.utils import packaged_weights
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.packaged_weights import SCHEME, halved, read_provenance, shipped
from ppdet_repro.utils.weights import read_state, save_state
from tools import ship_weights

NAME = "yolof_r18vd"
RECIPE = CPU["yolof"]


def check_shipped(name):
    """What holds for all weights of the package: they are those of their config, small, and of a known origin."""
    found = read_provenance(name)
    model = build_model(load_config(found.config, [f"num_classes={found.num_classes}"]))
    path = resolve(SCHEME + name)
    load_exact(model, path)
    assert path.stat().st_size < 16e6
    assert {array.dtype for array in read_state(path).values() if array.ndim > 1} == {np.dtype("f2")}
    assert all(vars(found).values())
    for recipe in CPU.values():
        if recipe.weights == SCHEME + name:
            report = load_pretrained(build_model(load_config(recipe.base)), path)
            assert not report.new and not report.unused


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with weights of one recipe. Returns what a training has written."""
    monkeypatch.setattr(packaged_weights, "WEIGHTS", tmp_path / "weights")
    trained = weights_of(build_model(load_config(RECIPE.base)))
    save_state(tmp_path / "best_model.pdparams", {**trained, "ema.step": np.ones(1, np.float32)})
    facts = {"name": NAME, "config": CONFIGS / RECIPE.base, "command": "ppdet-repro train", "data": "drawn shapes"}
    facts.update({"data_licence": "Apache-2.0", "result": "AP50 0.5", "hardware": "2 cores", "date": "2026-11-28"})
    flags = [word for key, value in facts.items() for word in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["ship_weights.py", str(tmp_path / "best_model"), *flags])
    ship_weights.main()
    return trained


def test_filters_are_stored_in_16_bits_where_that_is_exact_enough():
    state = {
        "filter": np.array([[1 / 3, 1e-6]], np.float32),  # 1/3 is 1365.33 / 4096, of which 1365 is kept
        "large": np.array([[1.0, 65520.0]], np.float32),  # would be infinite
        "tiny": np.array([[1e-8, 2e-8]], np.float32),  # would be 0
        "norm": np.array([1 / 3], np.float32),
        "number": np.array([[7]], np.int64),
    }
    found = halved(state)
    assert {name: str(array.dtype) for name, array in found.items()} == {
        "filter": "float16", "large": "float32", "tiny": "float32", "norm": "float32", "number": "int64",
    }  # fmt: skip
    assert found["filter"][0, 0] == 1365 / 4096
    assert all(found[name] is state[name] for name in ("large", "tiny", "norm", "number"))


def test_what_the_package_has():
    for name in shipped():
        check_shipped(name)
    assert all(recipe.weights for recipe in CPU.values())


def test_weights_that_are_put_into_the_package(package):
    check_shipped(NAME)
    found = read_provenance(NAME)
    assert (found.config, found.num_classes, found.licence) == (RECIPE.base, 3, "Apache-2.0")
    path = resolve(f"package://{NAME}")
    stored = read_state(path)
    assert set(stored) == set(package)  # the counter of the moving average is left out
    numbers = sum(array.size for array in package.values())
    assert 2 * numbers < path.stat().st_size < 2.1 * numbers  # 4 bytes were one
    for name, array in package.items():  # float16 keeps 11 bits
        assert np.abs(stored[name] - array).max() <= np.abs(array).max() / 2**11, name


def test_a_training_with_other_classes_takes_all_but_the_last_layer(package):
    model = build_model(load_config(RECIPE.base, ["num_classes=5"]))
    report = load_pretrained(model, resolve(f"package://{NAME}"))
    assert [line.split()[0] for line in report.reshaped] == ["head.cls_score.weight", "head.cls_score.bias"]
    assert not report.new and not report.unused
    name = "neck.lateral_conv.weight"
    assert np.array_equal(model.state_dict()[name].numpy(), package[name].astype(np.float16).astype(np.float32))


def test_weights_that_are_not_there_or_were_changed(package):
    with pytest.raises(UserError, match="^package://other: no such weights come with the package; it has yolof_r18vd$"):
        resolve("package://other")
    with open(packaged_weights.WEIGHTS / f"{NAME}.pdparams", "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="yolof_r18vd.pdparams: this file was changed or is damaged: install the"):
        resolve(f"package://{NAME}")


def test_init_starts_from_them_where_there_are_any(package, tmp_path):
    for i in range(5):
        write_picture(tmp_path / f"set/{i}.jpg")
        write(tmp_path / f"set/{i}.xml", xml([("cat", 10, 10, 60, 40, "")], 100, 50))
    for base, device, start in (
        ("yolof", "cpu", f"package://{NAME}"),
        ("pafnet", "cpu", None),  # the package of this test has no weights of it
        ("yolof", "gpu", load_config("yolof/yolof_r50_c5_1x_coco.yml").run.pretrain_weights),
    ):
        started = init(str(tmp_path / "set"), str(tmp_path / base / device), base=base, device=device)
        assert load_config(started.config).run.pretrain_weights == start
        assert any(f", from package://{NAME}" in line for line in started.lines) == (device + base == "cpuyolof")
