"""EfficientNet: names and recorded features of PaddleClas, the scaling rule, and dropped blocks in training.

The fixtures hold the names and shapes of PaddleClas' state dict, and the feature maps and logits of its EfficientNetB0
for two image sizes, with the random weights and images of `weights` and `image`.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from parity_weights import FIXTURES

from ppdet_repro.engine.model_weights import load_pretrained
from ppdet_repro.modeling.backbones.efficientnet import Block, EfficientNet, Stage, scaled_stages
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.utils.weights import save_state

KEYS = json.loads((FIXTURES / "efficientnet_b0.json").read_text())
CLASSIFIER = ("_conv.", "_fc.")


def weights():
    """The weights of the recorded network, drawn in the order of their names."""
    rng, state = np.random.default_rng(0), {}
    for key in sorted(KEYS):
        shape = KEYS[key]
        if key.endswith("_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif key.endswith(("_mean", "bias")):
            value = rng.normal(0, 0.1, shape)
        elif "._bn." in key:
            value = rng.uniform(0.8, 1.4, shape)
        elif key == "_fc.weight":
            value = rng.normal(0, shape[0] ** -0.5, shape)
        else:
            value = rng.normal(0, (1.3 / np.prod(shape[1:])) ** 0.5, shape)
        state[key] = value.astype(np.float32)
    return state


def image(size):
    return np.random.default_rng(1000).normal(0, 1, (1, 3, size, size)).astype(np.float32)


@pytest.fixture(scope="module")
def b0():
    """A B0 with the recorded weights, and all recorded weights."""
    model, state = EfficientNet(), weights()
    missing, _ = model.set_state_dict(state)
    assert not missing
    model.eval()
    return model, state


def test_names_and_shapes_are_those_of_paddleclas_without_the_classifier(b0):
    own = {key: list(value.shape) for key, value in b0[0].state_dict().items()}
    assert own == {key: shape for key, shape in KEYS.items() if not key.startswith(CLASSIFIER)}
    assert list(own) == [key for key in KEYS if key in own]  # also in this order


@pytest.mark.parametrize("size", [128, 96])
def test_recorded_features(b0, size):
    model, state = b0
    with paddle.no_grad():
        feats = model(paddle.to_tensor(image(size)))
    with np.load(FIXTURES / "efficientnet_b0.npz") as recorded:
        for name, feat in zip(("c3", "c4", "c5"), feats):
            expected = recorded[f"s0.{size}.{name}"]
            np.testing.assert_allclose(feat.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        # the classifier, which detectors do not have: 1x1 convolution, batch norm, Swish, mean, linear layer
        key = "_conv._bn."
        x = F.conv2d(feats[-1], paddle.to_tensor(state["_conv._conv._conv.weight"]))
        norm = [paddle.to_tensor(state[key + name]) for name in ("_mean", "_variance", "weight", "bias")]
        x = F.swish(F.batch_norm(x, *norm, epsilon=1e-3)).mean(axis=[2, 3])
        logits = x.numpy() @ state["_fc.weight"] + state["_fc.bias"]
        expected = recorded[f"s0.{size}.logits"]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_out_shape_describes_the_maps(b0):
    maps = b0[0](paddle.zeros([1, 3, 64, 96]))
    assert [tuple(shape) for shape in b0[0].out_shape] == [(40, 8), (112, 16), (320, 32)]
    assert [m.shape for m in maps] == [[1, c, 64 // s, 96 // s] for c, s in b0[0].out_shape]


def test_weights_of_a_classifier_load_into_the_backbone_of_a_detector(tmp_path, b0):
    detector = paddle.nn.Layer()
    detector.backbone = EfficientNet()
    save_state(tmp_path / "b0.pdparams", b0[1])
    report = load_pretrained(detector, tmp_path / "b0.pdparams")
    assert not report.new and not report.reshaped and len(report.loaded) == len(b0[0].state_dict())
    assert all(name.startswith(CLASSIFIER) for name in report.unused)
    assert (detector.backbone.state_dict()["_ef.block.2.._dcn._conv._bn.bias"].numpy() != 0).all()


@pytest.mark.parametrize(
    "variant, outs, repeats",
    [
        # B2: widths * 1.1, 16 * 1.1 = 17.6 -> 16, 24 -> 26.4 -> 24, 40 -> 44 -> 48, 80 -> 88, 112 -> 123.2 -> 120,
        # 192 -> 211.2 -> 208, 320 -> 352; repeats * 1.2 upward: 1.2, 2.4, 2.4, 3.6, 3.6, 4.8, 1.2
        ("b2", [16, 24, 48, 88, 120, 208, 352], [2, 3, 3, 4, 4, 5, 2]),
        # B4: 22.4 -> 24, 33.6 -> 32, 56, 112, 156.8 -> 160, 268.8 -> 272, 448; 1.8, 3.6, 3.6, 5.4, 5.4, 7.2, 1.8
        ("b4", [24, 32, 56, 112, 160, 272, 448], [2, 4, 4, 6, 6, 8, 2]),
    ],
)
def test_larger_variants_are_wider_and_deeper(variant, outs, repeats):
    stages = scaled_stages(variant)
    assert [stage.out for stage in stages] == outs and [stage.repeats for stage in stages] == repeats
    model = EfficientNet(variant)
    assert [shape.channels for shape in model.out_shape] == [outs[i] for i in (2, 4, 6)]
    assert len(model._ef) == 1 + sum(repeats)


def test_training_drops_a_block_for_whole_images():
    """The shortcut stays; the rest of the block is 0 for a dropped image, and divided by 0.75 for the others."""
    paddle.seed(0)
    block = Block(8, Stage(3, 1, 6, 8, 1), 1, 0.25, partial(batch_norm, frozen=True))
    x = paddle.randn([64, 8, 4, 4])
    block.eval()
    added = (block(x) - x).numpy()
    block.train()  # frozen norms behave the same
    drawn = (block(x) - x).numpy()
    dropped = np.abs(drawn).max(axis=(1, 2, 3)) < 1e-6
    assert 0 < dropped.sum() < 32
    np.testing.assert_allclose(drawn[~dropped], added[~dropped] / 0.75, rtol=1e-3, atol=1e-5)


def test_drop_connect_grows_from_block_to_block():
    blocks = list(EfficientNet()._ef.children())[1:]
    assert [block.drop_connect.p for block in blocks] == pytest.approx([0.2 * i / 16 for i in range(16)])


def test_frozen_norms_keep_their_statistics():
    model = EfficientNet(freeze_norm=True)
    model.train()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items() if "._bn." in name}
    model(paddle.randn([2, 3, 64, 64]))
    assert all((model.state_dict()[name].numpy() == value).all() for name, value in before.items())
    assert all(p.stop_gradient for name, p in model.named_parameters() if "._bn." in name)
