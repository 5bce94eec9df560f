"""TTFNet, PAFNet, PAFNet-lite: parity with the recorded reference, losses, decoding, parts."""

from __future__ import annotations

import json
import math

import numpy as np
import paddle
import pytest
from paddle import nn
from parity_weights import (
    FIXTURES,
    assert_gradients,
    compare_detections,
    double_precision,
    filled_state,
    ground_truth,
    image,
    relative_error,
)
from paths import ROOT

from ppdet_repro import build_model, load_config
from ppdet_repro.data.transform.targets_ttf import Gt2TTFTarget, ttf_target
from ppdet_repro.engine.analysis.model_info import model_info
from ppdet_repro.modeling.backbones.darknet import DarkNet
from ppdet_repro.modeling.backbones.mobilenet_v3 import MobileNetV3, divisible
from ppdet_repro.modeling.heads.ttf_head import TTFHead, TTFOutputs
from ppdet_repro.modeling.losses.ags import AdaptiveGaussianSampling
from ppdet_repro.modeling.losses.ctfocal_loss import CTFocalLoss, positive_weights
from ppdet_repro.modeling.losses.iou_loss import GIoULoss
from ppdet_repro.modeling.necks.ttf_fpn import TTFFPN
from ppdet_repro.modeling.ttf_box import TTFBox, local_maxima
from ppdet_repro.modeling.ttf_layers import DeformConv, LiteConv
from ppdet_repro.paddle_private.saved_program import read_operators, saved_program
from ppdet_repro.utils.errors import UserError

CONFIGS = ROOT / "configs" / "ttfnet"
CASES = {
    "ttfnet_darknet53": "ttfnet_darknet53_1x_coco",
    "ttfnet_pafnet_r50vd": "pafnet_10x_coco",
    "ttfnet_pafnet_lite_mbv3": "pafnet_lite_mobilenet_v3_20x_coco",
}
SIZE = (96, 96)


class Case:
    """A published configuration with weights from a formula, and the recorded outputs of the reference."""

    def __init__(self, name: str):
        self.model = build_model(load_config(CONFIGS / f"{CASES[name]}.yml"))
        self.state = filled_state(self.model)
        self.model.set_state_dict(self.state)
        self.model.eval()
        self.facts = json.loads((FIXTURES / f"{name}.json").read_text())
        with np.load(FIXTURES / f"{name}.npz") as arrays:
            self.recorded = dict(arrays)
        self.backbone_tolerance = 2e-3 if name == "ttfnet_pafnet_lite_mbv3" else 1e-3


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture
def head():
    """A small head for one input channel."""
    return TTFHead(1, 2, 4, 4, hm_loss=CTFocalLoss(), wh_loss=GIoULoss(5.0, reduction="sum"))


def with_targets(boxes_and_classes, size=SIZE, num_classes=80):
    targets = [ttf_target(boxes, classes, size, num_classes) for boxes, classes in boxes_and_classes]
    keys = ("ttf_heatmap", "ttf_box_target", "ttf_reg_weight")
    return {key: paddle.to_tensor(np.stack(arrays)) for key, arrays in zip(keys, zip(*targets))}


# Parity with the reference


def test_state_dict_and_parameter_attributes_are_the_reference_s(case):
    expected = case.facts["parameters"]
    assert {k: v.shape for k, v in case.model.state_dict().items()} == {k: v[0] for k, v in expected.items()}
    for name, parameter in case.model.named_parameters():
        own_decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        found = [not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], own_decay]
        assert found == expected[name][1:], name


def test_head_outputs_and_detections_from_the_image(case):
    recorded = case.recorded
    shape, scale = (paddle.to_tensor(recorded[k]) for k in ("im_shape", "scale_factor"))
    with paddle.no_grad():
        raw = case.model.raw(paddle.to_tensor(image(3, *SIZE)))
        out = case.model.suppress(*case.model.decode(raw, shape, scale))
    assert relative_error(recorded["logits_step7"], raw.logits.numpy(), step=7) < 5e-4
    assert relative_error(recorded["distances"], raw.distances.numpy()) < 5e-4
    difference = compare_detections(recorded["bbox"], recorded["bbox_num"], out.bbox.numpy(), out.bbox_num.numpy())
    assert difference.unmatched == 0


