"""The command line of infer.py: PaddleDetection's names, meanings and defaults."""

from __future__ import annotations

import argparse

from ppdet_repro.utils.cli import add_switch, at_least_one

ENGINES = ("paddle", "onnxruntime", "openvino", "lite")
DEVICES = ("cpu", "gpu", "xpu", "npu")
RUN_MODES = ("paddle", "trt_fp32", "trt_fp16", "trt_int8")


def run_mode(text: str) -> str:
    """A run mode; `fluid` is an old name of `paddle`."""
    return "paddle" if text == "fluid" else text


def share(text: str) -> float:
    """A number from 0 to less than 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to less than 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The parser of all flags."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of infer.py."""
    add_model_flags(parser)
    source = parser.add_argument_group("what to look at (the first one given counts)")
    source.add_argument("--video_file", help="a video")
    source.add_argument("--camera_id", type=int, default=-1, help="a camera, until Ctrl-C")
    source.add_argument("--image_file", help="an image")
    source.add_argument("--image_dir", help="all images of a folder")
    source.add_argument("--eval_json", help="a COCO file: run its images, found under --image_dir, and print the AP")
    source.add_argument("--batch_size", type=at_least_one, default=1, help="images at a time")

    result = parser.add_argument_group("results")
    result.add_argument("--output_dir", default="output", help="where pictures and files go")
    result.add_argument("--threshold", type=float, default=0.5, help="lowest score of a box that is drawn")
    add_switch(result, "--save_images", True, "draw the boxes")
    add_switch(result, "--save_results", False, "write bbox.json, rows as in COCO's result files, all scores")
    add_switch(result, "--save_csv", False, "write boxes.csv: file or frame, class, score, corners")
    add_switch(result, "--use_coco_category", False, "in bbox.json: COCO's category ids, and image ids from file names")
    result.add_argument("--task_type", choices=["Detection"], default="Detection", help="boxes with upright sides")

    slices = parser.add_argument_group("large images, in overlapping slices")
    add_switch(slices, "--slice_infer", False, "slice every image")
    slices.add_argument("--slice_size", type=at_least_one, nargs=2, default=[640, 640], metavar=("H", "W"))
    slices.add_argument("--overlap_ratio", type=share, nargs=2, default=[0.25, 0.25], metavar=("H", "W"))
    slices.add_argument("--combine_method", choices=["nms", "concat"], default="nms", help="how slices are merged")
    slices.add_argument("--match_threshold", type=float, default=0.6, help="nms: boxes that match so much are one")
    slices.add_argument("--match_metric", choices=["iou", "ios"], default="ios", help="ios: over the smaller box")

    add_engine_flags(parser)
    add_switch(parser, "--use_gpu", False, "of old; say --device=gpu")
    add_switch(parser, "--run_benchmark", False, "time each batch 100 times after 50 runs that do not count")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name the model."""
    parser.add_argument("--model_dir", required=True, help="folder that tools/export_model.py wrote")
    add_switch(parser, "--use_fd_format", False, "the folder holds inference.yml and inference.pdmodel (FastDeploy)")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what runs the model, and how."""
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine", choices=ENGINES, default="paddle", help="onnxruntime and openvino run NAME_onnx, lite NAME_lite"
    )
    engine.add_argument("--device", type=str.lower, choices=DEVICES, default="cpu")
    engine.add_argument("--run_mode", type=run_mode, choices=RUN_MODES, default="paddle", help="trt_*: TensorRT")
    engine.add_argument("--cpu_threads", type=at_least_one, default=1)
    add_switch(engine, "--enable_mkldnn", True, "oneDNN kernels on the CPU")
    add_switch(engine, "--enable_mkldnn_bfloat16", False, "convolutions in bfloat16 on the CPU; needs oneDNN")
    add_switch(
        engine,
        "--enable_mkldnn_int8",
        None,
        "compute a quantised model in int8 on the CPU (it is done unless this is False); needs oneDNN",
    )
    engine.add_argument("--trt_min_shape", type=at_least_one, default=1, help="shortest side of a dynamic input")
    engine.add_argument("--trt_max_shape", type=at_least_one, default=1280, help="longest side")
    engine.add_argument("--trt_opt_shape", type=at_least_one, default=640, help="usual side")
    add_switch(engine, "--trt_calib_mode", False, "TensorRT calibrates int8 itself")
    add_switch(engine, "--collect_trt_shape_info", False, "run once to write --tuned_trt_shape_file")
    engine.add_argument(
        "--tuned_trt_shape_file",
        default="shape_range_info.pbtxt",
        help="shape ranges for TensorRT; if it does not exist they are collected on the first batch",
    )
    engine.add_argument(
        "--trt_cache_dir", help="where TensorRT's engines are kept; ~/.cache/ppdet_repro/tensorrt without it"
    )
