"""Which networks are traced as they are written, and that the programs are those of Paddle's translation."""

from __future__ import annotations

from functools import partial

import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec
from small_detectors import small_config
from tiny_yolof import write_images

from ppdet_repro import build_model, export_model
from ppdet_repro.engine.export import export_model as module
from ppdet_repro.modeling.layers import SqueezeExcitation
from ppdet_repro.modeling.sizes import sizes
from ppdet_repro.paddle_private.saved_program import read_operators, saved_program
from ppdet_repro.paddle_private.translation import AsWritten, quick_to_trace


class Branching(nn.Layer):
    """A layer that branches on values and has a size in its shape."""

    def forward(self, x):
        if x.sum() > 0:
            return x.reshape([x.shape[0], -1])
        return -x.reshape([x.shape[0], -1])


def doubled(x):
    return 2 * x


class Held:
    """Neither a layer nor of the package."""


def own():
    return SqueezeExcitation(16)


def test_the_packages_networks_are_traced_as_they_are_written():
    assert isinstance(quick_to_trace(own()), AsWritten)
    assert isinstance(quick_to_trace(nn.Sequential(own(), nn.ReLU())), AsWritten)


@pytest.mark.parametrize("foreign", [Branching(), Held(), doubled, Held, partial(doubled)])
def test_networks_with_code_of_others_are_translated(foreign):
    inside, beside, deep = own(), own(), own()
    if isinstance(foreign, nn.Layer):
        inside.add_sublayer("foreign", foreign)
    else:
        inside.foreign = foreign
    beside.foreign = {"a": [foreign]}
    deep.holder = own()
    deep.holder.foreign = (foreign,)
    for network in (inside, beside, deep):
        assert quick_to_trace(network) is network


def test_code_that_branches_on_values_can_be_exported(tmp_path):
    network = quick_to_trace(Branching())
    paddle.jit.save(network, str(tmp_path / "model"), [InputSpec([None, 3], "float32", "x")])
    loaded = paddle.jit.load(str(tmp_path / "model"))
    for sign in (1.0, -1.0):
        assert loaded(paddle.full([2, 3], sign)).tolist() == [[1.0] * 3] * 2


class Counting(nn.Layer):
    def forward(self, x):
        batch, channels, height, width = sizes(x)
        assert channels == 3  # it is known
        return paddle.arange(height).reshape([-1, 1]) + paddle.arange(width) + batch


@pytest.mark.parametrize("translated", [False, True])
def test_sizes_are_those_of_the_run(translated, tmp_path):
    network = Counting() if translated else AsWritten(Counting())
    paddle.jit.save(network, str(tmp_path / "model"), [InputSpec([None, 3, None, None], "float32", "x")])
    loaded = paddle.jit.load(str(tmp_path / "model"))
    assert loaded(paddle.zeros([2, 3, 2, 3])).tolist() == [[2, 3, 4], [3, 4, 5]]
    assert loaded(paddle.zeros([1, 3, 1, 2])).tolist() == [[1, 2]]
    assert sizes(paddle.zeros([2, 0, 4])) == [2, 0, 4] and sizes(paddle.zeros([])) == []


@pytest.mark.parametrize("name", ["yolof", "ttfnet"])
def test_programs_have_the_operators_of_the_translated_ones(name, tmp_path, monkeypatch):
    write_images(tmp_path / "data")
    cfg = small_config(name, tmp_path / "data", "TestReader.inputs_def.image_shape=[3,-1,-1]")
    model = build_model(cfg)
    operators = []
    for choose in (quick_to_trace, lambda network: network):
        monkeypatch.setattr(module, "quick_to_trace", choose)
        operators.append(read_operators(saved_program(export_model(model, cfg, tmp_path / "out") / "model")))
    assert operators[0] == operators[1]