def test_training_losses_and_gradients(case):
    model = case.model
    model.train()
    batch = {"image": paddle.to_tensor(image(3, *SIZE))}
    losses = model({**batch, **with_targets([ground_truth(3, i, *SIZE) for i in range(2)])})
    assert set(losses) == {"loss", "hm_loss", "wh_loss"}
    for name, expected in case.facts["training"]["losses"].items():
        assert float(losses[name]) == pytest.approx(expected, rel=2e-6), name
    losses["loss"].backward()
    parameters, recorded = dict(model.named_parameters()), case.facts["training"]["grads"]
    assert_gradients(parameters, recorded, 1e-3, lambda name: not name.startswith("backbone."))
    model.clear_gradients()
    model.set_state_dict(case.state)  # training moved the running statistics
    model.eval()


def test_gradients_of_the_backbone(case):
    """Compared in float64 with the reference's float32, whose rounding error in PAFNet-lite is 1.9e-3."""
    model = double_precision(case.model)
    batch = {"image": paddle.to_tensor(image(3, *SIZE).astype("float64"))}
    model({**batch, **with_targets([ground_truth(3, i, *SIZE) for i in range(2)])})["loss"].backward()
    recorded = case.facts["training"]["grads"]
    assert_gradients(
        dict(model.named_parameters()), recorded, case.backbone_tolerance, lambda name: name.startswith("backbone.")
    )


def test_decoding_from_recorded_head_outputs():
    with np.load(FIXTURES / "ttfnet_decode.npz") as arrays:
        recorded = {key: paddle.to_tensor(array) for key, array in arrays.items()}
    raw = TTFOutputs(recorded["logits"], recorded["distances"])
    decode = TTFBox()
    out = decode.select(*decode(raw, recorded["im_shape"], recorded["scale_factor"]))
    difference = compare_detections(
        recorded["bbox"].numpy(), recorded["bbox_num"], out.bbox.numpy(), out.bbox_num.numpy(), 1e-5, 2e-3
    )
    assert difference.unmatched == 0
    assert out.bbox[:-1, 1].tolist() == sorted(out.bbox[:-1, 1].tolist(), reverse=True)


# Decoding


def peaks():
    """A map of 3 x 4 cells and 2 classes: class 1 has a peak of probability 0.8 at (2, 1) next to a lower
    location, class 0 a plateau of 0.6 at (0, 2) and (1, 2); everything else is below the threshold."""
    probability = np.full((1, 2, 3, 4), 0.001, np.float32)
    probability[0, 1, 1, 2], probability[0, 1, 1, 1] = 0.8, 0.7
    probability[0, 0, 2, :2] = 0.6
    distances = np.ones((1, 4, 3, 4), np.float32)
    distances[0, :, 1, 2] = [4, 3, 5, 6]
    logits = np.log(probability / (1 - probability))
    return TTFOutputs(paddle.to_tensor(logits), paddle.to_tensor(distances))


def detections(decode, raw, scale=((1.0, 1.0),)):
    scale = paddle.to_tensor(scale, "float32")
    return decode.select(*decode(raw, scale, scale))


