"""Res2Net, HRNet, SENet and MobileNet: names, features and gradients that were recorded from PaddleDetection.

The recordings were made in float64, with weights from the formula of `parity_weights`.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES, assert_gradients, fill, image, relative_error

from ppdet_repro.modeling.backbones.hrnet import Fusion, HRNet
from ppdet_repro.modeling.backbones.mobilenet_v1 import MobileNet
from ppdet_repro.modeling.backbones.res2net import Res2Net
from ppdet_repro.modeling.backbones.senet import SENet
from ppdet_repro.modeling.layers import SqueezeExcitation, batch_norm
from ppdet_repro.utils.errors import UserError

FACTS = json.loads((FIXTURES / "backbones.json").read_text())
CASES = {
    "res2net": lambda: Res2Net(50, 26, 4, "d", freeze_norm=False, freeze_at=1, dcn_v2_stages=[3]),
    "hrnet": lambda: HRNet(18, has_se=True, freeze_norm=False, freeze_at=0),
    "senet": lambda: SENet(50, "d", groups=32, base_width=4, freeze_norm=False, freeze_at=0),
    "mobilenet": lambda: MobileNet(with_extra_blocks=True, feature_maps=[11, 13, 14, 15]),
}
STRIDES = {
    "res2net": [4, 8, 16, 32], "hrnet": [4, 8, 16, 32], "senet": [4, 8, 16, 32], "mobilenet": [16, 32, 64, 128]
}  # fmt: skip


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def attributes(model):
    """Shape, whether it is trained, factor on the learning rate and weight decay of every entry of the state dict."""
    parameters, found = dict(model.named_parameters()), {}
    for name, value in model.state_dict().items():
        parameter = parameters[name]
        decay = None if parameter.regularizer is None else parameter.regularizer._coeff
        found[name] = [value.shape, not parameter.stop_gradient, parameter.optimize_attr["learning_rate"], decay]
    return found


@pytest.mark.parametrize("name", CASES)
def test_names_features_and_gradients_are_the_reference_s(name):
    model, facts = CASES[name](), FACTS[name]
    found = attributes(model)
    assert len(found) == facts["count"] and digest(json.dumps(found, sort_keys=True)) == facts["parameters"]

    model.to(dtype="float64")
    for key, value in model.state_dict().items():
        value.set_value(fill(key, value.shape).astype("float64"))
    model.eval()
    feats = model(paddle.to_tensor(image(5, 64, 96).astype("float64")))
    assert [feat.shape[1] for feat in feats] == [shape.channels for shape in model.out_shape]
    assert [shape.stride for shape in model.out_shape] == STRIDES[name]
    with np.load(FIXTURES / "backbones.npz") as arrays:
        for i, feat in enumerate(feats):
            assert relative_error(arrays[f"{name}.{i}"], feat.numpy(), 101) < 1e-6

    sum((feat**2).mean() for feat in feats).backward()
    parameters = dict(model.named_parameters())
    trained = sorted(key for key, parameter in parameters.items() if parameter.grad is not None)
    assert len(trained) == facts["gradients"] and digest("\n".join(trained)) == facts["with_gradient"]
    assert_gradients(parameters, facts["grads"], 1e-9, lambda key: True)


def test_squeeze_and_excitation_by_hand():
    """Means 1 and -1 of 2 of 16 channels; the middle is relu(1 * 3 - 1 * -1) = 4, so all are scaled by s(4 / 2)."""
    layer = SqueezeExcitation(16)
    layer.squeeze.weight.set_value(np.array([[3.0], [-1.0], *[[0.0]] * 14], np.float32))
    layer.squeeze.bias.set_value(np.zeros(1, np.float32))
    layer.extract.weight.set_value(np.full((1, 16), 0.5, np.float32))
    layer.extract.bias.set_value(np.zeros(16, np.float32))
    x = np.zeros((1, 16, 1, 2), np.float32)
    x[0, 0], x[0, 1] = [0, 2], [-3, 1]
    scaled = layer(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(scaled, x / (1 + np.exp(-2)), rtol=1e-6)


def test_fused_maps_are_the_sum_of_all_maps_at_their_sizes():
    fusion = Fusion("f", [2, 2, 2], 3, batch_norm)
    fusion.eval()
    for key, value in fusion.state_dict().items():
        if key.endswith("conv.weight"):  # each convolution passes its input on: the middle of its window
            kernel = np.zeros(value.shape, np.float32)
            kernel[range(2), range(2), value.shape[2] // 2, value.shape[3] // 2] = 1
            value.set_value(kernel)
    maps = [paddle.full([1, 2, 8 // s, 8 // s], v) for s, v in ((1, 1.0), (2, 10.0), (4, 100.0))]
    outs = fusion(maps)
    assert [out.shape for out in outs] == [x.shape for x in maps]
    for out in outs:
        np.testing.assert_allclose(out.numpy(), 111, rtol=1e-3)  # batch norms divide by the root of 1 + 1e-5


def test_extra_blocks_of_mobilenet_do_not_exceed_six():
    block = MobileNet(with_extra_blocks=True, extra_block_filters=[[8, 16]], feature_maps=[14]).conv7_1
    block.eval()
    x = 1000 * paddle.ones([1, 1024, 4, 4])
    for layer in (block.pointwise_conv, block.normal_conv):
        x = 1000 * layer(x)
        assert float(x.max()) == 6000


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: HRNet(return_idx=[0, 4]), r"return_idx \[0, 4\] is neither"),
        (lambda: HRNet(return_idx=[1]), r"return_idx \[1\] is neither"),
        (lambda: Res2Net(lr_mult_list=[1.0]), "lr_mult_list needs 4 values"),
        (lambda: Res2Net(return_idx=[4]), r"return_idx \[4\] names a stage outside 0..3"),
        (lambda: MobileNet(feature_maps=[14]), r"feature_maps \[14\] are not blocks 1 to 13"),
    ],
)
def test_contradictory_settings_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
