"""deploy/python/infer.py: flags, settings of the engine, batches, videos, results and wrong input."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from paths import ROOT
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export import infer_cfg
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.runtime.model_folder import ARCHITECTURES, open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.paddle_network import PaddleNetwork, configure
from ppdet_repro.runtime.paddle_options import Build, PaddleOptions, check_options
from ppdet_repro.runtime.pipeline import Pipeline, batched
from ppdet_repro.runtime.slicing import SlicedPipeline, SliceOptions, merge, starts
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.errors import UserError

DEPLOY = ROOT / "deploy" / "python"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a small dataset in `data` and the config `tiny.yml`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, write_images(folder / "data"))
    return folder


@pytest.fixture(scope="module")
def model(tiny):
    return tiny_model(tiny / "tiny.yml")


@pytest.fixture(scope="module")
def exported(tiny, model):
    return export_model(model, load_config(tiny / "tiny.yml"), tiny / "export")


@pytest.fixture
def infer(exported, tmp_path, monkeypatch, capsys):
    """Runs infer.py on the exported model with flags and returns its standard output."""
    spec = importlib.util.spec_from_file_location("deploy_infer", DEPLOY / "infer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*flags, model_dir=exported):
        flags = ["infer.py", f"--model_dir={model_dir}", f"--output_dir={tmp_path / 'out'}", *map(str, flags)]
        monkeypatch.setattr(sys, "argv", flags)
        module.main()
        return capsys.readouterr().out

    return run


# Flags ----------------------------------------------------------------------------------------------------


def test_flags_and_defaults_are_paddledetections():
    flags = vars(build_parser().parse_args(["--model_dir=m"]))
    expected = {
        "model_dir": "m", "image_file": None, "image_dir": None, "batch_size": 1, "video_file": None,
        "camera_id": -1, "threshold": 0.5, "output_dir": "output", "save_images": True, "save_results": False,
        "use_coco_category": False, "task_type": "Detection", "use_fd_format": False, "run_mode": "paddle",
        "device": "cpu", "use_gpu": False, "run_benchmark": False, "enable_mkldnn_bfloat16": False,
        "cpu_threads": 1, "trt_min_shape": 1, "trt_max_shape": 1280, "trt_opt_shape": 640,
        "trt_calib_mode": False, "collect_trt_shape_info": False,
        "tuned_trt_shape_file": "shape_range_info.pbtxt", "slice_infer": False, "slice_size": [640, 640],
        "overlap_ratio": [0.25, 0.25], "combine_method": "nms", "match_threshold": 0.6, "match_metric": "ios",
    }  # fmt: skip
    assert {name: flags[name] for name in expected} == expected
    assert flags["enable_mkldnn"] is True  # unlike in PaddleDetection, because oneDNN makes the CPU fast


@pytest.mark.parametrize(
    "arguments, value",
    [
        (["--run_benchmark"], True),
        (["--run_benchmark=True"], True),
        (["--run_benchmark", "False"], False),
        (["--run_benchmark=false"], False),  # PaddleDetection's type=bool took any text for true
        (["--enable_mkldnn=0", "--run_benchmark", "--device=CPU"], True),
    ],
)
def test_switches_in_all_their_forms(arguments, value):
    assert build_parser().parse_args(["--model_dir=m", *arguments]).run_benchmark is value


@pytest.mark.parametrize(
    "flag", ["--run_benchmark=perhaps", "--batch_size=0", "--run_mode=trt", "--device=tpu", "--overlap_ratio=1"]
)
def test_a_wrong_value_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["--model_dir=m", flag])
    assert stopped.value.code == 2 and flag.split("=")[0] in capsys.readouterr().err


def test_fluid_is_the_old_name_of_paddle():
    assert build_parser().parse_args(["--model_dir=m", "--run_mode=fluid"]).run_mode == "paddle"


# The engine -----------------------------------------------------------------------------------------------


class Recorder:
    """Replaces paddle.inference.Config and records the calls of its methods."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, name):
        return lambda *args, **options: self.calls.__setitem__(name, options or args)


def settings(**options):
    recorder = Recorder()
    configure(recorder, PaddleOptions(**options))
    return recorder.calls


def test_cpu_runs_with_onednn_unless_told_otherwise():
    calls = settings(cpu_threads=4)
    assert calls["set_cpu_math_library_num_threads"] == (4,)
    assert "enable_mkldnn" in calls and "enable_mkldnn_bfloat16" not in calls
    assert calls["switch_ir_optim"] == (True,) and "enable_memory_optim" in calls
    assert "enable_mkldnn_bfloat16" in settings(enable_mkldnn_bfloat16=True)
    off = settings(enable_mkldnn=False)
    assert "disable_mkldnn" in off and "enable_mkldnn" not in off


