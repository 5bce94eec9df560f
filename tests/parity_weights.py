"""Deterministic weights and inputs under which the parity fixtures were recorded, and how to compare.

The reference outputs in tests/fixtures were recorded from PaddleDetection (commit 666f597f, Paddle 2.6.2, CPU)
with every state-dict entry drawn by `fill` and images by `image`; nothing comes from training.
"""

from __future__ import annotations

import copy
import re
import zlib
from pathlib import Path
from typing import Callable, Dict, NamedTuple

import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"

_SMALL_BN = re.compile(
    r"branch2c\.norm|linear_conv\.bn|encoder_blocks.*\.conv3\.1|stage.*conv2\.batch_norm|"
    r"(bb_st|block_layer2).*(conv2|conv3)\.norm|residual_.*\.norm"
)
_FINAL = {  # key prefix: weight gain, bias mean, bias std
    "head.cls_score.": (1.2, -4.0, 0.5),
    "head.object_pred.": (1.0, 0.0, 0.5),
    "head.bbox_pred.": (0.3, 0.0, 0.1),
    "head.retina_cls.": (1.2, -4.0, 0.5),
    "head.retina_reg.": (0.3, 0.0, 0.1),
    "head.anchors.retina_cls.": (1.2, -4.0, 0.5),
    "head.anchors.retina_reg.": (0.3, 0.0, 0.1),
    "head.points.cls_score.": (1.2, -4.0, 0.5),
    "ttf_head.hm_head.head.": (0.8, -4.0, 0.5),
    "ttf_head.wh_head.head.": (0.7, 2.0, 0.5),
}


def _yolo_output(shape):
    iou = 3 if shape[0] % 85 == 3 else 0
    gain = np.array([1.0] * iou + ([1.0, 1.0, 0.3, 0.3, 4.0] + [1.5] * 80) * 3)
    mean = np.array([0.0] * iou + ([0.0] * 4 + [-3.5] * 81) * 3)
    return gain.reshape((-1,) + (1,) * (len(shape) - 1)), mean, 0.3


def fill(key: str, shape) -> np.ndarray:
    """The value of a state-dict entry: float32, a function of its key and shape alone."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    shape = tuple(shape)
    final = next((value for prefix, value in _FINAL.items() if key.startswith(prefix)), None)
    if key.startswith("yolo_head.yolo_output"):
        final = _yolo_output(shape)
    vector, fan_in = len(shape) == 1, np.prod(shape[1:])
    if vector and key.endswith(".weight"):
        out = rng.uniform(0.8, 1.2, shape) * (0.2 if _SMALL_BN.search(key) else 1.0)
    elif vector and key.endswith("._variance"):
        out = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("._mean"):
        out = 0.1 * rng.standard_normal(shape)
    elif "conv_offset." in key:
        out = 0.01 * rng.standard_normal(shape)
    elif final is not None:
        gain, mean, std = final
        out = rng.standard_normal(shape)
        out = mean + std * out if vector else gain / np.sqrt(fan_in) * out
    elif vector:
        out = 0.05 * rng.standard_normal(shape)
    else:
        spread = 8.0 if key.endswith("conv_dcn.weight") else 2.5 if fan_in >= 32 else 2.0
        out = (0.7 if ".short." in key else 1.0) * np.sqrt(spread / fan_in) * rng.standard_normal(shape)
        if fan_in >= 32:
            out -= out.mean(axis=tuple(range(1, len(shape))), keepdims=True)
    return out.astype(np.float32)


def filled_state(model) -> Dict[str, np.ndarray]:
    """`fill` for every entry of a model's state dict."""
    return {key: fill(key, value.shape) for key, value in model.state_dict().items()}


def _enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    def places(count_in, count_out):
        t = np.linspace(0, count_in - 1, count_out)
        low = np.minimum(t.astype(int), count_in - 2)
        return low, t - low

    (ly, fy), (lx, fx) = places(grid.shape[-2], height), places(grid.shape[-1], width)
    grid = grid[..., ly, :] * (1 - fy)[:, None] + grid[..., ly + 1, :] * fy[:, None]
    return grid[..., lx] * (1 - fx) + grid[..., lx + 1] * fx


def image(seed: int, height: int, width: int) -> np.ndarray:
    """Two normalised images [2, 3, H, W]: smooth noise of standard deviation about 1."""
    rng = np.random.default_rng(seed)
    out = np.zeros((2, 3, height, width))
    for cells, amplitude in ((4, 0.8), (12, 0.8), (40, 0.5)):
        out += amplitude * _enlarge(rng.standard_normal((2, 3, cells, cells)), height, width)
    return out.astype(np.float32)


