"""The flags of infer.py, with PaddleDetection's names, meanings and defaults."""

from __future__ import annotations

import argparse

from ppdet_repro.utils.cli import add_switch, at_least_one

ENGINES = ("paddle", "onnxruntime", "openvino", "lite", "tensorrt")
DEVICES = ("cpu", "gpu", "xpu", "npu")
RUN_MODES = ("paddle", "trt_fp32", "trt_fp16", "trt_int8")


def fraction(text: str) -> float:
    """Parse a number of at least 0 and less than 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0 and less than 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """A parser of all flags of infer.py."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of infer.py."""
    add_model_flags(parser)
    source = parser.add_argument_group("input (if several are given, the first of these is used)")
    add = source.add_argument
    add("--video_file", metavar="FILE", help="a video file, a URL such as rtsp://..., or the number of a camera")
    add("--camera_id", type=int, default=-1, metavar="N", help="number of a camera; Ctrl-C stops it (default: none)")
    add("--image_file", metavar="FILE", help="an image file")
    add("--image_dir", metavar="DIR", help="all images of a folder")
    add("--eval_json", metavar="FILE",
        help="COCO annotation file: run on its images, below --image_dir, and print the AP")  # fmt: skip
    add("--batch_size", type=at_least_one, default=1, metavar="N", help="images per batch (default: 1)")

    result = parser.add_argument_group("results")
    add = result.add_argument
    add("--output_dir", default="output", metavar="DIR", help="folder for images and files (default: output)")
    add("--threshold", type=float, default=0.5, help="lowest score of a box that is drawn (default: 0.5)")
    add_switch(result, "--save_images", True, "draw the boxes (default: True)")
    add_switch(result, "--save_results", False, "write bbox.json in COCO's result format, with boxes of all scores")
    add_switch(result, "--save_csv", False, "write boxes.csv: image or frame, class, score, corners")
    text = "write COCO's category ids, and image ids from file names, to bbox.json"
    add_switch(result, "--use_coco_category", False, text)

    add_slice_flags(parser)
    add_engine_flags(parser)
    add_switch(parser, "--use_gpu", False, "no longer supported; use --device=gpu")
    add_switch(parser, "--run_benchmark", False, "time each batch 100 times, after 50 runs for warm-up")


def add_slice_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that cut large images into slices. `runtime.slicing.slices_of_flags` reads them."""
    slices = parser.add_argument_group("large images: detection on overlapping slices")
    add = slices.add_argument
    add_switch(slices, "--slice_infer", False, "cut every image into slices")
    add("--slice_size", type=at_least_one, nargs=2, default=[640, 640], metavar=("H", "W"),
        help="size of a slice in pixels (default: 640 640)")  # fmt: skip
    add("--overlap_ratio", type=fraction, nargs=2, default=[0.25, 0.25], metavar=("H", "W"),
        help="overlap of slices as a fraction of their size (default: 0.25 0.25)")  # fmt: skip
    add("--combine_method", choices=["nms", "nmm", "concat"], default="nms",
        help="nms: remove duplicates from different slices; nmm: merge them into one box; concat: keep all boxes "
             "(default: nms)")  # fmt: skip
    add("--match_threshold", type=float, default=0.6, help="overlap from which on boxes are duplicates (default: 0.6)")
    add("--match_metric", choices=["iou", "ios"], default="ios",
        help="overlap: intersection over union, or over the smaller box (default: ios)")  # fmt: skip


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the model."""
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="folder that ppdet-repro export wrote")
    text = "the folder contains inference.yml and inference.pdmodel, as for FastDeploy"
    add_switch(parser, "--use_fd_format", False, text)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what runs the model, and how."""
    engine = parser.add_argument_group("engine")
    add = engine.add_argument
    add("--engine", choices=ENGINES, default="paddle",
        help="onnxruntime, openvino and tensorrt (on a GPU) run an ONNX export, lite a Paddle-Lite export "
             "(default: paddle)")  # fmt: skip
    add("--device", type=str.lower, choices=DEVICES, default="cpu", help="device to run on (default: cpu)")
    rename = {"fluid": "paddle"}  # an old name
    add("--run_mode", type=lambda text: rename.get(text, text), choices=RUN_MODES, default="paddle",
        help="paddle, or TensorRT in a precision (default: paddle)")  # fmt: skip
    add("--cpu_threads", type=at_least_one, default=1, metavar="N", help="CPU threads (default: 1)")
    add_switch(engine, "--enable_mkldnn", True, "use oneDNN on the CPU (default: True)")
    add_switch(engine, "--enable_mkldnn_bfloat16", False, "convolutions in bfloat16 on the CPU; needs oneDNN")
    text = "compute a quantized model in int8 on the CPU; needs oneDNN (default: if the model is quantized)"
    add_switch(engine, "--enable_mkldnn_int8", None, text)
    for name, default, side in (("min", 1, "shortest"), ("max", 1280, "longest"), ("opt", 640, "most frequent")):
        add(f"--trt_{name}_shape", type=at_least_one, default=default, metavar="PIXELS",
            help=f"{side} side of an input of free size (default: {default})")  # fmt: skip
    add_switch(engine, "--trt_calib_mode", False, "let TensorRT calibrate int8 itself")
    add_switch(engine, "--collect_trt_shape_info", False, "run without TensorRT and write --tuned_trt_shape_file")
    text = "shape ranges for TensorRT; if the file does not exist, the first batch defines them (default: %(default)s)"
    add("--tuned_trt_shape_file", default="shape_range_info.pbtxt", metavar="FILE", help=text)
    add("--trt_cache_dir", metavar="DIR", help="cache of TensorRT's engines (default: ~/.cache/ppdet_repro/tensorrt)")
