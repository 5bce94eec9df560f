"""How well each family's boxes agree with the eager detector's, in each engine and precision that infer.py offers.

    PYTHONPATH=. python tests/precision_cells.py [FAMILY ...]   # computes what tests/precision_cells.json lacks
    PYTHONPATH=. python tests/precision_cells.py --render       # writes the table of docs/deploy_run.md from that file

The models are those of small_detectors. Delete the file to compute everything again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple, Union

import numpy as np
import paddle
from half_rounding import round_like_half
from small_detectors import SIDE, SMALL, small_config, taught_model
from tiny_yolof import write_images

from ppdet_repro.core.config import Config
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.infer_cfg import read_input
from ppdet_repro.engine.export.post_quantization import calibration_files
from ppdet_repro.metrics.agreement import found_again
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.runtime.engines import open_engine
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.paddle_options import installed_build
from ppdet_repro.slim.ptq import PTQ
from ppdet_repro.utils.cpu_env import has_vnni
from ppdet_repro.utils.errors import UserError

IMAGES = 4
OVERRIDES = {"fsaf": ["SAPDHead.levels=OneLevel", "SAPDHead.eta=0.0"]}  # which is FSAF
# If their batch norms do not normalize, MobileNet's activations grow from layer to layer, and every error with them;
# EfficientNet's vanish.
NORMALIZED = ("pafnet_lite", "bifpn")
# Decoding takes the exponential of numbers of size 1, see GROWTH. After 60 updates YOLOv3's are up to 5.
STEPS = {"yolov3": 12}
# After the few updates of a test, the ReLU behind the distances of SAPD, FSAF and BiFPN is 0, and boxes are points. So
# their last convolution gets weights, as a factor, and a bias with which boxes have 10 to 40 pixels.
DISTANCES = {"sapd": (0.25, 0.8), "fsaf": (0.25, 0.8), "bifpn": (0.25, 0.8)}
FAMILIES = [
    "yolof", "retinanet", "yolov3", "ppyolo", "ppyolov2", "pafnet", "pafnet_lite", "ttfnet", "sapd", "fsaf", "bifpn",
]  # fmt: skip
RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "deploy_run.md"
BEGIN, END = "<!-- written by tests/precision_cells.py -->\n", "<!-- until here -->\n"

# The largest error, relative to the value, of one rounding: half a unit in the last place of 24, 11 and 8 significant
# bits. float32's is multiplied by 32, the root of the 1000 products of a convolution that engines add in other orders;
# in the lower precisions, the products are added in float32. In int8, it is half a step of 127 up to the largest value
# of an activation, which is 4 times a typical one; the same holds for weights in int8 and int16.
FP32, FP16, BF16, INT8, INT16 = 32 * 2.0**-24, 2.0**-11, 2.0**-8, 4 / 254, 4 / 65534
# A network of 20 to 60 layers rounds activations and weights, which are at most 120 independent errors with a deviation
# of 0.4 of the largest. Decoding multiplies distances by a stride, which keeps the relative error, or takes the
# exponential of numbers of size 1, which makes it the relative error of a side.
GROWTH = 0.4 * 120**0.5


class Kind(NamedTuple):
    """An engine in a precision: what is exported for it, infer.py's flags, and what it may lose."""

    name: str
    target: str
    precision: str  # of the export; "ptq" is a model that `ppdet-repro quantize` writes
    flags: Tuple[str, ...]
    package: str
    rounding: float  # see above
    share: float = 1.0  # the least share of the best boxes that must be found again

    @property
    def limit(self) -> float:
        """The largest median of the distances of corners, relative to the larger side of a box."""
        return GROWTH * self.rounding