def test_decoded_rows_by_hand():
    out = detections(TTFBox(), peaks(), scale=[[0.5, 2.0]])  # (y, x)
    rows = out.bbox.numpy()
    rows[1:3] = sorted(rows[1:3].tolist())  # equal scores: in any order
    expected = [
        # the peak is 8, 4 in input pixels: 8 - 4, 4 - 3, 8 + 5, 4 + 6; x over 2, y over 0.5
        [1, 0.8, 2.0, 2.0, 6.5, 20.0],
        # the plateau: 0, 8 and 4, 8 with all distances 1; boxes may leave the image
        [0, 0.6, -0.5, 14.0, 0.5, 18.0],
        [0, 0.6, 1.5, 14.0, 2.5, 18.0],
        [-1, 1, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)
    assert out.bbox_num.tolist() == [4]


def test_an_image_without_peaks_has_the_filler_row_alone():
    """As in PaddleDetection, the row has class -1, which evaluation drops."""
    raw = peaks()
    both = TTFOutputs(*(paddle.concat([t, t]) for t in raw))
    both.logits[1] = -10.0
    out = detections(TTFBox(), both, scale=[[1.0, 1.0]] * 2)
    assert out.bbox_num.tolist() == [4, 1]
    assert out.bbox[4:].tolist() == [[-1, 1, 0, 0, 0, 0]]


def test_fixed_size_has_all_rows_and_class_minus_one_for_the_unfit():
    raw = peaks()
    free, fixed = detections(TTFBox(5), raw), detections(TTFBox(5, fixed_size=True), raw)
    assert fixed.bbox.shape == [5, 6] and fixed.bbox_num.tolist() == [5]
    np.testing.assert_array_equal(fixed.bbox[:3].numpy(), free.bbox[:3].numpy())
    assert fixed.bbox[3:, 0].tolist() == [-1, -1]


def test_max_per_img_keeps_the_best_and_may_exceed_the_map():
    assert detections(TTFBox(1), peaks()).bbox[:, 0].tolist() == [1, -1]
    assert detections(TTFBox(1000), peaks()).bbox_num.tolist() == [4]


def test_local_maxima_keep_plateaus():
    kept = local_maxima(paddle.to_tensor([[[[0.2, 0.5, 0.5, 0.1], [0.2, 0.3, 0.1, 0.1]]]]))
    assert kept[0, 0].tolist() == [[0, 0.5, 0.5, 0], [0, 0, 0, 0]]
    almost_equal = paddle.to_tensor([[[[0.02, 0.02 + 5e-9]]]])  # two numbers in float32
    assert (local_maxima(almost_equal) > 0).tolist() == [[[[False, True]]]]


@pytest.mark.parametrize("fixed_size", [False, True])
def test_decoding_exports_with_dynamic_shapes(tmp_path, fixed_size):
    class Decoder(nn.Layer):
        def __init__(self):
            super().__init__()
            self.decode = TTFBox(20, fixed_size=fixed_size)

        def forward(self, logits, distances, scale):
            return self.decode.select(*self.decode(TTFOutputs(logits, distances), scale, scale))

    spec = [paddle.static.InputSpec(shape) for shape in ([-1, 3, -1, -1], [-1, 4, -1, -1], [-1, 2])]
    paddle.jit.save(Decoder(), str(tmp_path / "decoder"), input_spec=spec)
    operators = read_operators(saved_program(tmp_path / "decoder"))
    floor_divisions = {"elementwise_floordiv", "floor_divide"}  # in ONNX they are computed in floating point
    assert floor_divisions.isdisjoint(operators) and len(operators) > 20
    exported = paddle.jit.load(str(tmp_path / "decoder"))
    for batch, height, width in ((1, 8, 12), (3, 16, 8)):
        maps = [paddle.randn([batch, c, height, width]) * 3 for c in (3, 4)]
        scale = paddle.rand([batch, 2]) + 0.5
        for mine, theirs in zip(Decoder()(*maps, scale), exported(*maps, scale)):
            np.testing.assert_allclose(theirs.numpy(), mine.numpy(), rtol=1e-5, atol=1e-5)


# Losses


def test_focal_loss_by_hand():
    p, t = paddle.to_tensor([0.8, 0.5, 0.1]), paddle.to_tensor([1.0, 0.5, 0.0])
    # positive 0.2^2 * -ln 0.8; negatives 0.5^4 * 0.5^2 * -ln 0.5 and 1 * 0.1^2 * -ln 0.9
    total = 0.04 * -math.log(0.8) + 0.0625 * 0.25 * -math.log(0.5) + 0.01 * -math.log(0.9)

    def loss_of(loss, p, t, number):
        positives = positive_weights(t)
        assert float(positives.sum()) == number
        return float(loss(p, t, positives, normalizer=positives.sum().clip(min=1.0)))

    assert loss_of(CTFocalLoss(), p, t, 1) == pytest.approx(total, rel=1e-5)
    assert loss_of(CTFocalLoss(loss_weight=3.0), p, t, 1) == pytest.approx(3 * total, rel=1e-5)
    two = paddle.concat([p, p]), paddle.concat([t, t])
    assert loss_of(CTFocalLoss(), *two, 2) == pytest.approx(total, rel=1e-5)
    # a target of almost 1 is a negative; without positives the sum is divided by 1
    assert loss_of(CTFocalLoss(), p[1:], t[1:], 0) == pytest.approx(total - 0.04 * -math.log(0.8), rel=1e-5)


def test_mixed_labels_count_by_their_area(head):
    """PAFNet, equation 6: an object of an image that covers 1/4 of the mixed one has a weight of 1/4 in both losses.
    PaddleDetection ignores the scores, which is the same as a sample without gt_score."""
    boxes, classes = np.array([[0, 0, 16, 16], [16, 16, 24, 24]], np.float32), np.array([[0], [1]])
    sample = {"image": np.zeros((3, 32, 32), np.float32), "gt_bbox": boxes, "gt_class": classes}
    make = Gt2TTFTarget(num_classes=2)
    plain, mixed = (
        make([{**sample, **extra}], None)[0] for extra in ({}, {"gt_score": np.array([[0.75], [0.25]], np.float32)})
    )
    assert "ttf_score" not in plain
    score = mixed["ttf_score"][0]
    assert score[2, 2] == 0.75 and score[5, 5] == 0.25 and (score != 1).sum() == 2  # centers 8 and 20, over 4
    ratio = mixed["ttf_reg_weight"][0] / np.maximum(plain["ttf_reg_weight"][0], 1e-6)
    np.testing.assert_allclose([ratio[2, 2], ratio[5, 5]], [0.75, 0.25], rtol=1e-6)

    # two positives of probability 1/2 with scores 0.75 and 0.25: together one; all else is as without scores
    logits, distances = paddle.zeros([1, 2, 8, 8]), paddle.zeros([1, 4, 8, 8])
    losses = [
        head.losses(
            TTFOutputs(logits, distances),
            {key: paddle.to_tensor(array[None]) for key, array in batch.items() if key.startswith("ttf")},
        )["hm_loss"]
        for batch in (plain, mixed)
    ]
    positive = 0.25 * math.log(2)  # (1 - p)^2 * -ln p
    negatives = 2 * float(losses[0]) - 2 * positive
    assert float(losses[1]) == pytest.approx(positive + negatives, rel=1e-5)


def test_box_loss_by_hand(head):
    """Two locations regress. At (x 1, y 0), in pixels (4, 0), distances 2, 2, 2, 2 give the box 2, -2, 6, 2,
    which is its target: loss 0. At (0, 1), pixels (0, 4), distances 0, 0, 4, 4 give 0, 4, 4, 8 where
    0, 4, 2, 8 is the target: IoU and GIoU 1/2. Weights 1 and 3: 5 * 3 * 0.5 / 4."""
    distances = np.zeros((1, 4, 2, 2), np.float32)
    distances[0, :, 0, 1], distances[0, :, 1, 0] = 2, [0, 0, 4, 4]
    target, weight = np.full((1, 4, 2, 2), -1, np.float32), np.zeros((1, 1, 2, 2), np.float32)
    target[0, :, 0, 1], weight[0, 0, 0, 1] = [2, -2, 6, 2], 1
    target[0, :, 1, 0], weight[0, 0, 1, 0] = [0, 4, 2, 8], 3
    losses = head.losses(
        TTFOutputs(paddle.zeros([1, 2, 2, 2]), paddle.to_tensor(distances)),
        {
            "ttf_heatmap": paddle.zeros([1, 2, 2, 2]),
            "ttf_box_target": paddle.to_tensor(target),
            "ttf_reg_weight": paddle.to_tensor(weight),
        },
    )
    assert float(losses["wh_loss"]) == pytest.approx(5 * 3 * 0.5 / 4, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(float(losses["hm_loss"] + losses["wh_loss"]))


@pytest.mark.parametrize("ags", ["none", "adaptive"])
def test_images_without_boxes_have_a_finite_loss_with_gradients(head, ags):
    head.ags = AdaptiveGaussianSampling() if ags == "adaptive" else None
    raw = head([paddle.rand([2, 1, 4, 4])])
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, int))
    losses = head.losses(raw, with_targets([nothing] * 2, (16, 16), 2))
    assert np.isfinite(float(losses["loss"])) and float(losses["wh_loss"]) == 0
    losses["loss"].backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name


