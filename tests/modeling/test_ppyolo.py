"""PP-YOLO and PP-YOLOv2: parity with the recorded reference, and properties of their parts."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from parity_weights import (
    FIXTURES,
    assert_gradients,
    compare_detections,
    double_precision,
    fill,
    filled_state,
    image,
    relative_error,
)
from paths import ROOT
from yolo_batches import batch_of, padded, training_batch

from ppdet_repro import build_model, load_config
from ppdet_repro.core.config import build
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.engine.analysis.model_info import model_info
from ppdet_repro.modeling.architectures.yolov3 import YOLOv3
from ppdet_repro.modeling.backbones.resnet import ResNet
from ppdet_repro.modeling.heads.yolov3_head import YOLOv3Head, YOLOv3Outputs, box_confidence
from ppdet_repro.modeling.losses.iou_loss import IouAwareLoss, IouLoss
from ppdet_repro.modeling.losses.yolo_loss import YOLOv3Loss
from ppdet_repro.modeling.necks.ppyolo_fpn import PPYOLOFPN
from ppdet_repro.modeling.necks.ppyolo_pan import PPYOLOPAN
from ppdet_repro.modeling.nms import MatrixNMS
from ppdet_repro.modeling.post_process import BBoxPostProcess
from ppdet_repro.modeling.yolo_box import YOLOBox
from ppdet_repro.modeling.yolo_layers import DropBlock, drop_block, with_coordinates
from ppdet_repro.modeling.yolo_predictions import Grid, YOLOCandidates, YOLOPredictions, make_grid, rows
from ppdet_repro.paddle_private.saved_program import inference_config
from ppdet_repro.runtime.matrix_nms import matrix_nms
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.utils.errors import UserError

CONFIGS = ROOT / "configs" / "ppyolo"
CASES = {
    "ppyolov2_r50vd_dcn": "ppyolov2_r50vd_dcn_365e_coco",
    "ppyolov2_r101vd_dcn": "ppyolov2_r101vd_dcn_365e_coco",
    "ppyolo_r50vd_dcn": "ppyolo_r50vd_dcn_1x_coco",
}
SIZE = (96, 128)
LEVELS = ((3, 4), (6, 8), (12, 16))


def recorded(case):
    with np.load(FIXTURES / f"{case}.npz") as arrays:
        return dict(arrays)


def facts(case):
    return json.loads((FIXTURES / f"{case}.json").read_text())


@pytest.fixture(scope="module", params=["ppyolov2_r50vd_dcn", "ppyolo_r50vd_dcn"])
def case(request):
    """A published model with weights from a formula, and its recorded outputs. (R101 shares the neck and the head;
    its keys and everything after the head are tested below, its backbone's blocks in test_resnet.py.)"""
    model = build_model(load_config(CONFIGS / f"{CASES[request.param]}.yml"))
    return model, recorded(request.param), facts(request.param)


@pytest.fixture
def model(case):
    model = case[0]
    model.set_state_dict(filled_state(model))  # training moves running statistics
    model.clear_gradients()
    model.eval()
    return model


def assert_same_parameters(model, expected):
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v[0] for k, v in expected.items()}
    for name, parameter in model.named_parameters():
        own_decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        found = [not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], own_decay]
        assert found == expected[name][1:], name


def test_state_dict_and_parameter_attributes_are_the_reference_s(case):
    model, _, expected = case
    assert_same_parameters(model, expected["parameters"])


def test_r101_has_the_reference_s_state_dict_and_parameter_attributes():
    name = "ppyolov2_r101vd_dcn"
    model = build_model(load_config(CONFIGS / f"{CASES[name]}.yml"))
    assert_same_parameters(model, facts(name)["parameters"])


