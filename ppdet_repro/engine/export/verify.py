"""Comparison of an exported model with the detector that it was exported from, on the same images."""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.transform.preprocess import Inputs, from_list
from ppdet_repro.metrics.agreement import Agreement, agreement
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.runtime.lite_network import IsolatedLiteNetwork
from ppdet_repro.runtime.model_folder import ModelFolder, open_model_folder
from ppdet_repro.runtime.networks import Network, OnnxNetwork
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.runtime.suppress import open_suppress
from ppdet_repro.runtime.trial import try_out
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

Stage = Literal["raw", "decoded", "final"]  # final boxes and their number, decoded boxes and scores, or raw outputs
ENGINES: Dict[str, Tuple[str, Callable[[Path], Network]]] = {  # target -> what runs it here
    "paddle": ("paddle", PaddleNetwork),
    "onnx": ("onnxruntime", OnnxNetwork),
    "lite": ("lite", IsolatedLiteNetwork),
}


class Tolerance(NamedTuple):
    """The allowed differences between an exported model and the detector."""

    box: float  # of the corners of matched boxes, in pixels
    score: float  # of the scores of matched boxes
    output: float  # of raw outputs, relative to their largest value
    unmatched: float = 0.0  # the share of boxes without a match


EXACT = Tolerance(0.05, 1e-4, 1e-3)
TOLERANCES = {
    ("paddle", "fp32"): Tolerance(1e-3, 1e-5, 1e-3),
    ("onnx", "fp32"): EXACT,
    # FP16 rounds to 11 bits, 0.05 %: after a hundred layers an output is off by up to 1 % of its size, a side by a
    # pixel or two, and a score near the threshold may cross it
    ("onnx", "fp16"): Tolerance(2.0, 0.02, 0.02, unmatched=0.02),
    ("lite", "fp32"): EXACT,
    ("lite", "fp16"): EXACT,  # its x86 file is fp32
    ("lite", "int16"): Tolerance(1.0, 1e-2, 1e-2, unmatched=0.05),
    ("lite", "int8"): Tolerance(16.0, 0.2, 0.2, unmatched=0.25),
}


class Verified(NamedTuple):
    """The differences between an exported model and the detector on all images."""

    images: int  # the number of images that were compared
    outputs: Dict[str, float]  # the largest difference of each output by name
    final: Optional[Agreement]  # of the final boxes; None if the exported model does not decode boxes

    def table(self) -> str:
        """The figures as text."""
        rows: List[List[Any]] = [[f"output {name}", f"{value:.2g}"] for name, value in self.outputs.items()]
        if self.final is not None:
            rows += [
                ["final boxes", str(self.final.rows)],
                ["  without match", str(self.final.unmatched)],
                ["  corners, pixels", f"{self.final.box:.2g}"],
                ["  scores", f"{self.final.score:.2g}"],
            ]
        return text_table([f"largest difference on {self.images} images", ""], rows)


def choose_files(cfg: Config, count: int, folder: Optional[str]) -> List[str]:
    """The first `count` images of the folder, or of EvalDataset without one. UserError if there are fewer."""
    files = find_images(folder) if folder else list(build(cfg, "EvalDataset").table.files)
    if len(files) < count:
        found = f"{folder or 'EvalDataset'} has {len(files)} images"
        raise UserError(f"--verify {count}: {found}; verify fewer, or give --verify_images")
    return files[:count]


def verify(
    detector: Detector,
    folder: Path,
    target: str,
    precision: str,
    eager_inputs: Callable[[Union[str, np.ndarray]], Inputs],
    files: Sequence[Union[str, np.ndarray]],
) -> Verified:
    """Run an exported model and the detector on images and compare their outputs. UserError if a difference exceeds the
    tolerance of the target and the precision.

    The detector computes its raw outputs in double precision. In single precision, its rounding alone can move a box
    by 0.001 pixels on a photograph of 640 pixels, twice as much as that of the exported model.

    Args:
        detector: The detector, in eval mode.
        folder: The exported model; its infer_cfg.yml defines its preprocessing.
        target, precision: As for `export_model`.
        eager_inputs: Prepares an image for the detector.
        files: Paths of images, or RGB images [H, W, 3].
    """
    engine, open_network = ENGINES[target]
    model = open_model_folder(folder, engine=engine)
    if not model.checked and target != "lite":  # which runs in a process of its own in any case
        try_out(model, Namespace(engine=engine))
    network, tolerance = open_network(model.network_file), TOLERANCES[target, precision]
    preprocess = from_list(model.preprocess)
    settings = detector.post_process.suppress.settings
    lowest = max(settings.get(name, 0.0) for name in ("score_threshold", "post_threshold", "score_thresh"))
    exact = in_double_precision(detector)
    outputs: Dict[str, float] = {}
    agreements: List[Agreement] = []
    for file in files:
        exported = network.run(preprocess([file])._asdict())
        eager = run_eager(detector, exact, eager_inputs(file)._asdict())
        for name, difference in output_differences(exported, eager).items():
            outputs[name] = max(outputs.get(name, 0.0), difference)
        found = final_rows(exported, model)
        if found is not None:
            expected = rows_of_image(*eager["final"])
            agreements.append(agreement(expected, found, tolerance.score, tolerance.box, lowest))
    final = None
    if agreements:
        rows, unmatched, scores, boxes = zip(*agreements)
        final = Agreement(sum(rows), sum(unmatched), max(scores), max(boxes))
    result = Verified(len(files), outputs, final)
    check_tolerance(result, tolerance, target, precision)
    return result


