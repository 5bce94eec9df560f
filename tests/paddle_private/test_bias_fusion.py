"""Biases in exported programs are added without reshaping; nothing else changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.base.proto import framework_pb2

from ppdet_repro.paddle_private.bias_fusion import remove_bias_reshapes
from ppdet_repro.paddle_private.program import operator_types as operators
from ppdet_repro.paddle_private.program import read_program, write_program
from ppdet_repro.paddle_private.protobuf_tracing import protobuf_tracing
from ppdet_repro.paddle_private.saved_program import fuse_biases, saved_program
from ppdet_repro.runtime.paddle_network import PaddleNetwork


class Network(nn.Layer):
    """Two convolutions with biases, one of them used twice; a parameter that is reshaped and multiplied, and one that
    is reshaped to something else and added."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 4, 1), nn.Conv2D(4, 4, 1)
        random = nn.initializer.Normal()
        self.scale = self.create_parameter([4], default_initializer=random)
        self.row = self.create_parameter([5], default_initializer=random)
        self.first.bias.set_value(paddle.to_tensor([0.5, -2.0, 3.0, 7.0]))

    def forward(self, image):
        x = self.second(self.second(nn.functional.relu(self.first(image))))
        return x * self.scale.reshape([1, 4, 1, 1]) + self.row.reshape([1, 1, 1, 5])


IMAGE = paddle.static.InputSpec([None, 3, 2, 5], "float32", "image")
OPTIMIZE = """
import sys, zlib
from pathlib import Path
from paddle import inference
from ppdet_repro.paddle_private.saved_program import inference_config

config = inference_config(Path(sys.argv[1]))
config.enable_mkldnn()
inference.create_predictor(config)
"""


@pytest.fixture
def saved(tmp_path):
    with protobuf_tracing():
        paddle.jit.save(Network(), str(tmp_path / "model"), [IMAGE])
    return tmp_path


def test_onednn_fuses_the_biases_of_a_program_in_either_format(tmp_path):
    paddle.jit.save(Network(), str(tmp_path / "model"), [IMAGE])
    fuse_biases(saved_program(tmp_path / "model"))
    command = [sys.executable, "-c", OPTIMIZE, str(saved_program(tmp_path / "model"))]
    environ = {**os.environ, "GLOG_minloglevel": "0"}  # the command line tool, which other tests call, sets 1
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ)
    log = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)  # without colors
    fusion = re.search(r"pass \[(conv_bias_mkldnn|conv2d_bias)_fuse_pass\](.*?)--- Running", log, re.DOTALL)
    assert fusion is not None, log
    assert re.search(r"detected \[?3\]? subgraphs", fusion[2]) and "failed" not in fusion[2], log


def test_a_program_computes_the_same_without_the_reshapes(saved):
    image = {"image": np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(np.float32)}
    (expected,) = PaddleNetwork(saved / "model.pdmodel").run(image)
    program = read_program(saved / "model.pdmodel")
    before = operators(program)
    assert before.count("reshape2") == 5  # three biases, the scale and the row
    assert remove_bias_reshapes(program) == 3
    after = operators(program)
    assert after.count("reshape2") == 2 and [kind for kind in before if kind != "reshape2"] == [
        kind for kind in after if kind != "reshape2"
    ]
    write_program(program, saved / "model.pdmodel")
    (found,) = PaddleNetwork(saved / "model.pdmodel").run(image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_program_without_biases_does_not_change(tmp_path):
    with protobuf_tracing():
        paddle.jit.save(nn.ReLU(), str(tmp_path / "model"), [IMAGE])
    program = read_program(tmp_path / "model.pdmodel")
    before = framework_pb2.ProgramDesc()
    before.CopyFrom(program)
    assert remove_bias_reshapes(program) == 0 and program == before