def test_head_outputs_and_detections_from_the_image(model, case):
    _, arrays, _ = case
    batch = {"image": paddle.to_tensor(image(3, *SIZE))}
    batch.update({k: paddle.to_tensor(arrays[k]) for k in ("im_shape", "scale_factor")})
    with paddle.no_grad():
        raw = model.raw(batch["image"])
        out = model(batch)
    for i, maps in enumerate(raw.maps):
        assert relative_error(arrays[f"network{i}"], maps.numpy(), 151) < 5e-4
    difference = compare_detections(arrays["bbox"], arrays["bbox_num"], out["bbox"].numpy(), out["bbox_num"].numpy())
    assert difference.unmatched == 0


def without_drop_block(model):
    for layer in model.sublayers():
        if isinstance(layer, DropBlock):
            layer.keep_prob = 1.0


def test_training_losses(model, case):
    """Compared with the reference, with DropBlock off in both."""
    _, _, expected = case
    without_drop_block(model)
    model.train()
    with paddle.no_grad():
        losses = model(training_batch())
    assert list(losses) == ["loss_xy", "loss_wh", "loss_iou", "loss_iou_aware", "loss_obj", "loss_cls", "loss"]
    for name, value in expected["training"]["losses"].items():
        assert float(losses[name]) == pytest.approx(value, rel=2e-5), name


def test_gradients(model, case):
    """Compared in float64 with the reference's float32, whose rounding error is 9e-4 (stem), 3.4e-4 (rest of the
    backbone) and 7e-5 (neck and head)."""
    _, _, expected = case
    without_drop_block(model)
    model = double_precision(model)
    batch = training_batch()
    model({**batch, "image": batch["image"].astype("float64")})["loss"].backward()
    gradients, expected = dict(model.named_parameters()), expected["training"]["grads"]
    assert_gradients(gradients, expected, 1e-3, lambda name: name.startswith("backbone.conv1."))
    assert_gradients(gradients, expected, 4e-4, lambda name: name.startswith("backbone.res"))
    assert_gradients(gradients, expected, 1e-4, lambda name: not name.startswith("backbone."))


def part_after_head(name):
    """The head and post-processing of a published model, on a backbone and neck that do nothing."""
    cfg = load_config(CONFIGS / f"{CASES[name]}.yml")
    head = build(cfg, "YOLOv3Head", in_channels=[1024, 512, 256], strides=[32, 16, 8])
    return YOLOv3(paddle.nn.Identity(), paddle.nn.Identity(), head, build(cfg, "BBoxPostProcess"))


@pytest.mark.parametrize("name", CASES)
def test_decoding_and_nms_from_recorded_head_outputs(name):
    arrays = recorded(name)
    model = part_after_head(name)
    raw = YOLOv3Outputs([paddle.to_tensor(arrays[f"raw{i}"]) for i in range(3)])
    shape, scale = (paddle.to_tensor(arrays[k][1:]) for k in ("im_shape", "scale_factor"))
    boxes, scores = model.decode(raw, shape, scale)
    np.testing.assert_allclose(boxes.numpy(), arrays["boxes"], atol=1e-4)
    np.testing.assert_allclose(scores.numpy().ravel()[::37], arrays["scores"], atol=1e-6)
    out = model.suppress(boxes, scores)
    first = int(arrays["bbox_num"][0])
    expected = arrays["bbox"][first:], arrays["bbox_num"][1:]
    difference = compare_detections(*expected, out.bbox.numpy(), out.bbox_num.numpy(), 1e-5, 2e-3)
    assert difference.unmatched == 0
    assert (np.diff(out.bbox.numpy()[:, 1]) <= 0).all()  # ordered by score over all classes
    rows_outside = matrix_nms(boxes.numpy()[0], scores.numpy()[0])  # as deployment does it without the graph
    assert compare_detections(*expected, rows_outside, [len(rows_outside)], 1e-5, 2e-3).unmatched == 0