def test_a_batch_of_two_decodes_as_two_of_one():
    raw = TTFOutputs(paddle.randn([2, 3, 8, 8]), paddle.rand([2, 4, 8, 8]) * 9)
    scale = paddle.to_tensor([[1.0, 2.0], [0.5, 0.7]])
    both = detections(TTFBox(10), raw, scale)
    single = [
        detections(TTFBox(10), TTFOutputs(raw.logits[i : i + 1], raw.distances[i : i + 1]), scale[i : i + 1])
        for i in range(2)
    ]
    assert both.bbox_num.tolist() == [s.bbox_num.item() for s in single]
    np.testing.assert_allclose(both.bbox.numpy(), np.concatenate([s.bbox.numpy() for s in single]), rtol=1e-6)


# Parts


def test_head_s_kinds_of_convolution():
    losses = {"hm_loss": CTFocalLoss(), "wh_loss": GIoULoss(5.0, reduction="sum")}
    kinds = [TTFHead(8, **losses), TTFHead(8, dcn_head=True, **losses), TTFHead(8, lite_head=True, **losses)]
    for head, kind in zip(kinds, (nn.Conv2D, DeformConv, LiteConv)):
        assert isinstance(head.hm_head.feat[0], kind) and isinstance(head.wh_head.feat[0], kind)
        assert float(head.hm_head.head.bias[0]) == pytest.approx(-math.log(99))
    with pytest.raises(UserError, match="exclude"):
        TTFHead(8, dcn_head=True, lite_head=True, **losses)
    with pytest.raises(UserError, match="reduction: sum"):
        TTFHead(8, hm_loss=CTFocalLoss(), wh_loss=GIoULoss(5.0))


