"""Programs of Paddle 2 (.pdmodel) can be traced on every Paddle, and compute what the layer computes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.paddle_private.program import read_program
from ppdet_repro.paddle_private.protobuf_tracing import OPERATORS, protobuf_tracing, traceable
from ppdet_repro.paddle_private.saved_program import fuse_biases, saved_program
from ppdet_repro.paddle_private.versions import PROGRAM_SUFFIX
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.slim.static import static_mode
from ppdet_repro.utils.errors import UserError

RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.uniform(0.1, 3.0, [2, 3, 3]).astype(np.float32) for _ in range(2))
ROW = X[:, :1]
UNARY = ("abs", "ceil", "exp", "floor", "log", "round", "rsqrt", "sigmoid", "sqrt", "tanh")
CASES = {
    **{name: [([X], {})] for name in UNARY},
    **{name: [([X, Y], {}), ([X, ROW], {})] for name in ("maximum", "minimum", "multiply", "greater_than")},
    **{name: [([X > 1, Y > 1], {})] for name in ("logical_and", "logical_or")},
    "argmax": [([X], {"axis": 1}), ([X], {"axis": -1, "keepdim": True})],
    "expand_as": [([ROW, X], {})],
    "matmul": [([X, Y], {}), ([X, Y], {"transpose_y": True}), ([X, Y], {"transpose_x": True})],
    "sum": [([X], {}), ([X], {"axis": 1}), ([X], {"axis": [0, -1], "keepdim": True})],
}


def test_every_function_of_the_table_has_a_case():
    assert set(CASES) == set(OPERATORS)


@pytest.mark.parametrize("name", CASES)
def test_a_function_of_the_table_computes_the_same_in_a_program(name):
    function = getattr(paddle, name, None) or getattr(nn.functional, name)
    for arrays, options in CASES[name]:
        expected = function(*map(paddle.to_tensor, arrays), **options).numpy()
        with static_mode() as executor:
            program = paddle.static.Program()
            with paddle.static.program_guard(program):
                names = [f"x{i}" for i in range(len(arrays))]
                kinds = [str(array.dtype) for array in arrays]
                inputs = [paddle.static.data(n, a.shape, kind) for n, a, kind in zip(names, arrays, kinds)]
                output = OPERATORS[name](*inputs, **options)
            (found,) = executor.run(program, dict(zip(names, arrays)), [output])
        assert found.dtype == expected.dtype and np.array_equal(found, expected)
        assert list(output.shape) == list(expected.shape)


class Network(nn.Layer):
    """Uses functions of the table in all the ways that code can call them."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2D(3, 4, 3)

    def forward(self, image):
        x = nn.functional.sigmoid(self.convolution(image)) + paddle.log(self.convolution(image).exp())
        y = paddle.maximum(x.sqrt(), x * paddle.multiply(x, x))
        if x.shape[1] == 4:
            y = y.expand_as(x)
        return y.max(axis=1).sigmoid()


def save(folder):
    paddle.seed(0)
    network = Network()
    network.eval()
    paddle.jit.save(network, str(folder / "model"), [paddle.static.InputSpec([None, 3, 8, 8], "float32", "image")])
    return network


def test_a_traced_layer_computes_the_same(tmp_path):
    with protobuf_tracing():
        network = save(tmp_path)
    assert read_program(tmp_path / "model.pdmodel").blocks and saved_program(tmp_path / "model").suffix == ".pdmodel"
    image = RANDOM.normal(size=[2, 3, 8, 8]).astype(np.float32)
    (found,) = PaddleNetwork(tmp_path / "model.pdmodel").run({"image": image})
    np.testing.assert_allclose(found, network(paddle.to_tensor(image)).numpy(), atol=1e-6)


def test_afterwards_paddle_is_as_before(tmp_path):
    functions = {name: vars(paddle).get(name) for name in OPERATORS}
    methods = {name: getattr(paddle.Tensor, name) for name in OPERATORS if hasattr(paddle.Tensor, name)}
    with pytest.raises(KeyError), protobuf_tracing():
        raise KeyError
    assert functions == {name: vars(paddle).get(name) for name in OPERATORS}
    assert methods == {name: getattr(paddle.Tensor, name) for name in methods}
    assert paddle.in_dynamic_mode() and paddle.ones([1]).sqrt().item() == 1
    save(tmp_path)
    assert (tmp_path / f"model{PROGRAM_SUFFIX}").is_file()


def test_a_function_that_cannot_be_traced_is_named():
    function = traceable("frobnicate", lambda x: x)
    assert function(1) == 1
    with static_mode(), paddle.static.program_guard(paddle.static.Program()):
        x = paddle.static.data("x", [1], "float32")
        with pytest.raises(UserError, match="cannot write frobnicate to a .pdmodel file, which int8 needs; use Paddle"):
            function(x)


class Deformed(nn.Layer):
    """A deformable convolution, its bias and an activation, as with a folded batch norm in TTFNet's neck."""

    def __init__(self):
        super().__init__()
        self.offsets, self.convolution = nn.Conv2D(3, 18, 3, padding=1), DeformConv2D(3, 4, 3, padding=1)
        self.convolution.bias.set_value(paddle.to_tensor([0.5, -2.0, 3.0, 7.0]))

    def forward(self, image):
        return nn.functional.relu(self.convolution(image, self.offsets(image)))


def test_onednn_adds_the_bias_of_a_deformable_convolution_along_the_channels(tmp_path):
    paddle.seed(0)
    network = Deformed()
    network.eval()
    with protobuf_tracing():
        paddle.jit.save(
            network, str(tmp_path / "model"), [paddle.static.InputSpec([None, 3, 6, 6], "float32", "image")]
        )
    fuse_biases(tmp_path / "model.pdmodel")
    image = RANDOM.normal(size=[1, 3, 6, 6]).astype(np.float32)
    (found,) = PaddleNetwork(tmp_path / "model.pdmodel").run({"image": image})
    np.testing.assert_allclose(found, network(paddle.to_tensor(image)).numpy(), atol=1e-5)
