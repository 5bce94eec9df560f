"""The AP of each family's ONNX files in float32 and in FP16, with trained weights.

    PYTHONPATH=. python tests/trained_fp16.py [FAMILY ...]   # computes what tests/trained_fp16.json lacks
    PYTHONPATH=. python tests/trained_fp16.py --render       # writes the table of docs/deploy_run.md from that file

The models are those of small_detectors, all of whose weights are trained on 200 pictures of 64 x 64 pixels. The AP is
measured on the same pictures; with fewer, two boxes that change places in the order of scores move it by more than the
limit. Delete the file to compute everything again.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

import paddle
from half_rounding import round_like_half
from precision_cells import FAMILIES, OVERRIDES, PAGE, between
from small_detectors import small_config, small_model
from tiny_yolof import write_images

from ppdet_repro.core.config import Config, build
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.training.cpu_kernels import choose_kernels
from ppdet_repro.metrics.coco import evaluate_coco
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.modeling.architectures.feature_maps import use_tensors
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.sources import coco_images

IMAGES, EPOCHS, RATE = 200, 20, 2e-3
MORE_EPOCHS = {"yolov3": 60, "pafnet_lite": 40}  # MobileNet learns slowly
SMALLER_RATES = {"sapd": 5e-4, "fsaf": 5e-4, "bifpn": 5e-4}  # with 2e-3, the ReLU behind SAPD's distances is soon 0
RESULTS = Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- written by tests/trained_fp16.py -->\n", "<!-- until here, too -->\n"
LIMIT = 0.002  # of the difference
KINDS = ("fp32", "fp16", "rounded")


def trained(cfg: Config, epochs: int, highest_rate: float) -> paddle.nn.Layer:
    """The config's model after training, in eval mode."""
    paddle.seed(0)
    model = small_model(cfg)
    dataset, reader = build(cfg, "TrainDataset"), build(cfg, "TrainReader")
    dataset.load()
    rate = paddle.optimizer.lr.CosineAnnealingDecay(highest_rate, epochs)
    clip = paddle.nn.ClipGradByGlobalNorm(10.0)
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters(), grad_clip=clip)
    choose_kernels(model, cfg, World(rank=0, size=1, gpu=False))
    model.train()
    for epoch in range(epochs):
        for batch in reader.batches(dataset, epoch=epoch, epochs_total=epochs, seed=0, workers=0):
            model(batch)["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()
        rate.step()
    use_tensors(model)
    model.eval()
    return model


def average_precision(folder: Path, data: Path) -> float:
    """The AP of an ONNX export in ONNX Runtime on the pictures of `data`."""
    flags = build_parser().parse_args([f"--model_dir={folder}", "--engine=onnxruntime"])
    model = open_model_folder(folder, engine="onnxruntime")
    pipeline = open_pipeline(model, flags)
    truth = json.loads((data / "truth.json").read_text("utf-8"))
    images = coco_images(str(data / "truth.json"), str(data / "images"), 2)
    found = [next(iter(pipeline.stream([[file]])))[0].rows for file in images.files]
    rows = coco_rows([ImageDetections(*pair) for pair in zip(images.ids, found)], images.category_ids)
    return evaluate_coco(truth, rows, images.ids).summary["bbox_mAP"]


def measure(name: str, folder: Path) -> Dict[str, float]:
    """The AP of a family in each of `KINDS`."""
    data = write_images(folder / "data", IMAGES)
    cfg = small_config("sapd" if name == "fsaf" else name, data, *OVERRIDES.get(name, []))
    model = trained(cfg, MORE_EPOCHS.get(name, EPOCHS), SMALLER_RATES.get(name, RATE))
    exports = {kind: export_model(model, cfg, folder / kind, "onnx", kind) for kind in ("fp32", "fp16")}
    exports["rounded"] = shutil.copytree(exports["fp16"], folder / "rounded")
    (exports["rounded"] / "manifest.json").unlink()
    round_like_half(exports["rounded"] / "model.onnx", exports["rounded"] / "model.onnx")
    return {kind: round(average_precision(exports[kind], data), 4) for kind in KINDS}


def compute(names: Any) -> None:
    """Add the families that `RESULTS` lacks."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for name in names:
        if name not in results:
            with tempfile.TemporaryDirectory() as folder:
                results[name] = measure(name, Path(folder))
            print(name, results[name], flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def table(results: Dict[str, Dict[str, float]]) -> str:
    """The Markdown table of the results."""
    lines = [["AP", "FP32", "FP16", "FP16, every value rounded"], ["---"] * 4]
    lines += [[name, *(f"{results[name][kind]:.4f}" for kind in KINDS)] for name in FAMILIES if name in results]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rendered(page: str, results: Dict[str, Dict[str, float]]) -> str:
    """The page with the table between its marks."""
    return between(page, BEGIN, table(results), END)


if __name__ == "__main__":
    if sys.argv[1:] == ["--render"]:
        PAGE.write_text(rendered(PAGE.read_text("utf-8"), json.loads(RESULTS.read_text("utf-8"))), encoding="utf-8")
    else:
        compute(sys.argv[1:] or FAMILIES)