def test_neck_goes_up_to_stride_4():
    feats = [paddle.zeros([1, c, 64 // s, 96 // s]) for c, s in zip((4, 8, 16, 32), (4, 8, 16, 32))]
    neck = TTFFPN([4, 8, 16, 32], strides=[4, 8, 16, 32])
    assert [f.shape for f in neck(feats)] == [[1, 64, 16, 24]] and neck.out_shape == [(64, 4)]
    depths = [len([k for k in s.state_dict() if k.endswith("weight")]) for s in neck.shortcut]
    assert depths == [1, 2, 3]  # from the coarsest; listed in YAML from the finest
    lite = TTFFPN([4, 8, 16, 32], [12, 8, 6], [2, 2, 1], lite_neck=True, fusion_method="concat")
    assert [f.shape for f in lite(feats)] == [[1, 12, 16, 24]] and lite.out_shape == [(12, 4)]
    two = TTFFPN([16, 32], [8, 6], [1], strides=[16, 32])  # one shortcut, then none
    assert [f.shape for f in two(feats[2:])] == [[1, 6, 8, 12]] and two.out_shape == [(6, 8)]
    plain = TTFFPN([4, 8, 16, 32], dcn_neck=False)
    assert [f.shape for f in plain(feats)] == [[1, 64, 16, 24]]
    assert not any("dcn" in key for key in plain.state_dict())
    with pytest.raises(UserError, match="4 shortcuts"):
        TTFFPN([4, 8, 16, 32], shortcut_num=[3, 2, 1, 1])


def test_strides_that_do_not_fit_are_refused():
    overrides = ["ResNet.depth=18", "ResNet.dcn_v2_stages=[]"]
    config = CONFIGS / "pafnet_10x_coco.yml"
    model = build_model(load_config(config, [*overrides, "norm_type=bn"]))
    model.check_targets([Gt2TTFTarget(down_ratio=4)])
    with pytest.raises(UserError, match="Gt2TTFTarget.down_ratio 8 does not fit TTFHead, which has 4"):
        model.check_targets([Gt2TTFTarget(down_ratio=8)])
    with pytest.raises(UserError, match="TTFHead.down_ratio 8 is not the stride 4"):
        build_model(load_config(config, [*overrides, "TTFHead.down_ratio=8"]))
    with pytest.raises(UserError, match="TTFBox.down_ratio 8 is not TTFHead's 4"):
        build_model(load_config(config, [*overrides, "BBoxPostProcess.decode.down_ratio=8"]))


def test_darknet_cuts_the_gradient_but_its_norms_go_on():
    """As with PaddleDetection's freeze_at, parameters before the cut stay trainable but get no gradient, while the
    running statistics there are still updated."""
    model = DarkNet(freeze_at=0, return_idx=[1], num_stages=2)
    before = model.conv0.batch_norm._mean.numpy().copy()
    model(paddle.rand([2, 3, 16, 16]))[0].sum().backward()
    assert model.conv0.conv.weight.grad is None and not model.conv0.conv.weight.stop_gradient
    assert model.stage[1].basicblock0.conv1.conv.weight.grad is not None
    assert np.abs(model.conv0.batch_norm._mean.numpy() - before).max() > 0
    assert [tuple(s) for s in DarkNet(num_stages=3, return_idx=[0, 2]).out_shape] == [(64, 2), (256, 8)]
    with pytest.raises(UserError, match="outside 0..1"):
        DarkNet(return_idx=[2], num_stages=2)


@pytest.mark.parametrize("model_name, maps", [("large", [5, 8, 14, 17]), ("small", [3, 5, 10, 13])])
def test_mobilenet_gives_expanded_maps_of_strides_4_to_32(model_name, maps):
    model = MobileNetV3(0.35, model_name, feature_maps=maps, with_extra_blocks=True, extra_block_filters=[])
    feats = model(paddle.zeros([1, 3, 64, 96]))
    assert [s.stride for s in model.out_shape] == [4, 8, 16, 32]
    for feat, (channels, stride) in zip(feats, model.out_shape):
        assert feat.shape == [1, channels, 64 // stride, 96 // stride]


def test_mobilenet_s_blocks_and_learning_rates():
    model = MobileNetV3(0.35, feature_maps=[7, 16], lr_mult_list=[0.1, 0.2, 0.3, 0.4, 0.5], conv_decay=0.125)
    feats = model(paddle.zeros([1, 3, 64, 64]))
    assert [f.shape[1:] for f in feats] == [[16, 8, 8], [56, 2, 2]]  # 40 and 160 channels times 0.35
    rates = {i: getattr(model, f"conv{i}").linear_conv.conv.weight for i in (2, 4, 5, 16)}
    # blocks 2, 3, 4 have the first value, 5 to 7 the second, ...
    assert [w.optimize_attr["learning_rate"] for w in rates.values()] == [0.1, 0.1, 0.2, 0.5]
    assert rates[2].regularizer._coeff == 0.125
    assert [divisible(c) for c in (3, 14, 15.9, 19, 20)] == [8, 16, 16, 24, 24]
    with pytest.raises(UserError, match=r"\[17\] are not layers 2 to 16"):
        MobileNetV3(0.35, feature_maps=[17])


def test_the_paper_s_counts_follow_from_ours():
    """Table 1 leaves out deformable weights: of row F those of the neck, the head, and three stages of 4, 6
    and 3 blocks; with the last stage alone, as the text has it, 20.8 M would be left."""
    lines = model_info(CONFIGS / "table1_f_dcn_4x_coco.yml", size=(64, 64)).splitlines()[-7:]
    here, published, plain = (float(line.split(" M ")[0].split()[-1]) for line in lines[:3])
    neck, head = 9 * (2048 * 256 + 256 * 128 + 128 * 64), 9 * (64 * 128 + 128 * 128 + 2 * 64 * 64)
    stages = 9 * (4 * 128**2 + 6 * 256**2 + 3 * 512**2)
    assert published - plain == pytest.approx((neck + head + stages) / 1e6, abs=0.011)
    assert here - (neck + head + 9 * 3 * 512**2) / 1e6 == pytest.approx(20.82, abs=0.01)
    assert lines[-2].split()[-3:] == ["17.18", "M", "75.21"]
    assert lines[-1].split() == ["left", "+0.1%", "-0.4%"]


def test_paper_rows_differ_from_the_published_configs():
    """PaddleDetection's PAFNet has frozen norms, DCN in three stages and no AGS; the paper's trains its
    norms, has DCN in the last stage, and AGS."""
    published, paper = (
        build_model(load_config(CONFIGS / f"{name}.yml")) for name in ("pafnet_10x_coco", "table1_g_10x_coco")
    )
    deformable = [
        {key.split(".")[0] for key in model.backbone.state_dict() if "conv_offset" in key}
        for model in (published, paper)
    ]
    assert deformable == [{"res3", "res4", "res5"}, {"res5"}]
    trains = [not model.backbone.conv1.conv1_1.norm.weight.stop_gradient for model in (published, paper)]
    assert trains == [False, True]
    assert published.head.ags is None and isinstance(paper.head.ags, AdaptiveGaussianSampling)
