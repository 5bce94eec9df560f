"""Filter pruning: which filters go, what shrinks with them, the names of layers, the ratios, and wrong settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from small_detectors import small_config

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.engine.analysis.counting import count_input
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.slim.engine import import_paddleslim
from ppdet_repro.slim.prune import Pruner, PrunerQAT, automatic_names
from ppdet_repro.slim.prune_network import NetworkPruner, network_program
from ppdet_repro.slim.prune_shapes import Costs, raw_shapes, remove_channels, shrink_to
from ppdet_repro.utils.errors import UserError

SIZE = (8, 8)


class Part(nn.Layer):
    """A part of a detector with one output."""

    def __init__(self, channels, **layers):
        super().__init__()
        self.out_shape = [ShapeSpec(channels, 1)]
        for name, layer in layers.items():
            self.add_sublayer(name, layer)


class Backbone(Part):
    def forward(self, x):
        first, second = self.a(x), self.b(x)
        return [F.mish(self.norm(paddle.concat([first, second], axis=1)))]


class Neck(Part):
    def forward(self, maps):
        return [self.depthwise(F.relu(self.c(maps[0]) + self.d(maps[0])))]


class Head(Part):
    def forward(self, maps):
        return [self.last(maps[0])]


class Tiny(Detector):
    def __init__(self, backbone, neck, head):
        super().__init__(backbone, neck)
        self.head = head


def tiny():
    """[B, 3, H, W] -> a: 4 channels, b: 2, both to c and d: 4 each, added; then depthwise 3x3, and 5 outputs."""
    paddle.seed(0)

    def conv(c_in, c_out, kernel=1, **settings):
        return nn.Conv2D(c_in, c_out, kernel, padding=kernel // 2, **settings)

    backbone = Backbone(6, a=conv(3, 4, bias_attr=False), b=conv(3, 2, bias_attr=False), norm=nn.BatchNorm2D(6))
    neck = Neck(4, c=conv(6, 4), d=conv(6, 4), depthwise=conv(4, 4, 3, groups=4))
    detector = Tiny(backbone, neck, Head(5, last=conv(4, 5)))
    detector.eval()
    return detector


def points(layer, values):
    """Set the filters of a convolution so that each is one number, in the first place of its kernel."""
    weight = np.zeros(layer.weight.shape, np.float32)
    weight[:, 0, 0, 0] = values
    layer.weight.set_value(weight)


def test_l1_norm_removes_the_smallest_filters_and_fpgm_those_nearest_to_the_others():
    detector = tiny()
    points(detector.backbone.a, [0, 1, 2, -10])
    kept = NetworkPruner(detector, "l1_norm", SIZE).masks({"backbone.a.weight": 0.5})["backbone.a.weight"][0]
    assert kept.tolist() == [False, False, True, True]
    # sums of distances: 0: 1 + 2 + 10 = 13, 1: 1 + 1 + 11 = 13, 2: 2 + 1 + 12 = 15, -10: 10 + 11 + 12 = 33
    kept = NetworkPruner(detector, "fpgm", SIZE).masks({"backbone.a.weight": 0.5})["backbone.a.weight"][0]
    assert kept.tolist() == [False, False, True, True]
    points(detector.backbone.a, [0, 1, 2, 10])
    # 0: 1 + 2 + 10 = 13, 1: 1 + 1 + 9 = 11, 2: 2 + 1 + 8 = 11, 10: 10 + 9 + 8 = 27
    kept = NetworkPruner(detector, "fpgm", SIZE).masks({"backbone.a.weight": 0.5})["backbone.a.weight"][0]
    assert kept.tolist() == [True, False, False, True]


def test_what_reads_a_pruned_output_shrinks_with_it_also_behind_a_concatenation():
    detector = tiny()
    points(detector.backbone.a, [4, 1, 3, 2])
    points(detector.backbone.b, [1, 2])
    masks = NetworkPruner(detector, "l1_norm", SIZE).masks({"backbone.a.weight": 0.5, "backbone.b.weight": 0.5})
    kept = [True, False, True, False, False, True]
    assert masks["neck.c.weight"][1].tolist() == masks["neck.d.weight"][1].tolist() == kept
    norm = ("weight", "bias", "_mean", "_variance")
    assert all(masks[f"backbone.norm.{name}"][0].tolist() == kept for name in norm)
    assert set(masks) == {
        *("backbone.a.weight", "backbone.b.weight", "neck.c.weight", "neck.d.weight"),
        *(f"backbone.norm.{name}" for name in norm),
    }


def test_outputs_that_are_added_are_one_group_with_the_depthwise_convolution_behind_it():
    detector = tiny()
    pruner = NetworkPruner(detector, "l1_norm", SIZE)
    assert pruner.groups == ["backbone.a.weight", "backbone.b.weight", "neck.c.weight"]
    points(detector.neck.d, [1, 4, 3, 2])
    pruner = NetworkPruner(detector, "l1_norm", SIZE)
    assert pruner.can_prune("neck.d.weight") and not pruner.can_prune("head.last.weight")
    remove_channels(detector, pruner.masks({"neck.d.weight": 0.25}))  # the weight that is named decides
    assert detector.neck.d.weight.numpy()[:, 0, 0, 0].tolist() == [4, 3, 2]
    assert detector.neck.c.weight.shape == [3, 6, 1, 1] and detector.neck.c.bias.shape == [3]
    assert detector.neck.depthwise.weight.shape == [3, 1, 3, 3] and detector.head.last.weight.shape == [5, 3, 1, 1]
    assert raw_shapes(detector, SIZE) == [[1, 5, 8, 8]]


def test_multiply_adds_before_and_after():
    detector = tiny()
    costs = Costs(detector, SIZE)
    # a and b 3 * 6, c and d 2 * 6 * 4, depthwise 4 * 9, last 4 * 5: 122 at each of 64 positions
    assert costs.total(detector) == 64 * (18 + 48 + 36 + 20) == count_input(detector, SIZE).total
    masks = NetworkPruner(detector, "fpgm", SIZE).masks({"neck.c.weight": 0.5})
    assert costs.total(detector, masks) == 64 * (18 + 24 + 18 + 10)
    remove_channels(detector, masks)
    assert costs.total(detector) == 64 * (18 + 24 + 18 + 10) == count_input(detector, SIZE).total


def test_multiply_adds_are_paddleslims_but_for_deformable_convolutions(tmp_path):
    slim = import_paddleslim()
    for name, deformable in (("pafnet", False), ("ppyolov2", True)):
        detector = build_model(small_config(name, tmp_path))
        with protobuf_tracing():
            theirs = slim.analysis.flops(network_program(detector, (64, 64))[0], only_conv=True)
        ours = Costs(detector, (64, 64)).total(detector)
        assert (ours > theirs) if deformable else (ours == theirs)


def test_the_detector_is_as_fast_and_exact_as_before_tracing():
    detector, image = tiny(), paddle.rand([1, 3, *SIZE])
    forward = type(detector.neck).forward
    before = detector.raw(image)[0].numpy()
    NetworkPruner(detector, "l1_norm", SIZE)
    assert detector.neck.forward.__func__ is forward  # tracing replaces this function in what it traces
    assert (detector.raw(image)[0].numpy() == before).all()


# Automatic name in PaddleDetection (built with Paddle 2.6.2, PaddleDetection develop) -> name in the state dict
PPYOLO_R50 = {
    "conv2d_0.w_0": "backbone.conv1.conv1_1.conv.weight",
    "conv2d_3.w_0": "backbone.res2.res2a.branch2a.conv.weight",
    "conv2d_6.w_0": "backbone.res2.res2a.short.conv.weight",
    "conv2d_56.w_0": "neck.yolo_block.0.conv_module.conv1.conv.weight",
    "conv2d_58.w_0": "neck.yolo_block.0.conv_module.spp.conv.conv.weight",
    "conv2d_59.w_0": "neck.yolo_block.0.conv_module.conv3.conv.weight",
    "conv2d_62.w_0": "neck.yolo_transition.0.conv.weight",
    "conv2d_75.w_0": "neck.yolo_block.2.tip.conv.conv.weight",
    "conv2d_78.w_0": "yolo_head.yolo_output.2.weight",
}
RETINANET = {
    "conv2d_61.w_0": "head.conv_feat.fcos_head_cls_tower_conv_0.conv.weight",
    "conv2d_62.w_0": "head.conv_feat.fcos_head_reg_tower_conv_0.conv.weight",
    "conv2d_63.w_0": "head.conv_feat.fcos_head_cls_tower_conv_1.conv.weight",
}
PPYOLOV2 = {
    "conv2d_55.w_0": "neck.fpn.0.conv1.conv.weight",
    "conv2d_58.w_0": "neck.fpn.0.conv_module.0.0.conv.weight",
    "conv2d_61.w_0": "neck.fpn.0.conv_module.spp.conv.conv.weight",
    "conv2d_84.w_0": "neck.pan_transition.1.conv.weight",
    "conv2d_85.w_0": "neck.pan.1.conv1.conv.weight",
    "conv2d_94.w_0": "neck.pan_transition.0.conv.weight",
}


@pytest.mark.parametrize(
    "config, names, count",
    [
        ("ppyolo/ppyolo_r50vd_dcn_1x_coco.yml", PPYOLO_R50, 79),
        ("retinanet/retinanet_r50_fpn_1x_coco.yml", RETINANET, 71),
        ("ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml", PPYOLOV2, 107),
    ],
)
def test_automatic_names_are_those_of_paddledetection_whatever_was_built_before(config, names, count):
    nn.Conv2D(1, 1, 1)
    found = automatic_names(build_model(load_config(config)))
    assert {name: found[name] for name in names} == names
    assert len(found) == count and f"conv2d_{count - 1}.w_0" in found


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "either pruned_flops, or pruned_params"),
        ({"pruned_flops": 0.3, "pruned_params": ["conv2d_1.w_0"], "pruned_ratios": [0.5]}, "either pruned_flops, or"),
        ({"pruned_params": ["conv2d_1.w_0"], "pruned_ratios": [0.5, 0.5]}, "1 pruned_params and 2 pruned_ratios"),
        ({"pruned_params": ["conv2d_1.w_0"] * 2, "pruned_ratios": [0.5, 0.5]}, "names a weight twice"),
        ({"pruned_params": ["conv2d_1.w_0"], "pruned_ratios": [1.0]}, "pruned_ratios: 1 is not between 0 and 1"),
        ({"pruned_flops": -0.1}, "pruned_flops: -0.1 is not between 0 and 1"),
        (
            {"pruned_params": ["conv2d_1.w_0"], "pruned_ratios": [0.1], "sensitivity_file": "a.json"},
            "sensitivity_file needs pruned_flops",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(given, message):
    with pytest.raises(UserError, match=message):
        Pruner(**given)
    if "sensitivity_file" not in given:
        with pytest.raises(UserError, match=message):
            PrunerQAT(**given)


def test_unknown_and_fixed_weights_are_one_sentence():
    with pytest.raises(UserError, match=r"no convolution .* 'conv2d_6\.w_0'; .* conv2d_0\.w_0 to conv2d_5"):
        Pruner(pruned_params=["conv2d_6.w_0"], pruned_ratios=[0.5]).prune(tiny(), SIZE)
    with pytest.raises(UserError, match=r"conv2d_5\.w_0 \(head\.last\.weight\) cannot be pruned, .* an output"):
        Pruner(pruned_params=["conv2d_5.w_0"], pruned_ratios=[0.5]).prune(tiny(), SIZE)
    with pytest.raises(UserError, match="0.95 is more than can be removed from this model"):
        Pruner(pruned_flops=0.95).prune(tiny(), SIZE)


def test_both_kinds_of_names_and_the_log(logged):
    by_name, by_number = tiny(), tiny()
    Pruner(pruned_params=["neck.c.weight"], pruned_ratios=[0.5], print_params=True).prune(by_name, SIZE)
    assert "conv2d_2.w_0  neck.c.weight [4, 6, 1, 1]" in logged.text
    assert "0.000 -> 0.000 G multiply-adds at 8 x 8 px, 42.6% fewer" in logged.text  # 1 - 70 / 122
    Pruner(pruned_params=["conv2d_2.w_0"], pruned_ratios=[0.5]).prune(by_number, SIZE)
    assert by_name.neck.out_shape == [ShapeSpec(2, 1)]
    for name, value in by_name.state_dict().items():
        assert (by_number.state_dict()[name].numpy() == value.numpy()).all()


def test_uniform_ratios_remove_the_share_of_multiply_adds_and_keep_multiples_of_8(tmp_path):
    detector = build_model(small_config("yolof", tmp_path))
    costs = Costs(detector, (64, 64))
    before = costs.total(detector)
    Pruner("fpgm", pruned_flops=0.3).prune(detector, (64, 64))
    assert 0.68 < costs.total(detector) / before <= 0.7
    convolutions = [layer for name, layer in detector.backbone.named_sublayers() if isinstance(layer, nn.Conv2D)]
    assert {layer.weight.shape[0] % 8 for layer in convolutions} == {0}


def test_a_sensitivity_analysis_spares_what_costs_score_and_continues_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr("ppdet_repro.slim.prune_network.MULTIPLE", 1)
    detector, file, calls = tiny(), tmp_path / "folder" / "sensitivity.json", []

    def score():
        calls.append(detector.neck.c.weight.shape[0])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return 0.5 if detector.neck.c.weight.shape[0] == 4 else 0.1  # whatever removes filters of c costs 0.4 of 0.5

    pruner = Pruner(pruned_flops=0.05, sensitivity_file=str(file))
    with pytest.raises(UserError, match="evaluates the model; add --eval"):
        pruner.prune(detector, SIZE)
    with pytest.raises(KeyboardInterrupt):
        pruner.prune(detector, SIZE, score)
    assert len(json.loads(file.read_text())["backbone.a.weight"]) == 3  # the first evaluation is the unpruned model's

    detector = tiny()
    pruner.prune(detector, SIZE, score)
    assert len(calls) == 5 + 1 + 9 * 3 - 3
    losses = json.loads(file.read_text())
    assert losses["backbone.a.weight"]["0.5"] == 0
    assert losses["neck.c.weight"]["0.5"] == pytest.approx(0.4 / 0.5, abs=2e-3)
    assert detector.neck.c.weight.shape[0] == 4 and detector.backbone.a.weight.shape[0] < 4

    done = len(calls)
    Pruner(pruned_flops=0.05, sensitivity_file=str(file)).prune(tiny(), SIZE, score)
    assert len(calls) == done
    with pytest.raises(UserError, match="AP is 0 before pruning"):
        Pruner(pruned_flops=0.05, sensitivity_file=str(tmp_path / "b.json")).prune(tiny(), SIZE, lambda: 0.0)


def test_a_detector_takes_the_shapes_of_a_pruned_file_and_no_others():
    pruned = tiny()
    remove_channels(
        pruned, NetworkPruner(pruned, "l1_norm", SIZE).masks({"neck.c.weight": 0.5, "backbone.a.weight": 0.5})
    )
    shapes = {name: value.shape for name, value in pruned.state_dict().items()}
    detector = tiny()
    found = shrink_to(detector, shapes)  # a 6, b 6, c and d 16, depthwise 18, last 10: 56 of 122 remain
    assert found == "a pruned model: 5 of 6 convolutions are smaller, 54.1% fewer multiply-adds"
    assert {name: value.shape for name, value in detector.state_dict().items()} == shapes
    assert detector.backbone.out_shape == [ShapeSpec(4, 1)] and detector.neck.out_shape == [ShapeSpec(2, 1)]
    assert shrink_to(detector, shapes) is None  # it has them

    for wrong in (
        {"head.last.weight": [4, 2, 1, 1], "head.last.bias": [4]},  # another number of outputs
        {"neck.c.weight": [2, 3, 1, 1]},  # not the channels that its input has
        {"neck.c.weight": [2, 4, 3, 3]},  # another kernel
        {"neck.c.weight": [8, 4, 1, 1]},  # more channels
    ):
        detector = tiny()
        state = {name: value.numpy() for name, value in detector.state_dict().items()}
        assert shrink_to(detector, {**shapes, **wrong}) is None
        for name, value in detector.state_dict().items():
            assert (value.numpy() == state[name]).all()
        assert raw_shapes(detector, SIZE) == [[1, 5, 8, 8]]
    assert shrink_to(tiny(), {name: shape for name, shape in shapes.items() if "last" not in name}) is None


def test_not_supported_methods_are_one_line(tmp_path):
    for name, hint in (("OFA", "Pruner removes filters"), ("UnstructuredPruner", "removes whole filters")):
        path = Path(tmp_path / "slim.yml")
        path.write_text(f"slim: {name}\n{name}: {{ratio: 0.75}}\n")
        with pytest.raises(UserError, match=rf"slim.yml:1: slim: {name} is not supported; .*{hint}") as error:
            load_config("demo/yolof_demo.yml", (), path)
        assert "\n" not in str(error.value)


def test_the_sections_of_paddledetection_build(tmp_path):
    path = tmp_path / "slim.yml"
    lists = "{criterion: fpgm, pruned_params: ['conv2d_0.w_0'], pruned_ratios: [0.75], print_params: True}"
    path.write_text(f"pretrain_weights: a.pdparams\nslim: Prune\nPruner: {lists}\n")
    cfg = load_config("demo/yolof_demo.yml", ["Pruner.pruned_ratios=[0.5]"], path)
    assert cfg.name == "slim" and build(cfg, "Pruner").named == {"conv2d_0.w_0": 0.5}
    qat = lists.replace("print_params", "print_prune_params").replace("}", ", print_qat_model: True, quant_config: {}}")
    path.write_text(f"pretrain_weights: a.pdparams\nslim: PrunerQAT\nPrunerQAT: {qat}\n")
    cfg = load_config("demo/yolof_demo.yml", (), path)
    assert cfg.run.quantized and build(cfg, "PrunerQAT").pruner.named == {"conv2d_0.w_0": 0.75}