BFLOAT16 = "--enable_mkldnn_bfloat16"
SATURATE = ("Paddle int8", "OpenVINO int8")  # without VNNI, see has_vnni
EMULATED = "FP16, every value rounded"
EMULATED_BF16 = "bf16, convolutions rounded"
# Shares: a box is lost, or another kept, where two scores or a score and the threshold differ by less than their error.
KINDS = [
    Kind("Paddle fp32", "paddle", "fp32", (), "paddle", FP32),
    Kind("Paddle fp32, no oneDNN", "paddle", "fp32", ("--enable_mkldnn=False",), "paddle", FP32),
    Kind(EMULATED_BF16, "eager", "fp32", (), "paddle", BF16, 0.9),
    Kind("Paddle bf16", "paddle", "fp32", (BFLOAT16,), "paddle", BF16, 0.9),
    Kind("Paddle int8", "paddle", "ptq", (), "paddle", INT8, 0.7),
    Kind("Paddle int8, simulated", "paddle", "ptq", ("--enable_mkldnn_int8=False",), "paddle", INT8, 0.7),
    Kind("ONNX Runtime fp32", "onnx", "fp32", ("--engine=onnxruntime",), "onnxruntime", FP32),
    Kind("ONNX Runtime fp16", "onnx", "fp16", ("--engine=onnxruntime",), "onnxruntime", FP16, 0.98),
    Kind(EMULATED, "onnx", "fp16", ("--engine=onnxruntime",), "onnxruntime", FP16, 0.98),
    Kind("ONNX Runtime int8, simulated", "onnx", "ptq", ("--engine=onnxruntime",), "onnxruntime", INT8, 0.7),
    Kind("OpenVINO fp32", "onnx", "fp32", ("--engine=openvino",), "openvino", FP32),
    Kind("OpenVINO fp16", "onnx", "fp16", ("--engine=openvino",), "openvino", FP16, 0.98),
    Kind("OpenVINO int8", "onnx", "ptq", ("--engine=openvino",), "openvino", INT8, 0.7),
    Kind("Paddle-Lite fp32", "lite", "fp32", ("--engine=lite",), "paddlelite", FP32),
    Kind("Paddle-Lite int16 weights", "lite", "int16", ("--engine=lite",), "paddlelite", INT16, 0.98),
    Kind("Paddle-Lite int8 weights", "lite", "int8", ("--engine=lite",), "paddlelite", INT8, 0.7),
]


# The errors that a precision must have: those of the same roundings, computed in float32. An engine may have twice as
# much, because its roundings are others of the same size, and float32's.
REFERENCES = {
    "Paddle bf16": EMULATED_BF16,
    "ONNX Runtime fp16": EMULATED,
    "OpenVINO fp16": EMULATED,
    "Paddle int8": "Paddle int8, simulated",
    "ONNX Runtime int8, simulated": "Paddle int8, simulated",
    "OpenVINO int8": "Paddle int8, simulated",
}
TIMES, LOST = 2.0, 0.1  # the distance, and the share of boxes that may be lost in addition


class Cell(NamedTuple):
    """The agreement of the best boxes of all images."""

    again: int  # how many were found again, see `found_again`
    total: int
    distance: float  # the median of `distances`

    def failure(self, kind: Kind) -> str:
        """What exceeds the limits of its kind; empty if nothing does."""
        if self.total == 0 or self.again < kind.share * self.total:
            return f"{self.again} of {self.total} boxes"
        return f"{self.distance:.2g} is more than {kind.limit:.2g}" if self.distance > kind.limit else ""

    def excess(self, reference: Cell) -> str:
        """What is worse than with the same roundings in float32; empty if nothing is."""
        if self.again < reference.again - LOST * self.total:
            return f"{self.again} of {self.total} boxes, not {reference.again}"
        limit = TIMES * reference.distance + GROWTH * FP32
        return f"{self.distance:.2g} is more than {limit:.2g}" if self.distance > limit else ""


