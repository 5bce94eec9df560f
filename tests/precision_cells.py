"""How well each family's boxes agree with the eager detector's, in each engine and precision that infer.py offers.

`python tests/precision_cells.py` prints the table of docs/deploy_run.md. The models are those of small_detectors.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple, Union

import numpy as np
import paddle
from small_detectors import SMALL, small_config, taught_model
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
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

IMAGES = 4
OVERRIDES = {"fsaf": ["SAPDHead.levels=OneLevel", "SAPDHead.eta=0.0"]}  # which is FSAF
FAMILIES = ["yolof", "ppyolo", "ppyolov2", "pafnet", "pafnet_lite", "ttfnet", "retinanet", "fsaf", "sapd", "bifpn"]


class Kind(NamedTuple):
    """An engine in a precision: what is exported for it, infer.py's flags, and what it may lose."""

    name: str
    target: str
    precision: str  # of the export; "ptq" is a model that `ppdet-repro quantize` writes
    flags: Tuple[str, ...]
    package: str
    pixels: float  # the largest allowed mean distance of corners, for images of 64 x 64 pixels
    share: float = 1.0  # the least share of the best boxes that must be found again


BF16 = "--enable_mkldnn_bfloat16"
# Half a unit of the last place is 2^-9 of a number in bfloat16 and 2^-12 in FP16, and grows through the layers. The
# limits below float32 are up to twice what was seen for the worst family: they find gross faults, as a lost factor is.
KINDS = [
    Kind("Paddle fp32", "paddle", "fp32", (), "paddle", 1e-3),
    Kind("Paddle fp32, no oneDNN", "paddle", "fp32", ("--enable_mkldnn=False",), "paddle", 1e-3),
    # 0.85: the small PAFNet-lite has a level heat map, and rounding decides which of two neighbors is its peak
    Kind("Paddle bf16", "paddle", "fp32", (BF16,), "paddle", 2.0, 0.85),
    Kind("Paddle int8", "paddle", "ptq", (), "paddle", 4.0, 0.7),
    Kind("Paddle int8, simulated", "paddle", "ptq", ("--enable_mkldnn_int8=False",), "paddle", 4.0, 0.7),
    Kind("ONNX Runtime fp32", "onnx", "fp32", ("--engine=onnxruntime",), "onnxruntime", 1e-3),
    Kind("ONNX Runtime fp16", "onnx", "fp16", ("--engine=onnxruntime",), "onnxruntime", 1.0, 0.98),
    Kind("ONNX Runtime int8, simulated", "onnx", "ptq", ("--engine=onnxruntime",), "onnxruntime", 4.0, 0.7),
    Kind("OpenVINO fp32", "onnx", "fp32", ("--engine=openvino",), "openvino", 1e-3),
    Kind("OpenVINO fp16", "onnx", "fp16", ("--engine=openvino",), "openvino", 1.0, 0.98),
    Kind("OpenVINO int8", "onnx", "ptq", ("--engine=openvino",), "openvino", 4.0, 0.7),
    Kind("Paddle-Lite fp32", "lite", "fp32", ("--engine=lite",), "paddlelite", 1e-3),
    Kind("Paddle-Lite int16 weights", "lite", "int16", ("--engine=lite",), "paddlelite", 0.1, 0.98),
    Kind("Paddle-Lite int8 weights", "lite", "int8", ("--engine=lite",), "paddlelite", 4.0, 0.7),
]


class Cell(NamedTuple):
    """The agreement of the best boxes of all images."""

    again: int  # how many were found again, see `found_again`
    total: int
    pixels: float  # the mean distance of the corners of a box from the nearest box of its class

    def __str__(self) -> str:
        return f"{self.again}/{self.total}, {self.pixels:.2g} px"


class Family:
    """A small detector, its exports, which are written when they are needed, and its boxes."""

    def __init__(self, name: str, folder: Path):
        data = folder / "data"
        if not data.is_dir():
            write_images(data)
        known = "sapd" if name == "fsaf" else name
        self.cfg: Config = small_config(known, data, *OVERRIDES.get(name, []))
        self.model = taught_model(self.cfg, SMALL[known].steps)
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

    def export(self, target: str, precision: str) -> Union[Path, str]:
        """The export's folder, or the reason why it is not offered."""
        if (target, precision) not in self.exports:
            ptq: Callable[..., None] = lambda folder, read: PTQ().quantize(folder, self.files, read)  # noqa: E731
            settings = {"quantize": ptq} if precision == "ptq" else {"precision": precision}
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
        if BF16 in kind.flags and not installed_build().bfloat16:
            return "the CPU has no AVX-512"
        folder = self.export(kind.target, kind.precision)
        if isinstance(folder, str):
            return folder
        flags = build_parser().parse_args([f"--model_dir={folder}", *kind.flags])
        try:
            engine = open_engine(open_model_folder(folder, engine=flags.engine), flags)
        except UserError as error:
            return str(error)
        counts, distances = [], []
        for file, expected in zip(self.files, self.expected):
            found = split_batch(np.zeros(1), *engine.run(self.inputs(file)))[0].rows
            counts.append(found_again(expected, found))
            distances += nearest(expected, found)
        again, total = (sum(column) for column in zip(*counts))
        return Cell(again, total, float(np.mean(distances)))


def nearest(expected: np.ndarray, found: np.ndarray) -> List[float]:
    """The largest distance of a corner's coordinate of each of the best boxes from the nearest box of its class that is
    found, at most 64 pixels."""
    best = expected[expected[:, 1] >= 0.5 * expected[:, 1].max(initial=0.0)]
    return [float(np.abs(found[found[:, 0] == row[0], 2:] - row[2:]).max(axis=1).min(initial=64.0)) for row in best]


def main() -> None:
    names = sys.argv[1:] or FAMILIES
    remarks: Dict[str, int] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        for name in names:
            family = Family(name, Path(folder))
            cells = [family.cell(kind) for kind in KINDS]
            texts = [cell if isinstance(cell, str) else "" for cell in cells]
            for text in filter(None, texts):
                remarks.setdefault(text.replace(str(folder), ""), len(remarks) + 1)
            rows.append([str(c) if isinstance(c, Cell) else "not offered" for c in cells])
            print(name, *map(str, cells), sep="\n  ", file=sys.stderr, flush=True)
    print(text_table(["", *names], [[kind.name, *column] for kind, column in zip(KINDS, zip(*rows))]))
    print(*remarks, sep="\n")


if __name__ == "__main__":
    main()
