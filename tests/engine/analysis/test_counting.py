"""Counting parameters and multiply-adds: every kind of layer against arithmetic done by hand."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from ppdet_repro import build_model, load_config
from ppdet_repro.core.config import build
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.engine.analysis.counting import count, count_input, count_parameters, input_size
from ppdet_repro.modeling.backbones.resnet import DeformConvNorm
from ppdet_repro.modeling.layers import batch_norm

YOLOF = "configs/yolof/yolof_r50_c5_1x_coco.yml"


def cost(layer: nn.Layer, *shape: int) -> int:
    return count(layer, lambda: layer(paddle.zeros(shape))).total


def test_a_dilated_convolution_costs_what_a_dense_one_does():
    # 8 x 10 x 10 outputs, each of 3 x 3 x 3 weights; dilation 4 reads further and costs no more
    assert cost(nn.Conv2D(3, 8, 3, padding=1), 1, 3, 10, 10) == 8 * 100 * 27
    assert cost(nn.Conv2D(3, 8, 3, padding=4, dilation=4), 1, 3, 10, 10) == 8 * 100 * 27


def test_a_strided_convolution_costs_by_its_output():
    # 9 x 9 in, stride 2, padding 1: (9 + 2 - 3) // 2 + 1 = 5 out
    assert cost(nn.Conv2D(4, 8, 3, stride=2, padding=1), 1, 4, 9, 9) == 8 * 25 * 4 * 9


def test_a_group_sees_only_its_own_channels():
    assert cost(nn.Conv2D(4, 8, 3, padding=1, groups=2), 1, 4, 5, 5) == 8 * 25 * (4 // 2) * 9
    assert cost(nn.Conv2D(6, 6, 5, padding=2, groups=6), 1, 6, 4, 4) == 6 * 16 * 25  # depthwise


def test_a_transposed_convolution_costs_by_its_input():
    # each of 4 x 5 x 5 input values is multiplied by 6 (with two groups 3) x 4 x 4 weights; the output is 10 x 10
    assert cost(nn.Conv2DTranspose(4, 6, 4, stride=2, padding=1), 1, 4, 5, 5) == 100 * 6 * 16
    assert cost(nn.Conv2DTranspose(4, 6, 4, stride=2, padding=1, groups=2), 1, 4, 5, 5) == 100 * 3 * 16


def test_a_linear_layer_costs_its_weights_per_row():
    assert cost(nn.Linear(7, 5), 2, 3, 7) == 2 * 3 * 35


def test_a_deformable_convolution_costs_its_offsets_too():
    layer = DeformConvNorm(4, 8, 3, 1, batch_norm, 1.0)
    # the convolution itself; and 27 = 9 taps x (dy, dx, mask) channels of offsets, a dense 3x3 convolution
    assert cost(layer, 1, 4, 6, 6) == 8 * 36 * 4 * 9 + 27 * 36 * 4 * 9


def test_norms_activations_and_pooling_cost_nothing():
    layer = nn.Sequential(nn.BatchNorm2D(3), nn.ReLU(), nn.MaxPool2D(2), nn.Upsample(scale_factor=2))
    assert cost(layer, 1, 3, 8, 8) == 0


class TwoLevels(nn.Layer):
    """One head on two maps, and a branch that only training runs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2D(2, 2, 1)
        self.extra = nn.Conv2D(2, 2, 1)

    def forward(self, x):
        outputs = [self.head(x), self.head(x[:, :, :2, :2])]
        return outputs + [self.extra(x)] if self.training else outputs


def test_weights_shared_over_levels_count_once_as_parameters_and_in_every_call():
    model = TwoLevels()
    counted = count(model, lambda: model(paddle.zeros([1, 2, 4, 4])))
    assert counted.parts["head"] == 4 * 16 + 4 * 4
    assert count_parameters(model.head).total == 4 + 2  # weights and bias


def test_layers_that_did_not_run_are_named_and_the_model_is_unchanged():
    model = TwoLevels()
    counted = count(model, lambda: model(paddle.zeros([1, 2, 4, 4])))
    assert counted.idle == ["extra"] and counted.parts["extra"] == 0
    assert model.training and not model.head._forward_post_hooks


def test_a_layer_of_another_kind_that_has_a_weight_is_named():
    model = nn.Sequential(nn.Embedding(5, 3))
    assert count(model, lambda: model(paddle.zeros([2], "int64"))).idle == ["0"]


def test_running_statistics_are_not_parameters_and_frozen_weights_are_not_trainable():
    model = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4))
    assert count_parameters(model) == (4 * 27 + 4 + 4, 4 * 27 + 4 + 4)
    assert count_parameters(model[1]).total == 8
    model[0].weight.stop_gradient = True
    assert count_parameters(model) == (116, 8)


def test_yolof_has_the_papers_parameters_and_its_cost_is_proportional_to_the_area():
    model = build_model(load_config(YOLOF))
    assert count_parameters(model).total == pytest.approx(44e6, rel=0.01)
    small, wide = count_input(model, (64, 64)), count_input(model, (64, 128))
    assert list(small.parts) == ["backbone", "neck", "head"] and not small.idle
    assert wide.total == 2 * small.total
    # at 800 x 1344: 109.25 GFLOPs, 262.5 times those of 64 x 64
    assert small.total * (800 * 1344) / (64 * 64) == pytest.approx(109.25e9, rel=1e-4)


def test_images_are_resized_and_padded_as_for_evaluation():
    preprocess = Preprocess(build(load_config(YOLOF), "EvalReader").preprocess)
    assert input_size(preprocess, (480, 640)) == ((800, 1067), (800, 1088))
    assert input_size(preprocess, (640, 480)) == ((1067, 800), (1088, 800))
    assert input_size(preprocess, (100, 500)) == ((267, 1333), (288, 1344))