class Family:
    """A small detector, its exports, which are written when they are needed, and its boxes."""

    def __init__(self, name: str, folder: Path):
        data = folder / "data"
        if not data.is_dir():
            write_images(data)
        known = "sapd" if name == "fsaf" else name
        self.cfg: Config = small_config(known, data, *OVERRIDES.get(name, []))
        self.model = taught_model(self.cfg, STEPS.get(name, SMALL[known].steps), name in NORMALIZED)
        if name in DISTANCES:
            factor, bias = DISTANCES[name]
            last = self.model.head.distance_pred
            last.weight.set_value(last.weight * factor)
            last.bias.set_value(paddle.full_like(last.bias, bias))
        self.folder, self.files = folder / name, calibration_files(self.cfg, IMAGES, str(data))
        self.exports: Dict[Tuple[str, str], Union[Path, str]] = {}
        self.expected = [self.eager(file) for file in self.files]

    def inputs(self, file: str) -> Dict[str, np.ndarray]:
        return from_list(read_input(self.cfg).steps)([file])._asdict()

    @paddle.no_grad()
    def eager(self, file: str) -> np.ndarray:
        image, shape, scale = (paddle.to_tensor(value) for value in self.inputs(file).values())
        found = self.model.suppress(*self.model.decode(self.model.raw(image), shape, scale))
        return split_batch(np.zeros(1), found.bbox.numpy(), found.bbox_num.numpy())[0].rows

    @property
    def inside(self) -> float:
        """The share of the best boxes of which no side is that of the image."""
        boxes = np.concatenate([best(rows)[:, 2:] for rows in self.expected])
        height, width = self.inputs(self.files[0])["im_shape"][0] / self.inputs(self.files[0])["scale_factor"][0]
        limits = np.array([width, height, width, height])
        touches = (boxes <= 0.01) | (boxes >= limits - 1.01)
        return float(1 - touches.any(axis=1).mean())

    def export(self, target: str, precision: str) -> Union[Path, str]:
        """The export's folder, or the reason why it is not offered."""
        if (target, precision) not in self.exports:
            ptq: Callable[..., None] = lambda folder, read: PTQ().quantize(folder, self.files, read)  # noqa: E731
            settings: Dict[str, Any] = {"quantize": ptq} if precision == "ptq" else {"precision": precision}
            cfg, run = self.cfg, self.cfg.run
            if precision == "ptq":  # as `post_quant` does
                cfg = replace(cfg, run=replace(run, export=replace(run.export, fuse_conv_bn=True)))
            try:
                folder = export_model(self.model, cfg, self.folder / precision, target, **settings)
                self.exports[target, precision] = folder
            except UserError as error:
                self.exports[target, precision] = str(error)
        return self.exports[target, precision]

    def cell(self, kind: Kind) -> Union[Cell, str]:
        """The agreement in an engine and a precision, or the reason why infer.py does not offer it."""
        if find_spec(kind.package) is None:
            return f"{kind.package} is not installed"
        if kind.name == EMULATED_BF16:
            with rounded_convolutions(self.model):
                return self.agreement(self.eager)
        folder = self.export(kind.target, kind.precision)
        if isinstance(folder, str):
            return folder
        if kind.name == EMULATED:
            folder = shutil.copytree(folder, self.folder / "rounded")
            (folder / "manifest.json").unlink()
            round_like_half(folder / "model.onnx", folder / "model.onnx")
        flags = build_parser().parse_args([f"--model_dir={folder}", *kind.flags])
        try:
            engine = open_engine(open_model_folder(folder, engine=flags.engine), flags)
        except UserError as error:
            return str(error)
        return self.agreement(lambda file: split_batch(np.zeros(1), *engine.run(self.inputs(file)))[0].rows)

    def agreement(self, detect: Callable[[str], np.ndarray]) -> Cell:
        """The agreement of the boxes that a function finds in an image file."""
        counts, far = [], []
        for file, expected in zip(self.files, self.expected):
            found = detect(file)
            counts.append(found_again(expected, found))
            far += distances(expected, found)
        again, total = (sum(column) for column in zip(*counts))
        return Cell(again, total, float(np.median(far)))