def test_gpu_alone_has_no_tensorrt():
    calls = settings(device="gpu")
    assert calls["enable_use_gpu"] == (200, 0)
    assert not any("trt" in name or "tensorrt" in name or "mkldnn" in name for name in calls)


CPU_BUILD = Build(("cpu",), False)


@pytest.mark.parametrize(
    "options, build, message",
    [
        ({"device": "gpu"}, CPU_BUILD, "--device=gpu: .* not present in this machine; possible here: --device=cpu"),
        ({"run_mode": "trt_fp16"}, CPU_BUILD, "--run_mode=trt_fp16 needs --device=gpu, not cpu"),
        (
            {"device": "gpu", "run_mode": "trt_fp16"},
            Build(("cpu", "gpu"), False),
            r"the installed Paddle has no TensorRT; possible here: --device=cpu\|gpu --run_mode=paddle$",
        ),
        ({"enable_mkldnn_bfloat16": True, "enable_mkldnn": False}, CPU_BUILD, "needs --enable_mkldnn and"),
        (
            {"enable_mkldnn_bfloat16": True},
            Build(("cpu",), False, bfloat16=False),
            "--enable_mkldnn_bfloat16: this CPU has no AVX-512",
        ),
        ({"enable_mkldnn_int8": True, "enable_mkldnn": False}, CPU_BUILD, "--enable_mkldnn_int8 needs"),
        ({"trt_min_shape": 800}, CPU_BUILD, "--trt_min_shape, --trt_opt_shape and --trt_max_shape"),
    ],
)
def test_what_the_machine_does_not_support_is_an_error_of_one_line(options, build, message):
    with pytest.raises(UserError, match=message):
        check_options(PaddleOptions(**options), build)


# The model's folder ---------------------------------------------------------------------------------------


def test_every_architecture_that_is_exported_is_known():
    assert {arch for arch, _ in infer_cfg.ARCHITECTURES.values()} == set(ARCHITECTURES)


