"""PP-YOLO with MobileNetV3, as PaddleDetection's files describe it: same weights, same boxes, also when quantized."""

from __future__ import annotations

import hashlib

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES, compare_detections, fill, image

from ppdet_repro import build_model, load_config
from ppdet_repro.engine.models import build_untrained
from ppdet_repro.slim.qat import plain_name

SIZE = (96, 128)
COMMON = """
architecture: YOLOv3
YOLOv3: {backbone: MobileNetV3, neck: NECK, yolo_head: YOLOv3Head, post_process: BBoxPostProcess}
YOLOv3Loss: {ignore_thresh: 0.5, downsample: STRIDES, label_smooth: false, scale_x_y: 1.05, iou_loss: IouLoss}
IouLoss: {loss_weight: 2.5, loss_square: true}
BBoxPostProcess:
  decode: {name: YOLOBox, conf_thresh: 0.005, downsample_ratio: 32, clip_bbox: true, scale_x_y: 1.05}
  nms: {name: MultiClassNMS, keep_top_k: 100, nms_threshold: 0.45, nms_top_k: 1000, score_threshold: 0.005}
"""
TWO_LEVELS = """
MobileNetV3: {model_name: MODEL, scale: 1.0, with_extra_blocks: false, extra_block_filters: [], feature_maps: MAPS}
PPYOLOFPN: {in_channels: STALE, coord_conv: true, conv_block_num: 0, spp: true, drop_block: true}
YOLOv3Head:
  anchors: [[11, 18], [34, 47], [51, 126], [115, 71], [120, 195], [254, 235]]
  anchor_masks: [[3, 4, 5], [0, 1, 2]]
  loss: YOLOv3Loss
"""
TINY = """
MobileNetV3: {model_name: large, scale: 0.5, with_extra_blocks: false, feature_maps: [7, 13, 16]}
PPYOLOTinyFPN: {detection_block_channels: [160, 128, 96], spp: true, drop_block: true}
YOLOv3Head:
  anchors: [[10, 15], [24, 36], [72, 42], [35, 87], [102, 96], [60, 170], [220, 125], [128, 222], [264, 266]]
  anchor_masks: [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
  loss: YOLOv3Loss
"""
LARGE = {"MODEL": "large", "MAPS": "[13, 16]", "STALE": "[160, 368]", "NECK": "PPYOLOFPN", "STRIDES": "[32, 16]"}
SMALL = {"MODEL": "small", "MAPS": "[9, 12]", "STALE": "[96, 304]", "NECK": "PPYOLOFPN", "STRIDES": "[32, 16]"}
QAT = """
slim: QAT
QAT:
  quant_config: {
    'activation_preprocess_type': 'PACT',
    'weight_quantize_type': 'channel_wise_abs_max', 'activation_quantize_type': 'moving_average_abs_max',
    'weight_bits': 8, 'activation_bits': 8, 'dtype': 'int8', 'window_size': 10000, 'moving_rate': 0.9,
    'quantizable_layer_type': ['Conv2D', 'Linear']}
  print_model: false
"""


def write(path, text, words):
    for word, value in words.items():
        text = text.replace(word, value)
    path.write_text(text)
    return path


def stronger_fill(key, shape):
    """`fill` with a larger spread of the head's outputs; activations of quantized layers have the range 3 and are
    clipped at 8."""
    name = plain_name(key)
    if name.endswith(("._scale", "._accum")):
        return np.full(shape, 3.0, np.float32)
    if name.endswith(("._state", ".alpha")):
        return np.full(shape, 8.0 if name.endswith(".alpha") else 1.0, np.float32)
    return fill(name, shape) * (2 if name.startswith("yolo_head.") and name.endswith("weight") else 1)


def assert_same_boxes(model, name):
    """The names and shapes of the state dict, and the detections, are those that were recorded."""
    with np.load(FIXTURES / "ppyolo_mobilenet.npz") as arrays:
        names, rows, counts, *batch = (
            arrays[key] for key in (f"{name}.names", f"{name}.bbox", f"{name}.bbox_num", "im_shape", "scale_factor")
        )
    state = model.state_dict()
    shapes = "\n".join(f"{key} {list(value.shape)}" for key, value in sorted(state.items()))
    assert hashlib.sha256(shapes.encode()).hexdigest() == str(names)
    for key, value in state.items():
        value.set_value(stronger_fill(key, value.shape).astype(value.numpy().dtype))
    model.eval()
    im_shape, scale_factor = map(paddle.to_tensor, batch)
    with paddle.no_grad():
        found = model({"image": paddle.to_tensor(image(3, *SIZE)), "im_shape": im_shape, "scale_factor": scale_factor})
    difference = compare_detections(rows, counts, found["bbox"].numpy(), found["bbox_num"].numpy(), 1e-5, 1e-3)
    assert difference.unmatched == 0, difference


@pytest.mark.parametrize("name, words", [("large", LARGE), ("small", SMALL)])
def test_two_levels_with_channels_of_an_older_backbone_in_the_file(name, words, tmp_path, logged):
    model = build_model(load_config(write(tmp_path / "model.yml", COMMON + TWO_LEVELS, words)))
    assert f"PPYOLOFPN.in_channels is {words['STALE']}, but MobileNetV3 gives" in logged.text
    assert_same_boxes(model, name)


def test_tiny_quantized(tmp_path):
    words = {"NECK": "PPYOLOTinyFPN", "STRIDES": "[32, 16, 8]"}
    slim = write(tmp_path / "qat.yml", QAT, {})
    assert_same_boxes(
        build_untrained(load_config(write(tmp_path / "tiny.yml", COMMON + TINY, words), (), slim)), "tiny_qat"
    )
