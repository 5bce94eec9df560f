"""An export whose input size is free finds, at every size, what the eager model finds: for each kind of detector."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from parity_weights import compare_detections, filled_state, image
from small_detectors import SIDE, SMALL, small_config, small_model
from tiny_yolof import write_images

from ppdet_repro import export_model
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.paddle_network import PaddleNetwork

SIZES = [(128, 128), (128, 256), (256, 128)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("data"))
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(80)))  # so many has the weights' formula
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_boxes_at_every_size_are_the_eager_models(name, data, tmp_path):
    overrides = ["num_classes=80", f"TestDataset.anno_path={data}/labels.txt"]
    cfg = small_config(name, data, *overrides, "TestReader.inputs_def.image_shape=[3,-1,-1]")
    model = small_model(cfg)
    model.set_state_dict(filled_state(model))
    model.eval()
    network = PaddleNetwork(network_file(export_model(model, cfg, tmp_path), "paddle"))
    for height, width in SIZES:
        shape = np.array([[height, width]], np.float32)
        inputs = {"image": image(0, height, width)[:1], "im_shape": shape, "scale_factor": np.ones((1, 2), np.float32)}
        with paddle.no_grad():
            eager = model({key: paddle.to_tensor(value) for key, value in inputs.items()})
        rows, counts = network.run(inputs)
        assert len(rows) > 0
        expected = eager["bbox"].numpy(), eager["bbox_num"].numpy()
        difference = compare_detections(*expected, rows, counts, 1e-4, 0.01 * max(height, width) / SIDE)
        assert difference.unmatched == 0, (height, width, difference)
