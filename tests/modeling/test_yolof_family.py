"""Parts from YOLOF's ablations and comparisons: encoders, dilated last stages, CSPDarkNet-53, RetinaNet+."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.modeling.anchors import AnchorGenerator, RetinaAnchorGenerator
from ppdet_repro.modeling.assigners.max_iou_assigner import MaxIoUAssigner
from ppdet_repro.modeling.backbones.csp_darknet import CSPDarkNet53
from ppdet_repro.modeling.backbones.resnet import ResNet
from ppdet_repro.modeling.heads.retina_head import RetinaFeat, RetinaHead
from ppdet_repro.modeling.heads.retina_plus_head import RetinaPlusHead
from ppdet_repro.modeling.losses.focal import FocalLoss
from ppdet_repro.modeling.losses.iou_loss import GIoULoss
from ppdet_repro.modeling.necks.dilated_encoder import DilatedEncoder
from ppdet_repro.modeling.necks.encoders import MiSo, SiMo, SiSo
from ppdet_repro.modeling.nms import MultiClassNMS
from ppdet_repro.utils.errors import UserError


def maps(*sides, channels=8):
    return [paddle.randn([1, channels, side, side]) for side in sides]


def shapes(levels):
    return [level.shape for level in levels]


def test_one_map_becomes_five_levels():
    neck = SiMo([8], out_channel=4, stride=32)
    assert shapes(neck(maps(4))) == [[1, 4, side, side] for side in (16, 8, 4, 2, 1)]
    assert [spec.stride for spec in neck.out_shape] == [8, 16, 32, 64, 128]


def test_three_maps_become_one_level_that_sees_all_of_them():
    neck, feats = MiSo([8, 8, 8], [8, 16, 32], out_channel=4), maps(16, 8, 4)
    (level,) = neck(feats)
    assert level.shape == [1, 4, 4, 4] and neck.out_shape == [(4, 32)]
    for i in range(3):
        changed = [feat + (i == j) for j, feat in enumerate(feats)]
        assert float((neck(changed)[0] - level).abs().max()) > 0


def test_one_map_becomes_one_level():
    neck = SiSo([8], out_channel=4, stride=32)
    assert shapes(neck(maps(4))) == [[1, 4, 4, 4]] and neck.out_shape == [(4, 32)]
    # 1x1: 8 * 4 + 4; 3x3: 9 * 4 * 4 + 4
    assert sum(p.size for p in neck.parameters()) == 36 + 148


@pytest.mark.parametrize("neck", [SiMo, SiSo])
def test_a_single_input_encoder_refuses_three(neck):
    with pytest.raises(UserError, match=r"in_channels \[8, 8, 8\] must have one value"):
        neck([8, 8, 8])


def test_an_encoder_without_blocks_is_its_projector():
    neck = DilatedEncoder([8], [4], block_mid_channels=2, num_residual_blocks=0)
    neck.eval()
    (feat,) = maps(4)
    projected = neck.fpn_norm(neck.fpn_conv(neck.lateral_norm(neck.lateral_conv(feat))))
    np.testing.assert_array_equal(neck([feat])[0].numpy(), projected.numpy())


def test_the_shortcut_is_what_a_block_adds_to():
    paddle.seed(0)
    plain, residual = (DilatedEncoder([8], [4], 2, 1, [2], shortcut=shortcut) for shortcut in (False, True))
    residual.set_state_dict(plain.state_dict())
    bare = DilatedEncoder([8], [4], 2, 0)
    bare.set_state_dict({k: v for k, v in plain.state_dict().items() if "blocks" not in k})
    for neck in (plain, residual, bare):
        neck.eval()
    feats = maps(4)
    np.testing.assert_allclose(
        (residual(feats)[0] - plain(feats)[0]).numpy(), bare(feats)[0].numpy(), rtol=1e-5, atol=1e-6
    )


def test_the_activation_can_leak():
    def slopes(**options):
        layers = DilatedEncoder([8], [4], 2, 1, [2], **options).sublayers()
        return [layer._negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)]

    assert slopes(act="leaky") == [0.1] * 3 and slopes() == []


def test_a_dilated_last_stage_halves_the_stride_and_keeps_the_weights():
    plain, dilated = (ResNet(18, return_idx=[2, 3], width_mult=0.125, dilate_last=on) for on in (False, True))
    assert [spec.stride for spec in plain.out_shape] == [16, 32]
    assert [spec.stride for spec in dilated.out_shape] == [16, 16]
    image = paddle.zeros([1, 3, 64, 64])
    assert shapes(plain(image)) == [[1, 32, 4, 4], [1, 64, 2, 2]]
    assert shapes(dilated(image)) == [[1, 32, 4, 4], [1, 64, 4, 4]]
    names = [{k: v.shape for k, v in net.state_dict().items()} for net in (plain, dilated)]
    assert names[0] == names[1]
    assert dilated.res5.res5b.branch2b.conv._dilation == [2, 2]
    with pytest.raises(UserError, match="exclude each other"):
        ResNet(18, dilate_last=True, dcn_v2_stages=[3])


def test_csp_darknet_has_the_parameters_of_its_publication():
    # Counted from YOLOv4's network: stem 3*32*9; a stage of c channels with n blocks, w = c/2 (stage 1: w = c):
    # down 9*in*c, two 1x1 c*w, n blocks of w*m + 9*m*w (m = c/2), 1x1 w*w, join 2*w*c; 2 a channel for each norm
    def conv(i, o, k):
        return i * o * k * k + 2 * o

    expected, before = conv(3, 32, 3), 32
    for c, n in zip((64, 128, 256, 512, 1024), (1, 2, 8, 8, 4)):
        w, m = (c, c // 2) if c == 64 else (c // 2, c // 2)
        expected += conv(before, c, 3) + 2 * conv(c, w, 1) + n * (conv(w, m, 1) + conv(m, w, 3)) + conv(w, w, 1)
        expected += conv(2 * w, c, 1)
        before = c
    net = CSPDarkNet53(return_idx=[2, 3, 4], freeze_at=1, dilate_last=True)
    counted = [p for name, p in net.named_parameters() if not name.endswith(("_mean", "_variance"))]
    assert sum(p.size for p in counted) == expected == pytest.approx(26.6e6, rel=0.01)
    assert shapes(net(paddle.zeros([1, 3, 64, 64]))) == [[1, 256, 8, 8], [1, 512, 4, 4], [1, 1024, 4, 4]]
    assert [spec.stride for spec in net.out_shape] == [8, 16, 16]
    assert net.stages[1].down.conv.weight.stop_gradient and not net.stages[2].down.conv.weight.stop_gradient
    with pytest.raises(UserError, match="outside 0..4"):
        CSPDarkNet53(return_idx=[5])


def head(kind, norm_type="gn"):
    return kind(
        2,
        RetinaFeat(32, 32, 1, norm_type),
        RetinaAnchorGenerator(scales_per_octave=1, aspect_ratios=[1.0], strides=[8.0, 16.0]),
        MaxIoUAssigner(0.5, 0.4),
        FocalLoss(),
        GIoULoss(),
        MultiClassNMS(),
    )


def test_retina_plus_multiplies_scores_by_objectness():
    paddle.seed(0)
    plain, plus = head(RetinaHead), head(RetinaPlusHead)
    plus.set_state_dict({**plus.state_dict(), **plain.state_dict()})
    plus.retina_obj.bias.set_value(paddle.to_tensor([1.5]))
    plus.retina_obj.weight.set_value(paddle.zeros_like(plus.retina_obj.weight))
    feats = [paddle.randn([1, 32, 4, 4]), paddle.randn([1, 32, 2, 2])]
    sigmoid = nn.functional.sigmoid
    for mine, theirs in zip(plus(feats).logits, plain(feats).logits):
        expected = sigmoid(theirs) * sigmoid(paddle.to_tensor(1.5))
        np.testing.assert_allclose(sigmoid(mine).numpy(), expected.numpy(), rtol=1e-5)
    groups = [layer for layer in plus.sublayers() if isinstance(layer, nn.GroupNorm)]
    assert len(groups) == 2 and groups[0]._num_groups == 32


def test_retina_plus_regresses_boxes_by_giou():
    # one anchor (0, 0, 32, 32) whose deltas are 0 predicts itself; the box to learn is its left half:
    # IoU = 16 / 32 = .5, the enclosing box is the anchor, so GIoU = .5 and the loss .5
    plus = head(RetinaPlusHead)
    anchors = paddle.to_tensor([[0.0, 0, 32, 32]])
    loss = plus.box_losses(paddle.zeros([1, 4]), anchors, paddle.to_tensor([[0.0, 0, 16, 32]]))
    assert loss.tolist() == pytest.approx([0.5])


def test_retina_plus_learns_objectness_without_a_loss_of_its_own():
    plus = head(RetinaPlusHead)
    feats = [paddle.randn([1, 32, 4, 4]), paddle.randn([1, 32, 2, 2])]
    batch = {"gt_bbox": [paddle.to_tensor([[0.0, 0, 30, 30]])], "gt_class": [paddle.to_tensor([[1]], "int32")]}
    losses = plus.losses(plus(feats), batch)
    losses["loss"].backward()
    assert float(losses["loss_reg"]) > 0
    assert float(plus.retina_obj.weight.grad.abs().sum()) > 0


def test_table_7s_anchors_are_as_many_as_the_paper_says():
    octave = [size * 2 ** (i / 3) for size in (32, 64, 128, 256, 512) for i in range(3)]
    assert AnchorGenerator([octave], [0.5, 1.0, 2.0], [32]).num_anchors == 45
