"""Every function of feature maps gives what Paddle gives for tensors: values, gradients, running statistics."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import SqueezeExcitation, batch_norm, nearest
from ppdet_repro.modeling.necks.bifpn import Fusion
from ppdet_repro.modeling.ttf_layers import DeformConv
from ppdet_repro.modeling.yolo_layers import CoordConv, DropBlock
from ppdet_repro.onednn import learned, library
from ppdet_repro.onednn.layers import take_feature_maps
from ppdet_repro.onednn.memory import POOL, vector
from ppdet_repro.onednn.tape import enter

pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle has no oneDNN 3")

SHAPE = [2, 12, 9, 7]  # odd sides, and channels that are no multiple of a vector's length


class Calls(nn.Layer):
    """A function as a layer."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.LayerList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def frozen_norm():
    norm = batch_norm(12, frozen=True)
    norm._mean.set_value(paddle.linspace(-1, 1, 12))
    norm._variance.set_value(paddle.linspace(0.5, 2, 12))
    return norm


CASES = {
    "conv": lambda: nn.Conv2D(12, 8, 3, padding=1),
    "conv stride": lambda: nn.Conv2D(12, 8, 3, stride=2, padding=1, bias_attr=False),
    "conv dilation": lambda: nn.Conv2D(12, 8, 3, padding=2, dilation=2),
    "conv same": lambda: nn.Conv2D(12, 8, 3, stride=2, padding="SAME"),
    "conv oblong": lambda: nn.Conv2D(12, 8, (3, 1), stride=(1, 2), padding=(1, 0)),
    "conv groups": lambda: nn.Conv2D(12, 24, 3, padding=1, groups=4),
    "conv depthwise": lambda: nn.Conv2D(12, 12, 5, padding=2, groups=12, bias_attr=False),
    "transposed": lambda: nn.Conv2DTranspose(12, 6, 4, stride=2, padding=1),
    "transposed odd": lambda: nn.Conv2DTranspose(12, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.Conv2DTranspose(12, 24, 4, stride=2, padding=1, groups=4),
    "transposed depthwise": lambda: nn.Conv2DTranspose(12, 12, 4, stride=2, padding=1, groups=12, bias_attr=False),
    "norm": lambda: batch_norm(12, momentum=0.7, epsilon=1e-3),
    "norm, relu": lambda: nn.Sequential(batch_norm(12), nn.ReLU()),
    "norm, frozen": frozen_norm,
    "norm, frozen, relu": lambda: nn.Sequential(frozen_norm(), nn.ReLU()),
    "group norm": lambda: nn.GroupNorm(3, 12),
    "relu": lambda: nn.ReLU(),
    "relu6": lambda: nn.ReLU6(),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "functions": lambda: Calls(lambda x: sum(f(x) for f in (F.relu, F.relu6, F.leaky_relu, F.mish, F.silu, F.swish))),
    "hard functions": lambda: Calls(lambda x: F.hardswish(x) + F.hardsigmoid(x, slope=0.2) + F.sigmoid(x)),
    "sum, relu": lambda: Calls(lambda x, conv: F.relu(conv(x) + x), nn.Conv2D(12, 12, 1)),
    "used twice": lambda: Calls(lambda x, conv: (lambda y: F.relu(y + x) + y)(conv(x)), nn.Conv2D(12, 12, 1)),
    "number": lambda: Calls(lambda x: x * 3.0 + 2 * x),
    "product": lambda: Calls(lambda x, conv: x * F.sigmoid(conv(x)), nn.Conv2D(12, 12, 1)),
    "squeeze": lambda: Calls(lambda x, conv: x * F.sigmoid(conv(F.mean_of_locations(x))), nn.Conv2D(12, 12, 1)),
    "squeeze by linear layers": lambda: SqueezeExcitation(32),
    "mean": lambda: Calls(lambda x: F.adaptive_avg_pool2d(x, 1)),
    "concat": lambda: Calls(lambda x, conv: F.concat([conv(x), x, paddle.ones([2, 3, 9, 7])]), nn.Conv2D(12, 5, 1)),
    "max pool": lambda: Calls(partial(F.max_pool2d, kernel_size=3, stride=2, padding=1)),
    "max pool same": lambda: Calls(partial(F.max_pool2d, kernel_size=3, stride=2, padding="SAME")),
    "max pool 1": lambda: Calls(partial(F.max_pool2d, kernel_size=1, stride=2)),
    "average pool": lambda: Calls(partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1)),
    "average pool ceil": lambda: nn.AvgPool2D(2, stride=2, ceil_mode=True),
    "average pool inclusive": lambda: nn.AvgPool2D(3, stride=2, padding=1, exclusive=False),
    "nearest": lambda: Calls(partial(F.interpolate, scale_factor=2.0)),
    "nearest 3": lambda: Calls(lambda x: nearest(x, 27, 21)),
    "nearest, no multiple": lambda: Calls(lambda x: nearest(x, 16, 8)),
    "bilinear": lambda: Calls(partial(F.interpolate, scale_factor=2.0, mode="bilinear")),
    "weighted sum": lambda: Calls(lambda x, fusion: fusion([x, F.relu(x), x]), Fusion(3, 12, "bn")),
    "deformable": lambda: DeformConv(12, 8, None, None),
    "coordinates": lambda: CoordConv(12, 8, 3, batch_norm),
    "drop block": lambda: DropBlock(3, 0.8),
    "dropout of images": lambda: nn.Dropout(0.5, axis=0),
}


