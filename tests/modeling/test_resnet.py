"""ResNet: shapes, parameter names and freezing of its variants."""

from __future__ import annotations

import paddle
import pytest

from ppdet_repro.modeling.backbones.resnet import ResNet, block_name
from ppdet_repro.utils.errors import UserError


def names(model):
    return list(model.state_dict())


@pytest.mark.parametrize("depth, channels", [(18, [64, 128, 256, 512]), (50, [256, 512, 1024, 2048])])
def test_maps_and_strides(depth, channels):
    model = ResNet(depth)
    maps = model(paddle.zeros([1, 3, 64, 96]))
    assert [m.shape for m in maps] == [[1, c, 64 // s, 96 // s] for c, s in zip(channels, (4, 8, 16, 32))]
    assert [tuple(s) for s in model.out_shape] == list(zip(channels, (4, 8, 16, 32)))


def test_block_names_are_those_of_published_checkpoints():
    assert [block_name(3, 4, i) for i in range(4)] == ["res3a", "res3b", "res3c", "res3d"]
    assert [block_name(4, 23, i) for i in (0, 1, 22)] == ["res4a", "res4b1", "res4b22"]
    assert block_name(4, 6, 5) == "res4f"


def test_variant_d_pools_in_the_shortcut_and_has_three_convolutions_in_the_stem():
    keys = names(ResNet(18, variant="d"))
    assert "conv1.conv1_3.conv.weight" in keys
    assert "res3.res3a.short.conv.conv.weight" in keys  # after the pooling
    assert "res2.res2a.short.conv.weight" in keys  # stride 1: no pooling


def test_a_deformable_stage_has_offset_convolutions_in_all_blocks():
    model = ResNet(18, dcn_v2_stages=[3], freeze_at=-1)
    offsets = [k for k in names(model) if "conv_offset.weight" in k]
    assert offsets == ["res5.res5a.branch2b.conv_offset.weight", "res5.res5b.branch2b.conv_offset.weight"]
    assert model(paddle.zeros([1, 3, 64, 64]))[-1].shape == [1, 512, 2, 2]


def test_an_untrained_deformable_convolution_is_half_an_ordinary_one():
    """Offsets start at zero and the mask at sigmoid(0) = 0.5."""
    deformable = ResNet(18, dcn_v2_stages=[3], return_idx=[3]).res5.res5b.branch2b
    x = paddle.randn([1, 512, 4, 4])
    plain = paddle.nn.functional.conv2d(x, deformable.conv.weight, padding=1)
    assert float((deformable.convolve(x) - 0.5 * plain).abs().max()) < 1e-4


@pytest.mark.parametrize("freeze_at, frozen", [(-1, []), (0, ["conv1", "res2"]), (1, ["conv1", "res2", "res3"])])
def test_freeze_at(freeze_at, frozen):
    model = ResNet(18, freeze_at=freeze_at, freeze_norm=False)
    stopped = {n.split(".")[0] for n, p in model.named_parameters() if p.stop_gradient and "._" not in n}
    assert sorted(stopped) == frozen


def test_frozen_norm_keeps_its_statistics_in_training():
    model = ResNet(18, freeze_at=-1, freeze_norm=True)
    model.train()
    before = model.state_dict()["res5.res5b.branch2b.norm._mean"].numpy().copy()
    model(paddle.randn([2, 3, 64, 64]))
    assert (model.state_dict()["res5.res5b.branch2b.norm._mean"].numpy() == before).all()
    assert all(p.stop_gradient for n, p in model.named_parameters() if ".norm." in n)


def test_resnext_groups_and_stem_name():
    model = ResNet(50, groups=32, base_width=4, return_idx=[0], num_stages=1)
    assert "conv1.res_conv1.conv.weight" in names(model)
    assert model.res2.res2a.branch2b.conv.weight.shape == [128, 4, 3, 3]  # int(64 * 4 / 64) * 32 = 128 wide


def test_width_mult_scales_all_channels():
    model = ResNet(18, width_mult=0.5, variant="d")
    assert [s.channels for s in model.out_shape] == [32, 64, 128, 256]
    assert model.conv1.conv1_3.conv.weight.shape == [32, 16, 3, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"return_idx": [4]}, "return_idx"),
        ({"dcn_v2_stages": [3], "num_stages": 3, "return_idx": [0]}, "dcn_v2_stages"),
        ({"lr_mult_list": [1.0]}, "lr_mult_list"),
        ({"depth": 18, "groups": 32}, "bottleneck"),
    ],
)
def test_contradictory_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ResNet(**arguments)
