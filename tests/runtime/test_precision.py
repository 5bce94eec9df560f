"""A low precision is compared with float32 when a model first runs in it."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
from small_detectors import SMALL, small_config, taught_model
from tiny_yolof import write_images

from ppdet_repro.engine.export import export_model as export_module
from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.paddle_private.program import arguments, read_program
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.paddle_options import installed_build
from ppdet_repro.runtime.precision import RUNS, ComparedEngine, LowPrecision, low_precision
from ppdet_repro.utils.errors import UserError

BFLOAT16 = "--enable_mkldnn_bfloat16"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 6), np.array([len(rows)], np.int32)


# What agrees ----------------------------------------------------------------------------------------------


def test_detections_are_found_again_by_class_score_and_overlap():
    # the box [0, 10] x [0, 10] and those moved along x: the IoU is (10 - d) / (10 + d)
    expected = np.array([[1, 0.8, 0, 0, 10, 10]])
    for d, again in ((0, 1), (3.3, 1), (3.4, 0)):  # 6.7 / 13.3 is above a half, 6.6 / 13.4 below
        assert found_again(expected, np.array([[1, 0.8, d, 0, 10 + d, 10]])) == (again, 1)
    assert found_again(expected, np.array([[2, 0.8, 0, 0, 10, 10]])) == (0, 1)  # another class
    assert found_again(expected, np.array([[1, 0.56, 0, 0, 10, 10]])) == (1, 1)
    assert found_again(expected, np.array([[1, 0.54, 0, 0, 10, 10]])) == (0, 1)  # 0.26 less
    assert found_again(expected, expected[:0]) == (0, 1)
    assert found_again(expected[:0], expected) == (0, 0)


def test_points_without_area_are_found_within_a_pixel():
    point = np.array([[0, 0.5, 7, 7, 7, 7]])
    assert found_again(point, point + [0, 0, 0.9, 0, 0.9, 0]) == (1, 1)
    assert found_again(point, point + [0, 0, 1.1, 0, 1.1, 0]) == (0, 1)


def test_only_the_best_detections_count():
    scores = np.array([0.8, 0.4, 0.39])  # the last is below half of the first
    rows = np.stack([np.zeros(3), scores, *np.tile([[0, 0, 10, 10]], (3, 1)).T], axis=1) + [[0]] * 3
    assert found_again(rows, rows[:0]) == (0, 2)
    many = np.tile(rows[:1], (150, 1))
    assert found_again(many, many) == (100, 100)


# Which flags ask for a low precision -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, name",
    [([], None), ([BFLOAT16], "bfloat16"), (["--engine=openvino"], None), (["--run_mode=trt_fp32"], None),
     (["--run_mode=trt_fp16"], "fp16"), (["--run_mode=trt_int8"], "int8"),
     (["--run_mode=trt_fp16", "--collect_trt_shape_info"], None)],
)  # fmt: skip
def test_the_flags_name_the_precision_and_its_float32_form(flags, name, exported):
    given = build_parser().parse_args([f"--model_dir={exported}", "--device=gpu", *flags])
    low = low_precision(open_model_folder(exported), given)
    assert (None if low is None else low.name) == name
    if low is not None:
        exact = vars(low.float32)
        assert exact["run_mode"] == "paddle" and not exact["enable_mkldnn_bfloat16"] and exact["device"] == "gpu"
        assert {k for k, v in exact.items() if v != vars(given)[k]} <= {
            "run_mode", "enable_mkldnn_bfloat16", "enable_mkldnn_int8"
        }  # fmt: skip


# The comparison ----------------------------------------------------------------------------------------------


class Fixed:
    """An engine that finds the same in every run."""

    def __init__(self, rows):
        self.rows, self.runs = rows, 0

    def run(self, inputs):
        self.runs += 1
        return self.rows


@pytest.fixture
def compared(exported):
    """Makes an engine that finds some rows, and is compared with one that finds others. Both are returned."""

    def make(found, expected):
        low = LowPrecision("bfloat16", BFLOAT16, Namespace(engine="paddle", device="cpu"))
        float32 = Fixed(expected)
        return ComparedEngine(Fixed(found), open_model_folder(exported), low, lambda flags: float32), float32

    return make


ONE = boxes([0, 0.9, 0, 0, 64, 64])
SMALLER = boxes([0, 0.9, 0, 0, 4, 4])  # 16 times


def test_other_boxes_are_one_warning_each_time(compared, logged):
    for _ in range(2):  # a failure is not recorded
        engine, float32 = compared(SMALLER, ONE)
        for _ in range(3):
            assert engine.run({}) is SMALLER
        assert float32.runs == 1
    warnings = [record.getMessage() for record in logged.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and "\n" not in warnings[0]
    assert warnings[0].endswith(
        f"finds other boxes in bfloat16 ({BFLOAT16}) than in float32: 0 of the best 1 agree; export the model again, "
        "or do not use bfloat16"
    )


def test_a_model_that_agrees_is_compared_once(compared, logged):
    engine, float32 = compared(ONE, ONE)
    engine.run({})
    again, unused = compared(SMALLER, ONE)
    again.run({})
    assert (float32.runs, unused.runs) == (1, 0) and not logged.records


def test_the_first_image_with_boxes_decides(compared, logged):
    engine, float32 = compared(SMALLER, boxes())
    engine.run({})
    float32.rows = ONE
    for _ in range(3):
        engine.run({})
    assert float32.runs == 2 and "0 of the best 1" in logged.text


def test_without_boxes_it_gives_up(compared, logged):
    engine, float32 = compared(boxes(), boxes())
    for _ in range(RUNS + 3):
        engine.run({})
    assert float32.runs == RUNS and not logged.records


def test_half_of_the_boxes_is_enough(compared, logged):
    row, other = ONE[0][0], [0, 0.9, 100, 100, 164, 164]
    compared(ONE, boxes(row, other, other))[0].run({})
    assert "1 of the best 3 agree" in logged.text
    logged.clear()
    compared(ONE, boxes(row, other))[0].run({})
    assert not logged.records


def test_an_engine_that_float32_does_not_have_is_a_warning(exported, logged):
    def fails(flags):
        raise UserError("no memory")

    low = LowPrecision("int8", "--run_mode=trt_int8", Namespace(engine="paddle"))
    engine = ComparedEngine(Fixed(ONE), open_model_folder(exported), low, fails)
    assert engine.run({}) is engine.run({}) is ONE
    (record,) = logged.records
    assert record.getMessage().endswith("in int8 cannot be compared with float32: no memory")


# PAFNet's factor ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pafnet(tmp_path_factory):
    """The config and the model of a small PAFNet."""
    cfg = small_config("pafnet", write_images(tmp_path_factory.mktemp("pafnet")))
    return cfg, taught_model(cfg, SMALL["pafnet"].steps)


def as_in_paddle_2(folder, read):
    """A `quantize` argument of `export_model`: the program is saved as .pdmodel, but not quantized."""


def test_no_factor_follows_the_distances_in_an_export(pafnet, tmp_path):
    cfg, model = pafnet
    folder = export_module.export_model(model, cfg, tmp_path, quantize=as_in_paddle_2)
    operators = read_program(folder / "model.pdmodel").blocks[0].ops
    activations = {name for o in operators if o.type == "relu" for name in arguments(o.outputs, "Out")}
    scaled = [o for o in operators if o.type == "scale" and activations & set(arguments(o.inputs, "X"))]
    assert activations and all(a.f == 1.0 for o in scaled for a in o.attrs if a.name == "scale")
    assert model.head.wh_offset_base == 16  # the model itself has not changed


@pytest.mark.skipif(not installed_build().bfloat16, reason="the CPU has no AVX-512")
def test_an_export_with_the_factor_is_found_out_in_bfloat16(pafnet, tmp_path, monkeypatch, logged):
    cfg, model = pafnet
    image = [np.random.default_rng(0).integers(0, 255, [64, 64, 3], np.uint8)]
    for name in ("new", "old"):
        if name == "old":
            monkeypatch.setattr(export_module, "fold_distance_factor", lambda model: None)
        folder = export_module.export_model(model, cfg, tmp_path / name, quantize=as_in_paddle_2)
        logged.clear()
        flags = build_parser().parse_args([f"--model_dir={folder}", BFLOAT16])
        open_pipeline(open_model_folder(folder), flags)(image)
        warned = [record for record in logged.records if "finds other boxes in bfloat16" in record.getMessage()]
        assert len(warned) == (name == "old")