def check_tolerance(result: Verified, tolerance: Tolerance, target: str, precision: str) -> None:
    """UserError if a difference is too large."""
    problem, final = f"the {target} export in {precision} does not agree with the eager model", result.final
    if final is not None:
        if final.unmatched > tolerance.unmatched * final.rows:
            unmatched = f"{final.unmatched} boxes, out of {final.rows} on {result.images} images, have no match within"
            raise UserError(
                f"{problem}: {unmatched} {tolerance.box} pixels and {tolerance.score} of score; nothing was exported"
            )
        return
    for name, difference in result.outputs.items():
        if difference > tolerance.output:
            wrong = f"its output {name} differs by {difference:.2g} of its largest value (allowed: {tolerance.output})"
            raise UserError(f"{problem}: {wrong}; nothing was exported")


def in_double_precision(detector: Detector) -> Detector:
    """A copy of a detector for `raw_in_double_precision`."""
    return copy.deepcopy(detector).to(dtype="float64")


@paddle.no_grad()
def raw_in_double_precision(exact: Detector, image: paddle.Tensor) -> Any:
    """The raw outputs of a detector that is in double precision, for images in float32."""
    default = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    try:
        return exact.raw(image.astype("float64"))
    finally:
        paddle.set_default_dtype(default)


@paddle.no_grad()
def run_eager(detector: Detector, exact: Detector, inputs: Mapping[str, np.ndarray]) -> Dict[Stage, List[np.ndarray]]:
    """The outputs of a detector at each stage. `exact` is its copy in double precision."""
    image, im_shape, scale_factor = (paddle.to_tensor(inputs[name]) for name in ("image", "im_shape", "scale_factor"))
    raw = raw_in_double_precision(exact, image)
    raw = paddle.utils.map_structure(lambda output: output.astype("float32"), raw)
    boxes, scores = detector.decode(raw, im_shape, scale_factor)
    found = detector.suppress(boxes, scores)
    return {
        "raw": [output.numpy() for output in paddle.utils.flatten(raw)],
        "decoded": [boxes.numpy(), scores.numpy()],
        "final": [found.bbox.numpy(), found.bbox_num.numpy()],
    }


def stage_of(outputs: Sequence[np.ndarray]) -> Stage:
    """The stage at which an exported model with these outputs ends."""
    if len(outputs) == 2 and outputs[1].dtype.kind == "i" and outputs[0].shape[-1] == 6:
        return "final"
    if len(outputs) == 2 and [output.ndim for output in outputs] == [3, 3]:
        return "decoded" if outputs[0].shape[1:] == (outputs[1].shape[2], 4) else "raw"
    return "raw"


def output_differences(exported: Sequence[np.ndarray], eager: Mapping[Stage, Sequence[np.ndarray]]) -> Dict[str, float]:
    """The largest difference of each output by name; empty for final boxes.

    Decoded boxes (in pixels) and scores are compared as sets, each column by itself, because candidates with nearly
    equal scores may change places. Differences of raw outputs are relative to the largest value.
    """
    stage = stage_of(exported)
    if stage == "final":
        return {}
    if stage == "decoded":
        (boxes, scores), (own_boxes, own_scores) = exported, eager["decoded"]
        return {
            "boxes": largest(np.sort(own_boxes, axis=1), np.sort(boxes, axis=1)),
            "scores": largest(np.sort(own_scores, axis=2), np.sort(scores, axis=2)),
        }
    pairs = enumerate(zip(eager["raw"], exported))
    return {str(i): largest(own, given) / max(float(np.abs(own).max()), 1e-9) for i, (own, given) in pairs}


def largest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays; infinity if their sizes differ."""
    if one.size != other.size:
        return float("inf")
    return float(np.abs(one.astype(np.float64).ravel() - other.astype(np.float64).ravel()).max(initial=0.0))


def final_rows(exported: Sequence[np.ndarray], model: ModelFolder) -> Optional[np.ndarray]:
    """The final boxes [M, 6] of one image from an exported model's outputs; None if it does not decode boxes."""
    if stage_of(exported) == "final":
        return rows_of_image(*exported)
    if model.post_process is None:
        return None
    return open_suppress(model.post_process, str(model.config_file))(*(output[0] for output in exported))


def rows_of_image(bbox: np.ndarray, bbox_num: np.ndarray) -> np.ndarray:
    """The rows [M, 6] of a batch of one image, without filler."""
    ((_, rows),) = split_batch(np.zeros(1, np.int64), bbox, bbox_num)
    return rows