class AfterHead(paddle.nn.Layer):
    """Only decoding and NMS, for export. (Paddle does not export a program without parameters.)"""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.one = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))

    def forward(self, coarse, middle, fine, im_shape, scale_factor):
        raw = YOLOv3Outputs([coarse * self.one, middle * self.one, fine * self.one])
        boxes, scores = self.model.decode(raw, im_shape, scale_factor)
        found = self.model.suppress(boxes, scores)
        return found.bbox, found.bbox_num


def test_exported_decoding_runs_in_onednn_at_any_size(tmp_path):
    """oneDNN's kernels once computed the merged objectness wrongly, when it used 1 / x and clip."""
    from paddle.inference import create_predictor
    from paddle.static import InputSpec

    arrays = recorded("ppyolov2_r50vd_dcn")
    layer = AfterHead(part_after_head("ppyolov2_r50vd_dcn"))
    layer.eval()
    spec = [InputSpec([None, 258, None, None], "float32", f"raw{i}") for i in range(3)]
    spec += [InputSpec([None, 2], "float32", name) for name in ("im_shape", "scale_factor")]
    paddle.jit.save(layer, str(tmp_path / "model"), input_spec=spec)
    settings = inference_config(network_file(tmp_path, "paddle"))
    settings.disable_gpu()
    settings.enable_mkldnn()
    settings.disable_glog_info()
    predictor = create_predictor(settings)
    inputs = {name: arrays[name] for name in ("raw0", "raw1", "raw2")}
    inputs.update({name: arrays[name][1:] for name in ("im_shape", "scale_factor")})
    smaller = {**inputs, **{f"raw{i}": arrays[f"raw{i}"][:, :, : 2**i, : 2**i] for i in range(3)}}  # 32 px: 63 boxes
    for feed in (inputs, smaller):
        for name, value in feed.items():
            predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(value))
        predictor.run()
        bbox, count = (predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names())
        eager = layer(*(paddle.to_tensor(value) for value in feed.values()))
        difference = compare_detections(eager[0].numpy(), eager[1].numpy(), bbox, count)
        assert difference.unmatched == 0 and len(bbox) == count.sum() > 20


# ---------------------------------------------------------------- a small model


def small_model(num_classes=3, neck=None, freeze_at=-1):
    """ResNet18-vd, a neck of width 32, one head: 1.0 M parameters besides the backbone's."""
    backbone = ResNet(18, variant="d", return_idx=[1, 2, 3], freeze_at=freeze_at, freeze_norm=False)
    channels, strides = zip(*backbone.out_shape)
    neck = neck or PPYOLOPAN(list(channels), list(strides), width=32, spp=True, drop_block=True)
    loss = YOLOv3Loss(num_classes, scale_x_y=1.05, iou_loss=IouLoss(), iou_aware_loss=IouAwareLoss())
    channels, strides = zip(*neck.out_shape)
    head = YOLOv3Head(list(channels), list(strides), num_classes=num_classes, loss=loss, iou_aware=True)
    nms = MatrixNMS(0.01, 0.01, background_label=-1)
    return YOLOv3(backbone, neck, head, BBoxPostProcess(YOLOBox(0.01, scale_x_y=1.05), nms))


def test_a_step_without_boxes_has_finite_gradients_everywhere():
    paddle.seed(0)
    model = small_model(80)
    batch = batch_of([padded(np.zeros((0, 4)), [], [1.0], (64, 64)) for _ in range(2)], image(0, 64, 64))
    losses = model(batch)
    losses["loss"].backward()
    assert float(losses["loss_obj"]) > 0
    assert all(float(losses[k]) == 0 for k in losses if k not in ("loss", "loss_obj"))
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name


def test_a_batch_of_two_is_two_of_one_and_the_losses_are_their_mean():
    paddle.seed(0)
    model = small_model(80)
    without_drop_block(model)
    model.eval()  # running statistics: images do not meet in the batch norms
    batch = training_batch((64, 64))
    raw = model.raw(batch["image"])
    both = model.losses(raw, batch)
    halves = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(2)]
    single = [model.losses(model.raw(half["image"]), half) for half in halves]
    for name, value in both.items():
        assert float(value) == pytest.approx(sum(float(s[name]) for s in single) / 2, rel=1e-5), name