def computed(layer, image, as_map, dtype=library.F32):
    """Values, the image's gradient, the parameters' gradients and the statistics after one pass."""
    image.clear_gradient()
    paddle.seed(1)
    parameters = [p for p in layer.parameters() if not p.stop_gradient]
    entered = enter(image, parameters, dtype) if as_map else image
    values = layer(entered)
    values = values.tensor() if as_map else values
    weights = paddle.to_tensor(np.random.RandomState(3).standard_normal(values.shape).astype("float32"))
    (values * weights).sum().backward()
    gradients = [image.grad.numpy(), *[p.grad.numpy() for p in parameters]]
    layer.clear_gradients()
    return [values.numpy(), *gradients, *[p.numpy() for p in layer.parameters() if p.stop_gradient]]


@pytest.mark.parametrize("name", CASES)
def test_feature_maps_and_tensors_give_the_same(name):
    paddle.seed(0)
    layer = CASES[name]()
    shape = [2, 32, 9, 7] if "linear" in name else SHAPE
    image = paddle.to_tensor(np.random.RandomState(0).standard_normal(shape).astype("float32"), stop_gradient=False)
    start = {key: value.clone() for key, value in layer.state_dict().items()}
    expected = computed(layer, image, as_map=False)
    layer.set_state_dict(start)
    take_feature_maps(layer)
    found = computed(layer, image, as_map=True)

    assert len(found) == len(expected)
    for one, other in zip(expected, found):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-5 * max(1.0, np.abs(one).max()))


@pytest.mark.skipif(not library.has_bfloat16(), reason="this processor does not compute in bfloat16")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2D(16, 48, 3, stride=2, padding=1), [2, 16, 5, 1]),
        (lambda: nn.Conv2D(48, 16, 5, stride=2, padding=2), [2, 48, 1, 1]),
        (lambda: nn.Conv2DTranspose(16, 48, 2, stride=2), [2, 16, 5, 4]),
        (lambda: nn.Conv2DTranspose(48, 16, 4, stride=2, padding=1), [2, 48, 7, 1]),
        (lambda: nn.Conv2DTranspose(16, 16, 4, stride=2, padding=1, groups=16), [2, 16, 7, 1]),
    ],
)
def test_bfloat16_where_onednn_computes_something_else(layer, shape):
    """Gradients of oneDNN that are wrong, or that depend on what was in the memory beside a map."""
    paddle.seed(0)
    network = layer()
    image = paddle.to_tensor(np.random.RandomState(0).standard_normal(shape).astype("float32"), stop_gradient=False)
    expected = computed(network, image, as_map=False)
    take_feature_maps(network)
    junk = [POOL.take(size << 12) for size in range(1, 20) for _ in range(3)]
    for buffer in junk:
        vector(buffer.address, buffer.block.size // 4)[:] = np.nan
    del junk, buffer
    for one, other in zip(expected, computed(network, image, as_map=True, dtype=library.BF16)):
        assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)


