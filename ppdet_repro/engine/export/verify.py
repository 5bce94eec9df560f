"""Does an exported model do what the eager one does? Both see the same images, and the differences are told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
import yaml
from paddle import inference

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.metrics.agreement import agreement
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.runtime.lite_process import LiteProcess
from ppdet_repro.runtime.networks import FILES, INT8_OPERATORS, Network, OnnxNetwork
from ppdet_repro.runtime.suppress import open_suppress, suppress_batch
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table


class Tolerance(NamedTuple):
    """How far an export may be from the eager model: boxes in pixels, scores, outputs without boxes relative to their
    largest value, and the share of boxes that may lack a partner."""

    box: float
    score: float
    output: float
    unmatched: float = 0.0


EXACT = Tolerance(0.05, 1e-4, 1e-3)
TOLERANCES = {
    ("paddle", "fp32"): Tolerance(1e-3, 1e-5, 1e-3),
    ("onnx", "fp32"): EXACT,
    ("lite", "fp32"): EXACT,
    ("lite", "fp16"): EXACT,  # its x86 file is fp32
    ("lite", "int16"): Tolerance(1.0, 1e-2, 1e-2, unmatched=0.05),
    ("lite", "int8"): Tolerance(16.0, 0.2, 0.2, unmatched=0.25),
}


class Verified(NamedTuple):
    """What was compared: the largest difference of each output by name; the number of boxes, those without a partner,
    and the largest differences of scores and corners (None where the export ends before boxes)."""

    images: int
    outputs: Dict[str, float]
    boxes: Optional[int]
    unmatched: int
    score: float
    box: float

    def table(self) -> str:
        """The figures as text."""
        rows: List[List[Any]] = [[f"output {name}", f"{value:.2g}"] for name, value in self.outputs.items()]
        if self.boxes is not None:
            rows += [
                ["final boxes", str(self.boxes)],
                ["  without partner", str(self.unmatched)],
                ["  corners, pixels", f"{self.box:.2g}"],
                ["  scores", f"{self.score:.2g}"],
            ]
        return text_table([f"largest difference on {self.images} images", ""], rows)


class PaddleNetwork:
    """A Paddle inference model, or a quantised one (`int8`), on the CPU, as deploy/python/infer.py runs it."""

    def __init__(self, folder: Path, int8: bool = False):
        config = inference.Config(str(folder / "model.pdmodel"), str(folder / "model.pdiparams"))
        config.disable_gpu()
        config.disable_glog_info()
        if int8:
            config.enable_mkldnn()
            config.enable_mkldnn_int8(INT8_OPERATORS)
        self.predictor = inference.create_predictor(config)

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        for name in self.predictor.get_input_names():
            self.predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
        self.predictor.run()
        return [self.predictor.get_output_handle(name).copy_to_cpu() for name in self.predictor.get_output_names()]


def open_network(folder: Path, target: str) -> Network:
    """The exported file of a folder; of a Paddle-Lite export that for x86."""
    if target == "paddle":
        return PaddleNetwork(folder)
    return OnnxNetwork(folder / FILES["onnxruntime"]) if target == "onnx" else LiteProcess(folder / FILES["lite"])


def choose_files(cfg: Config, count: int, folder: Optional[str]) -> List[str]:
    """`count` images of the folder, or of EvalDataset. UserError if there are fewer."""
    files = find_images(folder) if folder else list(build(cfg, "EvalDataset").table.files)
    if len(files) < count:
        where = folder or "EvalDataset"
        raise UserError(f"--verify {count}: {where} has {len(files)} images; verify fewer, or give --verify_images")
    return files[:count]


def verify(
    detector: Detector,
    folder: Path,
    target: str,
    precision: str,
    eager_steps: Sequence[Dict[str, Any]],
    files: Sequence[Union[str, np.ndarray]],
) -> Verified:
    """Run the exported file in `folder` and the detector on the images and compare.

    The detector's network computes in double precision: on a photograph of 640 pixels its rounding in single precision,
    twice that of the exported file, alone can move a box by 0.001 pixels.

    `eager_steps`: the preprocessing with the normalisation in it; the exported file's is in its infer_cfg.yml.
    UserError if any difference is larger than the target's tolerance.
    """
    content = yaml.safe_load((folder / "infer_cfg.yml").read_text(encoding="utf-8"))
    network = open_network(folder, target)
    tolerance = TOLERANCES[target, precision]
    differences: Dict[str, float] = {}
    rows, unmatched, score, box = 0, 0, 0.0, 0.0
    has_boxes = False
    exact = in_double(detector)
    for file in files:
        inputs = from_list(content["Preprocess"])([file])._asdict()
        eager_inputs = from_list(eager_steps)([file])._asdict()
        exported, eager, expected = run_both(detector, exact, network, inputs, eager_inputs)
        for name, difference in output_differences(exported, eager).items():
            differences[name] = max(differences.get(name, 0.0), difference)
        found = final_boxes(exported, content.get("PostProcess"), folder)
        if found is None:
            continue
        has_boxes = True
        lowest = lowest_score(detector)
        one = agreement(expected, found, tolerance.score, tolerance.box, lowest)
        rows, unmatched = rows + one.rows, unmatched + one.unmatched
        score, box = max(score, one.score), max(box, one.box)
    result = Verified(len(files), differences, rows if has_boxes else None, unmatched, score, box)
    complain(result, tolerance, target, precision)
    return result


def complain(result: Verified, tolerance: Tolerance, target: str, precision: str) -> None:
    """UserError if the differences are too large."""
    if result.boxes is not None:
        if result.unmatched > tolerance.unmatched * result.boxes:
            raise UserError(
                f"the {target} export in {precision} does not agree with the eager model: {result.unmatched} boxes "
                f"beside {result.boxes} have no partner within {tolerance.box} pixels and {tolerance.score} of score "
                f"on {result.images} images; nothing was exported"
            )
        return
    for name, difference in result.outputs.items():
        if difference > tolerance.output:
            raise UserError(
                f"the {target} export in {precision} does not agree with the eager model: its output {name} differs by "
                f"{difference:.2g} of its largest value (allowed: {tolerance.output}); nothing was exported"
            )


def in_double(detector: Detector) -> Detector:
    """A copy that computes its raw outputs in double precision."""
    exact = copy.deepcopy(detector)
    exact.eval()
    return exact.astype("float64")


def raw_outputs(exact: Detector, image: paddle.Tensor) -> Any:
    """The raw outputs of a detector `in_double`, computed so and then rounded."""
    default = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    try:
        raw = exact.raw(image.astype("float64"))
    finally:
        paddle.set_default_dtype(default)
    return paddle.utils.map_structure(lambda output: output.astype("float32"), raw)


def run_both(
    detector: Detector,
    exact: Detector,
    network: Network,
    inputs: Mapping[str, np.ndarray],
    eager_inputs: Mapping[str, np.ndarray],
) -> Tuple[List[np.ndarray], Dict[str, List[np.ndarray]], np.ndarray]:
    """The export's outputs, the eager model's at each stage (raw, decoded, final), and its final rows [M, 6].
    `exact` is the detector `in_double`."""
    image, im_shape, scale_factor = (
        paddle.to_tensor(eager_inputs[name]) for name in ("image", "im_shape", "scale_factor")
    )
    with paddle.no_grad():
        raw = raw_outputs(exact, image)
        boxes, scores = detector.decode(raw, im_shape, scale_factor)
        found = detector.suppress(boxes, scores)
    bbox, bbox_num = found.bbox.numpy(), found.bbox_num.numpy()
    eager = {
        "raw": [output.numpy() for output in paddle.utils.flatten(raw)],
        "decoded": [boxes.numpy(), scores.numpy()],
        "final": [bbox, bbox_num],
    }
    ((_, rows),) = split_batch([0], bbox, bbox_num)
    return network.run(inputs), eager, rows


def kind_of(outputs: Sequence[np.ndarray]) -> str:
    """Which stage a model's outputs are: final boxes and their number, decoded boxes and scores, or raw."""
    if len(outputs) == 2 and outputs[1].dtype.kind == "i" and outputs[0].shape[-1] == 6:
        return "final"
    if len(outputs) == 2 and [output.ndim for output in outputs] == [3, 3]:
        (_, boxes, width), (_, _, scored) = (output.shape for output in outputs)
        if width == 4 and boxes == scored:
            return "decoded"
    return "raw"


