"""The models to measure, with the speeds that their papers report, and the engines, with their requirements."""

from __future__ import annotations

from typing import Collection, Dict, List, NamedTuple, Optional

from ppdet_repro.runtime.paddle_options import Build


class Model(NamedTuple):
    """A config, and the speed that the paper reports for the model."""

    config: str
    paper: str = ""


LITE = Model("ttfnet/pafnet_lite_mobilenet_v3_20x_coco", "26.00 ms, 4 cores of a Kirin 990 (PAFNet, table 2)")
SMALL = [
    Model("yolof/yolof_r18vd_bccd"),
    Model("ppyolo/ppyolov2_r18vd_256_synthetic"),
    Model("ttfnet/pafnet_r18vd_224_synthetic"),
    Model("sapd/sapd_r18vd_256_synthetic"),
    LITE,
]
FULL = [
    Model("yolof/yolof_r50_c5_1x_coco", "32 FPS, 2080Ti, 800 px (YOLOF, table 1)"),
    Model("ppyolo/ppyolov2_r50vd_dcn_365e_coco", "14.5 ms, V100, without decoding and NMS (PP-YOLOv2, table 1)"),
    Model("ttfnet/pafnet_10x_coco", "14.89 ms, V100 (PAFNet, table 1)"),
    LITE,
    Model("sapd/sapd_r50_1x_coco", "14.9 FPS, 1080Ti (SAPD, table 6, trained longer)"),
]
SETS: Dict[str, List[Model]] = {"small": SMALL, "full": FULL}


class Engine(NamedTuple):
    """An engine in one precision, and its requirements."""

    name: str
    precision: str
    flags: Dict[str, object]  # for infer.py
    gpu: bool = False
    tensorrt: bool = False
    quantized: bool = False  # whether the model must be quantized
    target: str = "paddle"  # for which the model must be exported
    package: str = "paddle"  # the Python package that contains the engine

    def why_not(self, build: Build, packages: Collection[str], quantized: bool, batch_size: int = 1) -> Optional[str]:
        """The reason why it cannot run a model on this machine, with these packages; None if it can."""
        reasons = {
            "no GPU": self.gpu and "gpu" not in build.devices,
            "this Paddle has no TensorRT": self.tensorrt and not build.tensorrt,
            f"{self.package} is not installed": self.package not in packages,
            "Paddle-Lite's models take one image per batch": self.target == "lite" and batch_size > 1,
            "the CPU has no AVX-512": self.precision == "bf16" and not build.bfloat16,
            "the model is not quantized": self.quantized and not quantized,
            "the model is quantized": quantized and not self.quantized,
        }
        return next((reason for reason, applies in reasons.items() if applies), None)


ENGINES = [
    Engine("Paddle, oneDNN", "fp32", {}),  # the others are compared with the first one that runs
    Engine("Paddle, oneDNN", "bf16", {"enable_mkldnn_bfloat16": True}),
    Engine("Paddle, oneDNN", "int8", {}, quantized=True),
    Engine("Paddle, no oneDNN", "fp32", {"enable_mkldnn": False}),
    Engine("ONNX Runtime", "fp32", {"engine": "onnxruntime"}, target="onnx", package="onnxruntime"),
    Engine("OpenVINO", "fp32", {"engine": "openvino"}, target="onnx", package="openvino"),
    Engine("Paddle-Lite, x86", "fp32", {"engine": "lite"}, target="lite", package="paddlelite"),
    Engine(
        "ONNX Runtime",
        "int8, simulated",
        {"engine": "onnxruntime"},
        target="onnx",
        package="onnxruntime",
        quantized=True,
    ),
    Engine("OpenVINO", "int8", {"engine": "openvino"}, target="onnx", package="openvino", quantized=True),
    Engine("Paddle-Lite, x86", "int8", {"engine": "lite"}, target="lite", package="paddlelite", quantized=True),
    Engine("Paddle, CUDA", "fp32", {"device": "gpu"}, gpu=True),
    Engine("TensorRT", "fp32", {"device": "gpu", "run_mode": "trt_fp32"}, gpu=True, tensorrt=True),
    Engine("TensorRT", "fp16", {"device": "gpu", "run_mode": "trt_fp16"}, gpu=True, tensorrt=True),
    Engine("TensorRT", "int8", {"device": "gpu", "run_mode": "trt_int8"}, gpu=True, tensorrt=True, quantized=True),
]