@pytest.mark.parametrize(
    ("layer", "by_onednn"),
    [
        (lambda: nn.Conv2D(12, 24, 1, stride=2), False),
        (lambda: nn.Conv2D(32, 24, 1, stride=(1, 2), groups=4), False),
        (lambda: nn.Conv2D(12, 24, 1), True),
        (lambda: nn.Conv2D(12, 24, 3, stride=2, padding=1), True),
        (lambda: nn.Conv2D(16, 24, 1, stride=2), True),
    ],
)
def test_onednn_does_not_compute_what_it_writes_beyond_its_memory(layer, by_onednn, monkeypatch):
    network, asked = layer(), []
    make = learned.convolution
    monkeypatch.setattr(learned, "convolution", lambda geometry, *more: asked.append(geometry) or make(geometry, *more))
    shape = [2, network.weight.shape[1] * network._groups, 4, 4]
    image = paddle.to_tensor(np.ones(shape, "float32"), stop_gradient=False)
    take_feature_maps(network)
    computed(network, image, as_map=True)
    assert len(asked) == by_onednn


def test_a_map_that_a_relu_has_joined_cannot_be_used():
    paddle.seed(0)
    norm = batch_norm(12)
    take_feature_maps(norm)
    before = norm(enter(paddle.rand(SHAPE), norm.parameters(), library.F32))
    F.relu(before)
    with pytest.raises(RuntimeError, match="before the ReLU"):
        before.tensor()


def test_a_relu_after_a_used_map_is_computed_apart():
    paddle.seed(0)
    norm = batch_norm(12)
    take_feature_maps(norm)
    before = norm(enter(paddle.rand(SHAPE), norm.parameters(), library.F32))
    values = before.tensor().numpy()
    np.testing.assert_allclose(F.relu(before).tensor().numpy(), np.maximum(values, 0))


def test_a_tensor_with_a_gradient_cannot_enter_in_the_middle():
    x = enter(paddle.rand(SHAPE), [], library.F32)
    with pytest.raises(TypeError, match="cannot enter"):
        x * paddle.create_parameter([2, 12, 1, 1], "float32")


def test_methods_of_tensors_work_on_the_map():
    values = paddle.rand(SHAPE)
    x = enter(values, [], library.F32)
    assert x.reshape([2, -1]).shape == [2, 12 * 9 * 7]
    np.testing.assert_array_equal(x.transpose([0, 2, 3, 1]).numpy(), values.numpy().transpose(0, 2, 3, 1))


def test_transposed_gradients_come_back_in_order():
    """Paddle's gradient of a transposed tensor is a view whose memory is in another order."""
    image = paddle.to_tensor(np.random.RandomState(0).rand(*SHAPE).astype("float32"), stop_gradient=False)
    weights = paddle.rand([2, 9, 7, 12])
    (enter(image, [], library.F32).transpose([0, 2, 3, 1]) * weights).sum().backward()
    np.testing.assert_allclose(image.grad.numpy(), weights.numpy().transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.skipif(not library.has_bfloat16(), reason="this processor does not compute in bfloat16")
def test_bfloat16_rounds_values_and_keeps_statistics():
    paddle.seed(0)
    layer = nn.Conv2D(12, 16, 3, padding=1)
    image = paddle.rand(SHAPE)
    expected = layer(image).numpy()
    take_feature_maps(layer)
    found = layer(enter(image, layer.parameters(), library.BF16)).tensor().numpy()
    assert 0 < np.abs(found - expected).max() < 2**-7 * np.abs(expected).max()  # 8 bits
