"""Counting parameters and multiply-adds: every kind of layer against arithmetic done by hand."""

from __future__ import annotations

import json

import paddle
import pytest
from paddle import nn

from ppdet_repro import build_model, load_config
from ppdet_repro.cli.info import image_sizes
from ppdet_repro.core.config import build
from ppdet_repro.data.transform.normalize import Permute
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.engine.analysis.model_info import (
    PAPERS,
    Image,
    Published,
    comparison,
    count,
    count_image,
    count_parameters,
    count_pictures,
    input_size,
    mean_line,
    model_info,
)
from ppdet_repro.modeling.backbones.resnet import DeformConvNorm
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.utils.errors import UserError

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
    # every one of 4 x 5 x 5 input values meets 6 (3 in groups of two) x 4 x 4 weights; the output is 10 x 10
    assert cost(nn.Conv2DTranspose(4, 6, 4, stride=2, padding=1), 1, 4, 5, 5) == 100 * 6 * 16
    assert cost(nn.Conv2DTranspose(4, 6, 4, stride=2, padding=1, groups=2), 1, 4, 5, 5) == 100 * 3 * 16


def test_a_linear_layer_costs_its_weights_a_row():
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


def test_what_did_not_run_is_named_and_the_model_is_left_as_it_was():
    model = TwoLevels()
    counted = count(model, lambda: model(paddle.zeros([1, 2, 4, 4])))
    assert counted.idle == ["extra"] and counted.parts["extra"] == 0
    assert model.training and not model.head._forward_post_hooks


def test_a_weight_of_a_layer_of_another_kind_is_named():
    model = nn.Sequential(nn.Embedding(5, 3))
    assert count(model, lambda: model(paddle.zeros([2], "int64"))).idle == ["0"]


def test_running_statistics_are_no_parameters_and_frozen_ones_are_not_trainable():
    model = nn.Sequential(nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4))
    assert count_parameters(model) == (4 * 27 + 4 + 4, 4 * 27 + 4 + 4)
    assert count_parameters(model[1]).total == 8
    model[0].weight.stop_gradient = True
    assert count_parameters(model) == (116, 8)


def test_yolof_has_the_papers_parameters_and_its_cost_goes_with_the_area():
    model = build_model(load_config(YOLOF))
    assert count_parameters(model).total == pytest.approx(44e6, rel=0.01)
    small, wide = count_image(model, (64, 64)), count_image(model, (64, 128))
    assert list(small.parts) == ["backbone", "neck", "head"] and not small.idle
    assert wide.total == 2 * small.total
    # at 800 x 1344: 109.25 GFLOPs, 262.5 times those of 64 x 64
    assert small.total * (800 * 1344) / (64 * 64) == pytest.approx(109.25e9, rel=1e-4)


def test_pictures_are_resized_and_padded_as_for_evaluation():
    preprocess = Preprocess(build(load_config(YOLOF), "EvalReader").preprocess)
    assert input_size(preprocess, (480, 640)) == ((800, 1067), (800, 1088))
    assert input_size(preprocess, (640, 480)) == ((1067, 800), (1088, 800))
    assert input_size(preprocess, (100, 500)) == ((267, 1333), (288, 1344))


def test_table_1_has_the_papers_parameters_and_ratios_of_costs():
    """YOLOF's Table 1: parameters within 2 %, costs in the paper's proportions within 3 % (each scaled by area from
    128 x 128 px, where every level of a pyramid is whole, to the paper's pictures)."""
    left = []
    for name in ("retinanet_r50", "retinanet_r101", "yolof_r50_c5", "yolof_r101_c5", "yolof_x101_64x4d_c5"):
        paper = PAPERS[f"{name}_1x_coco"]
        model = build_model(load_config(f"configs/yolof/{name}_1x_coco.yml", paper.overrides))
        assert count_parameters(model).total == pytest.approx(paper.parameters, rel=0.02), name
        left.append(count_image(model, (128, 128)).total * paper.area / 128**2 / paper.macs)
    assert max(left) / min(left) < 1.03


class OneConv(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 1, 1)

    def raw(self, image):
        return self.conv(image)


def test_the_mean_is_over_pictures_not_over_sizes():
    preprocess = Preprocess([Resize([20, 40], keep_ratio=True), Permute()])
    images = count_pictures(OneConv(), preprocess, [(10, 20), (10, 20), (10, 10)])
    assert [image.padded for image in images] == [(20, 40), (20, 40), (20, 20)]
    assert [image.cost.total for image in images] == [3 * 800, 3 * 800, 3 * 400]
    assert "the mean over 3 pictures: mean area 667 px resized" in mean_line(images)  # 2000 / 3


def test_the_difference_to_the_paper_is_explained_step_by_step():
    paper = Published("a paper", 10e6, 6e9, "its pictures", 500.0, "half the area", "another net", ())
    parts = count(OneConv(), lambda: None)._replace(parts={"net": 10 * 10**9})
    lines = comparison(paper, 11_000_000, [Image(None, (20, 50), (20, 50), parts)], network=1.1)
    # 10 G x 500 / 1000 px = 5 G; x 1.1 = 5.5 G, 8.3 % under 6 G
    assert "here 11.00 M (+10.0%)" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["10.00", "5.00", "5.50", "6.00"]
    assert lines[-1].endswith("-8.3% is left")


def test_the_report_states_size_parts_and_the_papers_figures():
    report = model_info(YOLOF, size=(64, 64))
    for words in ("backbone", "44.17 M", "0.42 GFLOPs at 64 x 64", "44 M ", "86 GFLOPs", "+0.2% is left"):
        assert words in report


def test_image_sizes_come_from_a_coco_json_by_image_id(tmp_path):
    images = [{"id": 9, "height": 1, "width": 2}, {"id": 3, "height": 3, "width": 4}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images}))
    assert image_sizes(str(path), None) == [(3, 4), (1, 2)]
    assert image_sizes(str(path), 1) == [(3, 4)]


@pytest.mark.parametrize("text", ["[]", "{}", "not json", '{"images": []}', '{"images": [{"id": 1}]}'])
def test_a_json_that_is_not_cocos_is_one_clear_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"--anno {path}: "):
        image_sizes(str(path), None)
    with pytest.raises(UserError, match="No such file"):
        image_sizes(str(tmp_path / "missing.json"), None)