def ground_truth(seed: int, index: int, height: int, width: int, num_classes: int = 80):
    """Boxes [n, 4] xyxy and classes [n] of image `index`: 3 to 7, the last a moved copy of another one."""
    rng = np.random.default_rng([seed, index, 99])
    count = int(rng.integers(2, 7))
    sizes = np.array([0.55, 0.3, 0.12, 0.05, 0.2, 0.4])[:count]
    wh = sizes[:, None] * rng.uniform(0.6, 1.4, (count, 2)) * [width, height]
    centre = wh / 2 + rng.uniform(0, 1, (count, 2)) * ([width, height] - wh)
    centre[1] = centre[0] + 0.15 * wh[0] * rng.uniform(-1, 1, 2)
    boxes = np.concatenate([centre - wh / 2, centre + wh / 2], 1)
    boxes[0, 2] = width
    boxes = np.concatenate([boxes, boxes[-1:] + [0.6, -0.4, 0.9, 0.3]])
    boxes = np.clip(boxes, 0, [width, height, width, height])
    return boxes.astype(np.float32), rng.permutation(num_classes)[: count + 1].astype(np.int32)


def relative_error(recorded: np.ndarray, array, step: int = 1) -> float:
    """max |difference| / max |recorded|, over every `step`-th element of the flattened array."""
    flat = np.asarray(array, np.float64).reshape(-1)[::step]
    recorded = np.asarray(recorded, np.float64).reshape(-1)
    assert flat.shape == recorded.shape, (flat.shape, recorded.shape)
    return float(np.abs(flat - recorded).max() / np.abs(recorded).max())


class DetectionDifference(NamedTuple):
    """Rows without a partner, and the largest differences of those with one."""

    unmatched: int
    score: float
    box: float


def compare_detections(recorded, recorded_num, rows, num, score_tol=1e-4, box_tol=0.05, tie=1e-4):
    """Compare final detections as sets per image, so that near ties in score may change places.

    A recorded row pairs with an unused row of its class within the tolerances; rows whose score is within
    `tie` of the lowest kept one may be missing on either side (the list is cut at 100).
    """
    unmatched, score_diff, box_diff, a, b = 0, 0.0, 0.0, 0, 0
    for n, m in zip(np.ravel(recorded_num), np.ravel(num)):
        mine = np.asarray(rows[b : b + m], np.float64)
        theirs = np.asarray(recorded[a : a + n], np.float64)
        a, b = a + n, b + m
        used = np.zeros(len(mine), bool)
        floor = theirs[:, 1].min() + tie if len(theirs) else -np.inf
        for row in theirs:
            score = np.abs(mine[:, 1] - row[1])
            box = np.abs(mine[:, 2:] - row[2:]).max(1, initial=0)
            apart = used | (mine[:, 0] != row[0]) | (score > score_tol) | (box > box_tol)
            cost = np.where(apart, np.inf, box + score)
            if len(mine) and np.isfinite(cost.min()):
                best = int(cost.argmin())
                used[best] = True
                score_diff, box_diff = max(score_diff, score[best]), max(box_diff, box[best])
            elif row[1] > floor:
                unmatched += 1
        unmatched += int((~used & (mine[:, 1] > floor)).sum()) if len(mine) else 0
    return DetectionDifference(unmatched, float(score_diff), float(box_diff))


def assert_gradients(parameters, expected, tolerance: float, select: Callable[[str], bool]) -> None:
    """Compare the recorded sums and magnitudes of the gradients that `select` picks by the parameter's name."""
    chosen = [name for name in expected if select(name)]
    assert chosen
    for name in chosen:
        total, magnitude = expected[name]
        gradient = parameters[name].grad
        assert float(gradient.abs().sum()) == pytest.approx(magnitude, rel=tolerance), name
        assert float(gradient.sum()) == pytest.approx(total, abs=tolerance * magnitude), name


def double_precision(model):
    """A copy of a model in training mode with its weights in float64.

    Batch norms over a few locations amplify the rounding of float32 on the way back through a backbone: noise of 1e-7
    on the image changes these gradients by up to 5e-3, and so does another processor or number of threads. The
    recordings carry that error, too. In float64 the comparison gives the same figures everywhere.
    """
    model = copy.deepcopy(model)
    model.to(dtype="float64")
    model.train()
    return model
