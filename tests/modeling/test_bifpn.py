"""BiFPN and the necks it is compared with: recorded outputs and properties.

The fixtures hold two random networks per wiring, in evaluation mode, computed by a reference implementation of the
paper's equations 1 and 2 in numpy.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import inference
from parity_weights import FIXTURES

from ppdet_repro.modeling.layers import nearest
from ppdet_repro.modeling.level_selection import FeatureSelectionNet
from ppdet_repro.modeling.necks import bifpn
from ppdet_repro.modeling.necks.bifpn import BiFPN, CellFPN, CellPANet, Fusion, NoFusion, enlarge, halve
from ppdet_repro.paddle_private.saved_program import inference_config
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.utils.errors import UserError

CHANNELS, STRIDES, WIDTH = [5, 6, 7], [8, 16, 32], 4
NECKS = {
    "paper": lambda: BiFPN(CHANNELS, STRIDES, WIDTH),
    "efficientdet": lambda: BiFPN(CHANNELS, STRIDES, WIDTH, wiring="efficientdet"),
    "fpn": lambda: CellFPN(CHANNELS, STRIDES, WIDTH),
    "panet": lambda: CellPANet(CHANNELS, STRIDES, WIDTH),
    "none": lambda: NoFusion(CHANNELS, STRIDES, WIDTH),
}
NORM = {"gamma": "norm.weight", "beta": "norm.bias", "mean": "norm._mean", "var": "norm._variance"}
LAYERS = {"dw": "depthwise.weight", "pw": "pointwise.weight"}


def state_dict_key(name):
    """The key of a recorded array.

    lat3.w -> laterals.0.conv.weight; cell0.t6.w -> cells.0.t6.weights; cell0.t6.var -> cells.0.t6.norm._variance.
    """
    *path, kind = name.split(".")
    if path[0].startswith("lat"):
        return f"laterals.{int(path[0][3:]) - 3}.{NORM.get(kind, 'conv.weight')}"
    return f"cells.{path[0][4:]}.{path[1]}.{ {'w': 'weights', **LAYERS, **NORM}[kind] }"


@pytest.mark.parametrize("channels, size, groups, fan_in", [(100, 1, 1, 100), (1000, 3, 1000, 9)])
def test_initial_weights_have_the_variance_1_over_fan_in_and_are_cut_at_twice_their_deviation(
    channels, size, groups, fan_in
):
    paddle.seed(0)
    weights = bifpn.conv(channels, 1000, size, groups).weight.numpy()
    assert weights.std() == pytest.approx(fan_in**-0.5, rel=0.01)
    # a standard normal distribution cut at 2 has a standard deviation of 0.88
    assert abs(weights).max() == pytest.approx(2 / 0.8796 * fan_in**-0.5, rel=0.01)
    assert abs(weights).max() <= 2 / 0.8796 * fan_in**-0.5


@pytest.mark.parametrize("kind", NECKS)
@pytest.mark.parametrize("case", ["s0", "s1"])
def test_recorded_networks(case, kind):
    with np.load(FIXTURES / f"bifpn_{case}.npz") as arrays:
        recorded = {key.partition(".")[2]: arrays[key] for key in arrays.files if key.startswith(f"{kind}.")}
    neck = NECKS[kind]()
    state = {}
    for key, value in recorded.items():
        if key.startswith("param."):
            name = state_dict_key(key[6:])
            shape = neck.state_dict()[name].shape
            assert value.size == np.prod(shape)
            state[name] = value.reshape(shape)
    assert set(state) == set(neck.state_dict())
    neck.set_state_dict(state)
    neck.eval()
    levels = neck([paddle.to_tensor(recorded[f"c{level}"][None]) for level in (3, 4, 5)])
    assert len(levels) == 5
    for number, level in enumerate(levels, 3):
        expected = recorded[f"out{number}"][None]
        np.testing.assert_allclose(level.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_cell_of_the_paper_has_five_more_edges_than_one_of_efficientdet():
    """8 nodes; the edges are i6 to t5, i5 to t4 and i4 to o3 on the way down, t5 to o4 and t6 to o5 on the way up."""
    paper, other = (dict(wiring) for wiring in (bifpn.PAPER, bifpn.EFFICIENTDET))
    assert list(paper) == list(other) and len(paper) == 8
    added = {name: sorted(set(paper[name]) - set(other[name])) for name in paper}
    assert {k: v for k, v in added.items() if v} == {
        "t5": ["i6"], "t4": ["i5"], "o3": ["i4"], "o4": ["t5"], "o5": ["t6"],
    }  # fmt: skip
    assert sum(map(len, paper.values())) == 24 and sum(map(len, other.values())) == 19


def test_fusion_is_a_weighted_mean_with_the_positive_weights():
    """Weights 3, -1, 1 of maps 1, 100, 9: (3 * 1 + 1 * 9) / (4 + 1e-4) = 2.99993; Swish precedes the convolution."""
    node = Fusion(3, 1, "bn")
    node.weights.set_value(paddle.to_tensor([3.0, -1.0, 1.0]))
    node.depthwise.weight.set_value(paddle.to_tensor([[[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]]]))
    node.pointwise.weight.set_value(paddle.ones([1, 1, 1, 1]))
    node.eval()
    fused = 12 / 4.0001
    swished = fused / (1 + np.exp(-fused))
    found = node([paddle.full([1, 1, 2, 2], value) for value in (1.0, 100.0, 9.0)])
    np.testing.assert_allclose(found.numpy(), np.full((1, 1, 2, 2), swished / np.sqrt(1 + 1e-3)), rtol=1e-6)


def test_halving_pads_an_even_side_at_its_end():
    """Windows of width 3 and stride 2 start at 0 and 2 in a row of 4, at -1, 1 and 3 in a row of 5."""
    row = paddle.to_tensor([5.0, 1, 2, 3, 4])
    assert halve(row[:4].reshape([1, 1, 1, 4])).flatten().tolist() == [5, 3]
    assert halve(row.reshape([1, 1, 1, 5])).flatten().tolist() == [5, 3, 4]


def test_enlarging_takes_the_nearest_neighbor():
    row = paddle.to_tensor([1.0, 2.0]).reshape([1, 1, 1, 2])
    assert enlarge(row, paddle.zeros([1, 9, 1, 3])).flatten().tolist() == [1, 1, 2]
    assert enlarge(row, paddle.zeros([1, 9, 1, 4])).flatten().tolist() == [1, 1, 2, 2]


class Enlarged(paddle.nn.Layer):
    """A 1x1 convolution of [1, 2, 3, 4], enlarged."""

    def __init__(self, height, width):
        super().__init__()
        self.conv = paddle.nn.Conv2D(2, 2, 1)
        self.size = height, width

    def forward(self, image):
        return nearest(self.conv(image), *self.size)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (3, 7)])
def test_an_optimized_program_enlarges_the_same_way(tmp_path, size):
    """Paddle Inference computes `interpolate` wrongly if the size is fixed and not a multiple."""
    net, image = Enlarged(*size), np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    net.eval()
    expected = net(paddle.to_tensor(image)).numpy()
    rows, columns = ([i * old // new for i in range(new)] for old, new in zip((3, 4), size))
    np.testing.assert_array_equal(expected, net.conv(paddle.to_tensor(image)).numpy()[:, :, rows][..., columns])
    spec = [paddle.static.InputSpec([1, 2, 3, 4], "float32", "image")]
    paddle.jit.save(net, str(tmp_path / "model"), input_spec=spec)
    config = inference_config(network_file(tmp_path, "paddle"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle("image").copy_from_cpu(image)
    predictor.run()
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", NECKS)
def test_shapes_and_gradients(kind):
    """Also for an image height of 96 pixels, whose levels have heights 12, 6, 3, 2 and 1."""
    neck = NECKS[kind]()
    assert [tuple(shape) for shape in neck.out_shape] == [(4, stride) for stride in (8, 16, 32, 64, 128)]
    feats = [paddle.randn([2, c, 96 // s, 160 // s]) for c, s in zip(CHANNELS, STRIDES)]
    levels = neck(feats)
    assert [level.shape for level in levels] == [[2, 4, h, w] for h, w in ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))]
    sum((level**2).sum() for level in levels).backward()
    for name, parameter in neck.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name


def test_each_cell_has_its_own_weights_and_starts_with_a_plain_mean():
    neck = NECKS["paper"]()
    state = neck.state_dict()
    weights = {name: value for name, value in state.items() if name.endswith(".weights")}
    assert len(weights) == 24 and all((value == 1).all() for value in weights.values())
    first, second = (state[f"cells.{cell}.t6.pointwise.weight"].numpy() for cell in (0, 1))
    assert not np.array_equal(first, second)


def test_the_neck_needs_three_maps():
    with pytest.raises(UserError, match=r"BiFPN: in_channels \[5, 6\] are not those of three maps"):
        BiFPN([5, 6], [16, 32])


def test_the_selection_network_with_norms():
    """Table 1: three convolutions without bias, each with a norm, and a linear layer. Input: 2 levels of 4 channels."""
    net = FeatureSelectionNet([4, 4], 6, norm_type="bn")
    assert {name: p.shape for name, p in net.named_parameters() if not p.stop_gradient} == {
        "convs.0.0.weight": [6, 8, 3, 3], "convs.0.1.weight": [6], "convs.0.1.bias": [6],
        "convs.1.0.weight": [6, 6, 3, 3], "convs.1.1.weight": [6], "convs.1.1.bias": [6],
        "convs.2.0.weight": [6, 6, 3, 3], "convs.2.1.weight": [6], "convs.2.1.bias": [6],
        "fc.weight": [6, 2], "fc.bias": [2],
    }  # fmt: skip
    assert (net.convs[0][1]._momentum, net.convs[0][1]._epsilon) == (0.99, 1e-3)
    crops = paddle.randn([5, 8, 7, 7])
    net(crops)
    mean = net.convs[0][0](crops).mean(axis=[0, 2, 3])  # over objects and locations
    np.testing.assert_allclose(net.convs[0][1]._mean.numpy(), 0.01 * mean.numpy(), rtol=1e-3, atol=1e-7)


def test_the_selection_network_works_with_a_single_object():
    """The input of its last norm then has one value per channel."""
    net = FeatureSelectionNet([4, 4], 6, norm_type="bn")
    logits = net(paddle.randn([1, 8, 7, 7]))
    assert logits.shape == [1, 2] and np.isfinite(logits.numpy()).all()
    logits.sum().backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in net.parameters() if not p.stop_gradient)


def test_the_selection_network_without_norms_is_that_of_sapd():
    net = FeatureSelectionNet([4, 4], 6)
    assert list(net.state_dict())[:2] == ["convs.0.0.weight", "convs.0.0.bias"]
