"""The flags of infer.py."""

from __future__ import annotations

import pytest

from ppdet_repro.runtime.options import build_parser


def test_flags_and_defaults_are_paddledetections():
    flags = vars(build_parser().parse_args(["--model_dir=m"]))
    expected = {
        "model_dir": "m", "image_file": None, "image_dir": None, "batch_size": 1, "video_file": None,
        "camera_id": -1, "threshold": 0.5, "output_dir": "output", "save_images": True, "save_results": False,
        "use_coco_category": False, "use_fd_format": False, "run_mode": "paddle",
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