def output_differences(exported: Sequence[np.ndarray], eager: Mapping[str, Sequence[np.ndarray]]) -> Dict[str, float]:
    """The largest difference of each output. Decoded boxes (pixels) and scores count as sets, each column by itself,
    because candidates of nearly equal score may change places; raw outputs relative to their largest value."""
    kind = kind_of(exported)
    if kind == "final":
        return {}  # they are what the boxes say
    if kind == "decoded":
        (boxes, scores), (own_boxes, own_scores) = exported, eager["decoded"]
        return {
            "boxes": largest(np.sort(own_boxes, axis=1), np.sort(boxes, axis=1)),
            "scores": largest(np.sort(own_scores, axis=2), np.sort(scores, axis=2)),
        }
    pairs = [(own, given) for own, given in zip(eager["raw"], exported)]
    return {str(i): largest(own, given) / max(float(np.abs(own).max()), 1e-9) for i, (own, given) in enumerate(pairs)}


def largest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays; infinite where they are not of one size."""
    if one.size != other.size:
        return float("inf")
    return float(np.abs(one.astype(np.float64).ravel() - other.astype(np.float64).ravel()).max(initial=0.0))


def final_boxes(
    exported: Sequence[np.ndarray], post_process: Optional[Mapping[str, Any]], folder: Path
) -> Optional[np.ndarray]:
    """An export's rows [M, 6] of one image; None if it ends before boxes."""
    if kind_of(exported) == "final":
        bbox, bbox_num = exported
    elif post_process is not None:
        bbox, bbox_num = suppress_batch(open_suppress(post_process, str(folder)), *exported)
    else:
        return None
    ((_, rows),) = split_batch([0], bbox, bbox_num)
    return rows


def lowest_score(detector: Detector) -> float:
    """The score below which the detector drops boxes."""
    suppress = detector.post_process.suppress
    settings = getattr(suppress, "__self__", suppress).settings
    return max(settings.get(name, 0.0) for name in ("score_threshold", "post_threshold", "score_thresh"))