@contextmanager
def rounded_convolutions(model: paddle.nn.Layer) -> Iterator[None]:
    """Round the weights and the inputs of a model's convolutions to bfloat16."""
    convolutions = [layer for layer in model.sublayers() if isinstance(layer, paddle.nn.Conv2D)]
    exact = [layer.weight.numpy() for layer in convolutions]
    for layer, weight in zip(convolutions, exact):
        layer.weight.set_value(to_bfloat16(weight))
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: (paddle.to_tensor(to_bfloat16(inputs[0].numpy())),))
        for layer in convolutions
    ]
    yield
    for hook, layer, weight in zip(hooks, convolutions, exact):
        hook.remove()
        layer.weight.set_value(weight)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 values to 8 significant bits, halves to the even neighbor."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def best(rows: np.ndarray) -> np.ndarray:
    """The detections [M, 6] with at least half of the highest score."""
    return rows[rows[:, 1] >= 0.5 * rows[:, 1].max(initial=0.0)]


def distances(expected: np.ndarray, found: np.ndarray) -> List[float]:
    """The largest distance of a corner's coordinate of each of the best boxes from the nearest box of its class that is
    found, relative to the larger side of the box, or to 4 pixels, which is the smallest stride. At most 1."""
    result = []
    for row in best(expected):
        far = np.abs(found[found[:, 0] == row[0], 2:] - row[2:]).max(axis=1).min(initial=SIDE)
        result.append(min(1.0, float(far / max(4.0, *(row[4:] - row[2:4])))))
    return result


def unfit(kind: Kind) -> str:
    """Why this processor cannot compute a precision as infer.py offers it on others; empty if it can."""
    if BFLOAT16 in kind.flags and not installed_build().bfloat16:
        return "the CPU has no AVX-512"
    return "the CPU has no VNNI: int8 saturates" if kind.name in SATURATE and not has_vnni() else ""


def compute(names: List[str]) -> None:
    """Compute the cells of these families that are not in the file of results yet; each is added to it at once."""
    results: Dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            known = results.setdefault(name, {"paddle": paddle.__version__, "cells": {}})
            if len(known["cells"]) == len(KINDS):
                continue
            family = Family(name, Path(folder))
            known["inside"] = round(family.inside, 3)
            for kind in KINDS:
                if kind.name in known["cells"]:
                    continue
                if reason := unfit(kind):
                    print(f"{name} {kind.name}: left for another machine, {reason}", flush=True)
                    continue
                cell = family.cell(kind)
                known["cells"][kind.name] = cell.replace(folder, "") if isinstance(cell, str) else list(cell)
                failure = "" if isinstance(cell, str) else cell.failure(kind)
                print(name, kind.name, cell, failure and f"FAILS: {failure}", flush=True)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def table(results: Dict[str, Any]) -> str:
    """The Markdown table of the results."""
    names = [name for name in FAMILIES if name in results]
    lines = [["", *names], ["---"] * (len(names) + 1)]
    for kind in KINDS:
        cells = [results[name]["cells"].get(kind.name) for name in names]
        texts = [
            "not run" if c is None else "not offered" if isinstance(c, str) else f"{c[0]}/{c[1]}, {c[2]:.1g}"
            for c in cells
        ]
        lines.append([f"{kind.name} ({kind.share:.0%}, {kind.limit:.1g})", *texts])
    lines.append(["boxes inside the image", *(f"{results[name]['inside']:.0%}" for name in names)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rendered(page: str, results: Dict[str, Any]) -> str:
    """The page with the table between its marks."""
    return between(page, BEGIN, table(results), END)


def between(page: str, begin: str, text: str, end: str) -> str:
    """The page with this text between two marks."""
    before, rest = page.split(begin)
    return f"{before}{begin}{text}{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--render"]:
        PAGE.write_text(rendered(PAGE.read_text("utf-8"), json.loads(RESULTS.read_text("utf-8"))), encoding="utf-8")
    else:
        compute(sys.argv[1:] or FAMILIES)
