"""The comparison of an exported model with the detector: the detector computes in double precision."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from small_detectors import SIDE, SMALL, small_config
from tiny_yolof import write_images

from ppdet_repro.core.config import build_model
from ppdet_repro.engine.export.verify import in_double_precision, raw_in_double_precision


@pytest.mark.parametrize("name", SMALL)
def test_the_detectors_layers_compute_in_double_precision(name, tmp_path):
    paddle.seed(0)
    model = build_model(small_config(name, write_images(tmp_path)))
    model.eval()
    exact = in_double_precision(model)
    types = set()
    for layer in exact.sublayers():
        if layer.parameters(include_sublayers=False):  # not anchors, which are equal in both
            layer.register_forward_post_hook(lambda layer, given, output: types.add(output.dtype))
    image = np.random.default_rng(0).normal(size=(1, 3, SIDE * 2, SIDE * 2)).astype(np.float32)
    raw = paddle.utils.flatten(raw_in_double_precision(exact, paddle.to_tensor(image)))
    assert types == {paddle.float64}
    values = [output.numpy() for output in raw]
    assert any((value != value.astype(np.float32)).any() for value in values)  # it has more digits than float32
    with paddle.no_grad():
        single = [output.numpy() for output in paddle.utils.flatten(model.raw(paddle.to_tensor(image)))]
    for own, value in zip(single, values):
        assert own.dtype == np.float32  # the detector itself is unchanged
        np.testing.assert_allclose(own, value, atol=1e-4 * np.abs(value).max())
    assert paddle.get_default_dtype() == "float32"