def test_padding_boxes_change_nothing():
    model = small_model(80)
    model.eval()
    batch = training_batch((64, 64))
    raw = model.raw(batch["image"])
    expected = float(model.losses(raw, batch)["loss"])
    batch["gt_cxcywh_relative"] = paddle.concat([batch["gt_cxcywh_relative"], paddle.zeros([2, 60, 4])], axis=1)
    assert float(model.losses(raw, batch)["loss"]) == expected


def test_what_does_not_fit_together_is_refused():
    loss = YOLOv3Loss(3, scale_x_y=1.05)
    with pytest.raises(UserError, match="2 anchor_masks for the 3 levels"):
        YOLOv3Head([8, 8, 8], [32, 16, 8], anchor_masks=[[3, 4, 5], [0, 1, 2]], loss=loss)
    with pytest.raises(UserError, match=r"anchor_masks name anchors \[9\], there are 9"):
        YOLOv3Head([8, 8, 8], [32, 16, 8], anchor_masks=[[6, 7, 9], [3, 4, 5], [0, 1, 2]], loss=loss)
    with pytest.raises(UserError, match=r"downsample is \[32, 16, 8\], the neck's strides \[64, 32, 16\]"):
        YOLOv3Head([8, 8, 8], [64, 32, 16], loss=loss)
    with pytest.raises(UserError, match="belong together"):
        YOLOv3Head([8, 8, 8], [32, 16, 8], loss=loss, iou_aware=True)
    head = YOLOv3Head([8, 8, 8], [32, 16, 8], num_classes=3, loss=loss)
    for box, message in ((YOLOBox(), "scale_x_y 1.0 is not YOLOv3Loss.scale_x_y 1.05"),
                         (YOLOBox(downsample_ratio=16, scale_x_y=1.05), "stride 32")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            YOLOv3(paddle.nn.Identity(), paddle.nn.Identity(), head, BBoxPostProcess(box, MatrixNMS()))


def test_targets_for_other_anchors_are_refused():
    model = small_model()
    own = model.yolo_head
    model.check_targets([Gt2YoloTarget(own.all_anchors, own.anchor_masks, (32, 16, 8)), object()])
    with pytest.raises(UserError, match="Gt2YoloTarget.anchors .* does not fit YOLOv3Head"):
        model.check_targets([Gt2YoloTarget([[1, 2]] * 9, own.anchor_masks, [32, 16, 8])])
    with pytest.raises(UserError, match=r"downsample_ratios \[64, 32, 16\]"):
        model.check_targets([Gt2YoloTarget(own.all_anchors, own.anchor_masks, [64, 32, 16])])


# ---------------------------------------------------------------- layers and necks


def test_coordinates_run_from_minus_one_to_minus_one_half():
    """PaddleDetection's i / (2 (n - 1)) - 1; CoordConv's authors meant -1 to 1. Released weights rely on it."""
    x = with_coordinates(paddle.zeros([2, 1, 3, 5])).numpy()
    assert x.shape == (2, 3, 3, 5)
    np.testing.assert_allclose(x[1, 1], [[-1, -0.875, -0.75, -0.625, -0.5]] * 3)  # columns: i / 8 - 1
    np.testing.assert_allclose(x[1, 2].T, [[-1, -0.75, -0.5]] * 5)  # rows: i / 4 - 1
    np.testing.assert_array_equal(with_coordinates(paddle.zeros([1, 1, 1, 1])).numpy()[0, 1:, 0, 0], [-1, -1])


def test_drop_block_zeroes_squares_and_keeps_the_scale():
    paddle.seed(0)
    x = paddle.ones([2, 16, 32, 32])
    layer = DropBlock(3, 0.9)
    layer.eval()
    assert layer(x) is x
    y = drop_block(x, 3, 0.9, training=True).numpy()
    kept = y > 0
    # centers with probability .1/9 * (32/30)^2 = .01264, a pixel stays if none of 9 is one: .98736^9 = .892
    assert kept.mean() == pytest.approx(0.892, abs=0.01)
    assert y.mean() == pytest.approx(1.0, abs=1e-5)  # scaled by size / number kept
    assert len(np.unique(y)) == 2
    assert (kept[0, 0] != kept[0, 1]).any() and (kept[0, 0] != kept[1, 0]).any()  # every channel has its own
    dropped = ~kept[:, :, 1:-1, 1:-1]
    centers = np.stack([~kept[:, :, 1 + dy : 31 + dy, 1 + dx : 31 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    assert (centers.all(axis=0) <= dropped).all() and centers.all(axis=0).any()  # 3x3 squares


@pytest.mark.parametrize("side", [1, 2])
def test_drop_block_of_maps_smaller_than_a_square_stays_finite(side):
    """A deliberate difference: PaddleDetection divides by zero here."""
    for seed in range(5):
        paddle.seed(seed)
        y = drop_block(paddle.ones([1, 64, side, side]), 3, 0.9, training=True)
        assert np.isfinite(y.numpy()).all()
    paddle.seed(0)
    assert not drop_block(paddle.ones([1, 1, 2, 2]), 3, 1e-6, training=True).numpy().any()  # all dropped


def test_necks_say_what_they_give():
    pan = PPYOLOPAN([128, 256, 512], [8, 16, 32], width=64, spp=True)
    fpn = PPYOLOFPN([256, 512], [16, 32], conv_block_num=0, spp=True, coord_conv=True, drop_block=True)
    for neck, sides in ((pan, (8, 4, 2)), (fpn, (4, 2))):
        channels = [128, 256, 512][-len(sides) :]
        outs = neck([paddle.rand([1, c, side, side]) for c, side in zip(channels, sides)])
        assert [out.shape[1:3] for out in outs] == [[s.channels, 64 // s.stride] for s in neck.out_shape]
    assert [tuple(shape) for shape in pan.out_shape] == [(128, 32), (64, 16), (32, 8)]
    assert [tuple(shape) for shape in fpn.out_shape] == [(512, 32), (256, 16)]
    for neck in (PPYOLOPAN, PPYOLOFPN):
        with pytest.raises(UserError, match="width 30 cannot be halved 2 times"):
            neck([8, 8, 8], [8, 16, 32], width=30)


def test_the_neck_of_ppyolo_can_be_narrower():
    """A width of 128 is a quarter of the paper's 512: every map has a quarter of the channels, 2 x 128 and so on."""
    full, narrow = (PPYOLOFPN([128, 256, 512], [8, 16, 32], width=width) for width in (None, 128))
    assert [tuple(shape) for shape in full.out_shape] == [(1024, 32), (512, 16), (256, 8)]
    assert [tuple(shape) for shape in narrow.out_shape] == [(256, 32), (128, 16), (64, 8)]
    outs = narrow([paddle.rand([1, c, side, side]) for c, side in ((128, 8), (256, 4), (512, 2))])
    assert [out.shape[1] for out in outs] == [256, 128, 64]


# ---------------------------------------------------------------- decoding


def test_rows_come_anchor_by_anchor():
    maps = paddle.arange(2 * 6 * 2 * 2, dtype="float32").reshape([2, 6, 2, 2])  # 2 anchors of 3 channels
    flat = rows(maps, anchors=2).numpy()
    assert flat.shape == (2, 8, 3)
    np.testing.assert_array_equal(flat[0, 1], [1, 5, 9])  # anchor 0, y 0, x 1: channels 0 to 2
    np.testing.assert_array_equal(flat[0, 6], [14, 18, 22])  # anchor 1, y 1, x 0: channels 3 to 5
    np.testing.assert_array_equal(rows(maps.reshape([2, 2, 3, 2, 2]), anchors=2).numpy(), flat)


def test_grid_is_relative_to_the_input():
    """Input 64 x 32 px (w x h), strides 32 and 16: maps of 2 x 1 and 4 x 2 cells."""
    maps = [paddle.zeros([1, 1, 1, 2]), paddle.zeros([1, 1, 2, 4])]
    grid = make_grid(maps, [[[16, 8]], [[4, 6], [8, 2]]], [32, 16])
    assert grid.corner.shape == [2 + 2 * 8, 2]
    np.testing.assert_allclose(grid.corner[:2].numpy(), [[0, 0], [0.5, 0]])
    np.testing.assert_allclose(grid.corner[2 + 8 + 5].numpy(), [0.25, 0.5])  # second anchor, y 1, x 1
    np.testing.assert_allclose(grid.cell[0].numpy(), [0.5, 1.0])
    np.testing.assert_allclose(grid.cell[5].numpy(), [0.25, 0.5])
    np.testing.assert_allclose(grid.anchor[1].numpy(), [16 / 64, 8 / 32])
    np.testing.assert_allclose(grid.anchor[-1].numpy(), [8 / 64, 2 / 32])


def one_candidate(center, log_size, confidence, classes, grid):
    return YOLOCandidates(*(paddle.to_tensor([[v]], "float32") for v in (center, log_size, confidence, classes)), grid)


def test_decoding_by_hand():
    """A cell at (.5, .25) of size .25, an anchor of (.2, .1), logits 0: the center is the cell's, at (.625, .375);
    exp(log 2) doubles the anchor's width: (.4, .1). The image is 100.9 x 200.9 (h x w) px, rounded to 100 x 200."""
    grid = Grid(*(paddle.to_tensor([v], "float32") for v in ([0.5, 0.25], [0.25, 0.25], [0.2, 0.1])))
    found = one_candidate([0, 0], [np.log(2), 0], 0.5, [0, 20], grid)  # class scores .5 and 1
    shape, scale = paddle.to_tensor([[100.9, 200.9]]), paddle.ones([1, 2])
    boxes, scores = YOLOBox(0.01)(found, shape, scale)
    np.testing.assert_allclose(boxes.numpy(), [[[85, 32.5, 165, 42.5]]], rtol=1e-6)  # (.425, .325, .825, .425)
    np.testing.assert_allclose(scores.numpy(), [[[0.25], [0.5]]], rtol=1e-6)
    # a scaled sigmoid reaches past the cell: 1.05 * 1 - .025 = 1.025, center .5 + 1.025 / 4 = .75625
    boxes, _ = YOLOBox(0.01, scale_x_y=1.05)(one_candidate([50, 0], [0, 0], 0.5, [0, 0], grid), shape, scale)
    assert float(boxes[0, 0, [0, 2]].sum()) / 2 == pytest.approx(151.25, rel=1e-6)


def test_boxes_below_the_threshold_are_zero_and_others_inside_the_image():
    grid = Grid(*(paddle.to_tensor([v], "float32") for v in ([0, 0], [1, 1], [3, 3])))  # three times the image
    shape, scale = paddle.to_tensor([[50.0, 80.0]]), paddle.to_tensor([[0.5, 0.5]])  # original 100 x 160
    for confidence, expected in ((0.01, [0, 0, 159, 99]), (0.009, [0, 0, 0, 0])):
        found = one_candidate([0, 0], [0, 0], confidence, [20], grid)
        boxes, scores = YOLOBox(0.01)(found, shape, scale)
        assert boxes.tolist() == [[expected]]
        assert scores.item() == pytest.approx(confidence if expected[2] else 0)
    boxes, _ = YOLOBox(0.01, clip_bbox=False)(one_candidate([0, 0], [0, 0], 1.0, [0], grid), shape, scale)
    np.testing.assert_allclose(boxes.numpy(), [[[-160, -100, 320, 200]]])  # center (80, 50) -+ half of (480, 300)


def test_iou_aware_objectness_is_a_weighted_geometric_mean():
    logit = lambda p: float(np.log(p / (1 - p)))  # noqa: E731
    objectness = paddle.to_tensor([logit(0.25), -200.0, 200.0])
    iou = paddle.to_tensor([logit(0.81), 0.0, 200.0])
    predictions = YOLOPredictions(None, None, objectness, None, iou, None)
    merged = box_confidence(predictions, 0.5).numpy()
    np.testing.assert_allclose(merged, [0.5 * 0.9, 1e-7, 1 - 1e-7], rtol=1e-5)
    loss = YOLOv3Loss(3, iou_aware_loss=IouAwareLoss())
    with pytest.raises(UserError, match=r"iou_aware_factor 2 is not in 0\.\.1"):
        YOLOv3Head([8, 8, 8], [32, 16, 8], loss=loss, iou_aware=True, iou_aware_factor=2)


# ---------------------------------------------------------------- configs


def test_rows_of_the_paper_s_table_1():
    """A: PP-YOLO; B: PAN and Mish; C: 640; D: sizes up to 768; E: the IoU as soft label."""
    found = {}
    for letter, name in zip("abcde", ("a", "b_pan_mish", "c_640", "d_768", "e_iou_aware")):
        cfg = load_config(CONFIGS / f"table1_{name}_coco.yml")
        neck = cfg.tree()["YOLOv3"].value.settings["neck"].value.component.name
        resize = build(cfg, "TrainReader").batch_transforms[0]
        image_shape = build(cfg, "TestReader").image_shape
        form = build(cfg, "IouAwareLoss").form
        found[letter] = (neck, max(resize.sizes)[0], image_shape[-1], form)
        assert build(cfg, "TrainReader").batch_size == 12 and cfg.run.base_batch_size == 96
    assert found == {
        "a": ("PPYOLOFPN", 608, 608, "soft_weight"),
        "b": ("PPYOLOPAN", 608, 608, "soft_weight"),
        "c": ("PPYOLOPAN", 640, 640, "soft_weight"),
        "d": ("PPYOLOPAN", 768, 640, "soft_weight"),
        "e": ("PPYOLOPAN", 768, 640, "soft_label"),
    }


def test_the_paper_s_sizes_follow_from_one_counting_rule():
    """Rows B to E: multiply-adds without the deformable convolutions', and 54 M parameters; both within 2 %."""
    text = model_info(CONFIGS / "table1_e_iou_aware_coco.yml", size=(64, 64))
    left = text.splitlines()[-1].split()
    assert left[0] == "left" and all(abs(float(share.strip("%"))) < 2 for share in left[1:])


def test_fill_rule_is_the_recordings_own():
    assert fill("yolo_head.yolo_output.0.bias", (258,)).astype(np.float64).sum() == pytest.approx(-859.6582902539521)


@pytest.mark.parametrize("iou_aware", [True, False])
def test_a_head_for_training_from_scratch_expects_few_objects(iou_aware):
    loss = YOLOv3Loss(2, downsample=[16, 8], iou_aware_loss=IouAwareLoss() if iou_aware else None)
    anchors, masks = [[8, 8], [16, 16], [32, 32]], [[1, 2], [0]]
    head = YOLOv3Head([4, 4], [16, 8], anchors, masks, 2, loss, iou_aware, prior_prob=0.01)
    found = head.predictions(head([paddle.zeros([1, 4, 2, 2]), paddle.zeros([1, 4, 4, 4])]))
    probabilities = paddle.nn.functional.sigmoid(found.objectness)
    np.testing.assert_allclose(probabilities, np.full([1, 24], 0.01), rtol=1e-5)  # 2 x 4 anchors and 16
    assert float(found.classes.abs().max()) == float(found.center.abs().max()) == 0  # other biases stay