def broken_copy(exported, tmp_path, **changes):
    """A copy of the exported folder with other entries in infer_cfg.yml; None removes an entry."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    config = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    (folder / "infer_cfg.yml").unlink()
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(config))
    return folder


def test_a_missing_file_of_the_folder_is_an_error_of_one_line(exported, tmp_path):
    with pytest.raises(UserError, match="is not a folder; tools/export_model.py writes one"):
        open_model_folder(tmp_path / "missing")
    folder = broken_copy(exported, tmp_path)
    (folder / "model.pdiparams").unlink()
    with pytest.raises(UserError, match="lacks model.pdiparams"):
        open_model_folder(folder)
    with pytest.raises(UserError, match="lacks inference.pdmodel.*set --use_fd_format=False"):
        open_model_folder(folder, fastdeploy_names=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arch": "Mask2Former"}, "architecture 'Mask2Former' is not one of YOLO, YOLOF"),
        ({"label_list": None}, "has no entry 'label_list'"),
        ({"Preprocess": "Resize"}, "is not an infer_cfg.yml"),
    ],
)
def test_a_wrong_infer_cfg_is_an_error_of_one_line(exported, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_model_folder(broken_copy(exported, tmp_path, **changes))


@pytest.mark.parametrize("name, size", [("model.pdmodel", 0), ("model.pdmodel", 1000), ("model.pdiparams", 1000)])
def test_a_damaged_model_is_an_error_of_one_line(exported, tmp_path, name, size):
    folder = broken_copy(exported, tmp_path)
    content = (folder / name).read_bytes()[:size] or b"damaged"
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="export it again") as caught:
        PaddleNetwork(open_model_folder(folder).network_file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


# Running --------------------------------------------------------------------------------------------------


class Fake:
    """An engine that finds one box per image, whose score is the mean of the pixels, and a row of filler."""

    def __init__(self):
        self.shapes = []

    def run(self, inputs):
        self.shapes.append(inputs["image"].shape)
        rows = [[row for row in ([0, image.mean(), 1, 2, 3, 4], [-1, 1, 0, 0, 0, 0])] for image in inputs["image"]]
        return np.array(rows, np.float32).reshape(-1, 6), np.full(len(rows), 2, np.int32)


def test_images_of_different_sizes_make_one_padded_batch_and_the_first_run_is_not_measured():
    engine = Fake()
    pipeline = Pipeline(from_list([{"type": "Permute"}, {"type": "PadStride", "stride": 32}]), engine)
    images = [np.full((40, 60, 3), 9, np.uint8), np.full((64, 20, 3), 5, np.uint8)]
    found = pipeline(images)
    assert engine.shapes == [(2, 3, 64, 64)] * 2  # the warm-up, then the run that is measured
    assert [len(image.rows) for image in found] == [1, 1]
    np.testing.assert_allclose(found[0].rows[0, 1], 9 * 40 * 60 / 64**2)
    pipeline(images[:1])
    assert len(engine.shapes) == 3 and pipeline.timer.images == 3
    assert [len(times) for times in pipeline.timer.seconds.values()] == [2, 2, 2]


def test_a_benchmark_measures_a_hundred_runs_after_fifty_for_warm_up():
    engine = Fake()
    pipeline = Pipeline(from_list([{"type": "Permute"}]), engine)
    pipeline.benchmark([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert len(engine.shapes) == 150 and pipeline.timer.images == 200
    assert {len(times) for times in pipeline.timer.seconds.values()} == {100}


def test_batched():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_slices_cover_a_side_with_overlap_and_end_with_the_side():
    assert starts(100, 40, 0.25) == [0, 30, 60]  # 30 apart, the last one ends at 100
    assert starts(105, 40, 0.25) == [0, 30, 60, 65]
    assert starts(30, 40, 0.25) == [0]


@pytest.mark.parametrize("metric, left", [("ios", 2), ("iou", 3)])
def test_of_two_boxes_that_match_the_better_stays(metric, left):
    rows = np.array(
        [
            [0, 0.9, 0, 0, 19, 19],  # 20 x 20
            [0, 0.8, 0, 0, 19, 9],  # its upper half: intersection over the smaller 1, over the union 0.5
            [1, 0.7, 0, 0, 19, 19],  # another class
        ]
    )
    assert len(merge(rows, 0.6, metric)) == left
    assert len(merge(rows[:0], 0.6, metric)) == 0


def test_boxes_of_slices_come_back_in_the_images_pixels():
    pipeline = SlicedPipeline(Pipeline(from_list([{"type": "Permute"}]), Fake()), SliceOptions((40, 40)), 3)
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 60:] = 80
    (found,) = pipeline([image])
    # Three slices, from x = 0, 30, 60; Fake finds [1, 2, 3, 4] on each, so [1, 31, 61] to [3, 33, 63]
    assert found.rows[:, 2].tolist() == [61, 31, 1] and found.rows[:, 3].tolist() == [2, 2, 2]
    assert found.image.shape == image.shape and pipeline.timer.images == 3


def test_timing_table_is_per_image():
    timer = StageTimer()
    timer.seconds = {"preprocess": [0.02, 0.02], "inference": [0.1, 0.3], "postprocess": [0.0, 0.0]}
    timer.images = 4  # two batches of two
    lines = timer.table().splitlines()
    assert lines[0].split() == ["ms", "per", "image", "mean", "median", "p95"]
    assert lines[3].split() == ["inference", "100.000", "100.000", "145.000"]  # 50 and 150 ms per image
    assert lines[5].split()[:2] == ["total", "110.000"]
    assert lines[6] == "4 images, 9.09 per second (warm-up not counted)"


def test_deployment_gives_evaluations_ap(tiny, model, infer, tmp_path):
    config = tmp_path / "one_scale.yml"  # the resize of deployment, see `Resize`
    config.write_text((tiny / "tiny.yml").read_text().replace("keep_ratio: true", "keep_ratio: true, one_scale: true"))
    expected = evaluate(model, load_config(config, [f"output_eval={tmp_path}"]))
    data = tiny / "data"
    output = infer(f"--eval_json={data / 'truth.json'}", f"--image_dir={data / 'images'}", "--save_results=True")
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    found = evaluate_coco(load_coco_json(data / "truth.json"), rows).values()
    assert 0 < expected["bbox_mAP"] < 1
    assert found == pytest.approx(expected, abs=5e-5)
    assert f"{expected['bbox_mAP']:.3f}" in output and "warm-up not counted" in output
    reference = json.loads((tmp_path / "bbox.json").read_text())
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in reference]
    assert {row["file_name"] for row in rows} <= {f"{i:03d}.png" for i in range(6)}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{i:03d}.png" for i in range(6)]


def test_bfloat16_or_no_onednn_or_batches_find_about_the_same(tiny, infer, tmp_path):
    def scores(*flags):
        infer(f"--image_dir={tiny / 'data' / 'images'}", "--save_results", "--save_images=False", *flags)
        return np.array([row["score"] for row in json.loads((tmp_path / "out" / "bbox.json").read_text())])

    plain = scores()
    np.testing.assert_allclose(scores("--enable_mkldnn=False", "--cpu_threads=2"), plain, atol=1e-4)
    assert abs(scores("--batch_size=4").max() - plain.max()) < 0.05  # padding differs, so a little


def test_ids_count_from_zero_or_are_cocos(tiny, infer, tmp_path):
    image = tiny / "data" / "images" / "003.png"
    infer(f"--image_file={image}", "--save_results", "--save_images=false")
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    assert {row["image_id"] for row in rows} == {0} and {row["category_id"] for row in rows} <= {0, 1}
    infer(f"--image_file={image}", "--slice_infer", "--slice_size", 48, 48, "--batch_size=2", "--save_images=0")
    with pytest.raises(UserError, match="--use_coco_category is for COCO's 80 classes, the model has 2"):
        infer(f"--image_file={image}", "--use_coco_category")


def test_coco_ids_come_from_file_names(tiny):
    from ppdet_repro.runtime.sources import list_images, with_coco_ids

    images = list_images(str(tiny / "data" / "images"), classes=2)
    assert with_coco_ids(images, [3, 5]) == (images.files, [0, 1, 2, 3, 4, 5], [3, 5])
    with pytest.raises(UserError, match="'photo' is not a number"):
        with_coco_ids(images._replace(files=["photo.jpg"], ids=[0]), [3, 5])


def test_images_of_the_same_name_in_two_folders_are_both_written(tiny, infer, tmp_path):
    source = read_image(str(tiny / "data" / "images" / "000.png"))
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "in" / name / "1.png"), source)
    infer(f"--image_dir={tmp_path / 'in'}", "--threshold=0")
    drawn = [read_image(str(tmp_path / "out" / name / "1.png")) for name in ("a", "b")]
    assert drawn[0].shape == source.shape and (drawn[0] != source[..., ::-1]).any()


def test_a_video_comes_out_with_as_many_frames(tiny, infer, tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (96, 64))
    for i in range(5):
        writer.write(np.full((64, 96, 3), 40 * i, np.uint8))
    writer.release()
    output = infer(f"--video_file={path}", "--batch_size=2", "--threshold=0")
    assert "5 frames in" in output and "5 images," in output
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 5


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give --image_file, --image_dir, --video_file or --camera_id"),
        (["--image_file={tmp}/absent.jpg"], "absent.jpg does not exist"),
        (["--image_file={tmp}/fake.jpg"], "image .*fake.jpg is not an image"),
        (["--image_dir={tmp}/empty"], "there is no image in .*empty"),
        (["--video_file={tmp}/absent.mp4"], "--video_file .*absent.mp4 is not a file"),
        (["--video_file={tmp}/fake.jpg"], "fake.jpg is not a video"),
        (["--eval_json={tmp}/fake.jpg", "--image_dir={tmp}"], "fake.jpg is not valid JSON"),
        (["--image_dir={tmp}", "--use_gpu=True"], "--use_gpu is no longer supported; use --device=gpu"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(infer, tmp_path, flags, message):
    (tmp_path / "fake.jpg").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        infer(*(flag.format(tmp=tmp_path) for flag in flags))
    assert "\n" not in str(caught.value)


def test_an_export_without_post_processing_says_so(tiny, model, infer, tmp_path):
    cfg = load_config(tiny / "tiny.yml", ["export.benchmark=true"])
    folder = export_model(model, cfg, tmp_path)
    with pytest.raises(UserError, match="not in boxes .* export it with export.post_process and export.nms on"):
        infer(f"--image_dir={tiny / 'data' / 'images'}", model_dir=folder)


def test_the_command_imports_no_training_code_and_ends_with_code_two(tmp_path):
    program = f"""
import runpy, sys
sys.argv = ["infer.py", "--model_dir=absent", "--image_dir=."]
sys.path.insert(0, {str(DEPLOY)!r})  # as Python does for a script
try:
    runpy.run_path({str(DEPLOY / "infer.py")!r}, run_name="__main__")
finally:
    training = ("modeling", "engine", "optimizer", "slim", "data.reader", "core.config")
    print([m for m in sys.modules if m.startswith(tuple(f"ppdet_repro.{{name}}" for name in training))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.strip() == "[]"
    assert done.stderr.strip() == "error: --model_dir absent is not a folder; tools/export_model.py writes one"
