"""Every family of detectors learns the same with oneDNN's feature maps as with tensors."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from paddle import nn
from small_detectors import small_config
from tiny_yolof import write_images

from ppdet_repro.core.config import build, build_model
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.training import cpu_kernels
from ppdet_repro.modeling.architectures.feature_maps import use_feature_maps
from ppdet_repro.onednn import library
from ppdet_repro.onednn.tape import FeatureMap
from ppdet_repro.paddle_private.layers import BATCH_NORMS, set_frozen
from ppdet_repro.slim.distill import Distilled
from ppdet_repro.slim.distill_losses import CWDFeatureLoss
from ppdet_repro.slim.distill_paddleslim import PaddleSlimLoss
from ppdet_repro.utils.errors import UserError

pytestmark = pytest.mark.skipif(library.library() is None, reason="this Paddle has no oneDNN 3")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 4)
    return folder


def one_batch(cfg):
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    return next(iter(build(cfg, "TrainReader").batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)))


def freeze_norms(model):
    for layer in model.sublayers():
        if isinstance(layer, BATCH_NORMS):
            set_frozen(layer, True)


def learned(model, batch):
    """The losses, and the norm of each parameter's gradient."""
    paddle.seed(7)
    losses = model(batch)
    losses["loss"].backward()
    norms = {name: float(np.linalg.norm(p.grad.numpy())) for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return {name: float(loss) for name, loss in losses.items()}, norms


@pytest.mark.parametrize("name", ["yolof", "ppyolov2", "pafnet", "pafnet_lite", "bifpn", "retinanet"])
def test_losses_and_gradients(name, images):
    """Batch norms use their running statistics. On such small maps, those of a batch make rounding errors large;
    `test_functions` has them."""
    cfg = small_config(name, images)
    paddle.seed(0)
    model, batch = build_model(cfg), one_batch(cfg)
    freeze_norms(model)
    model.train()
    losses, norms = learned(model, batch)
    use_feature_maps(model, library.F32)
    found, found_norms = learned(model, batch)

    assert found == pytest.approx(losses, rel=1e-4)
    assert_close(found_norms, norms, 1e-3)
    if library.has_bfloat16():
        use_feature_maps(model, library.BF16)
        found, found_norms = learned(model, batch)
        assert found["loss"] == pytest.approx(losses["loss"], rel=1e-2)
        assert_close(found_norms, norms, 5e-2)


def assert_close(found, norms, limit):
    """Norms of gradients agree. Biases before a batch norm have no gradient but rounding errors, so the largest norm
    counts, too."""
    assert found.keys() == norms.keys()
    small = limit * max(norms.values())
    far = {key: (found[key], norm) for key, norm in norms.items() if abs(found[key] - norm) > limit * (norm + small)}
    assert not far


def test_distillation(images):
    """Losses between the necks' maps and between layers that are looked into, of a student and a teacher."""
    cfg = small_config("yolof", images)
    paddle.seed(0)
    student, teacher, batch = build_model(cfg), build_model(cfg), one_batch(cfg)
    conv, norm = "neck.lateral_conv", "backbone.res2.res2a.branch2a.norm"  # a ReLU follows the second one
    layers = [{"layers_name": [conv, conv]}, {"layers_name": [norm, norm]}]
    between = PaddleSlimLoss([{"loss_function": "MSELoss", "layers": layers}])
    between.connect(student, teacher)
    channels = student.neck.out_shape[0].channels
    losses = {"maps": CWDFeatureLoss(channels, channels)}
    model = Distilled(student, teacher, losses, {"maps": (0, 0)}, {"PaddleSlimLoss": between})
    freeze_norms(student)
    model.train()
    losses, norms = learned(model, batch)
    use_feature_maps(student, library.F32)
    use_feature_maps(teacher, library.F32, always=True)
    found, found_norms = learned(model, batch)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found_norms == pytest.approx(norms, rel=1e-3, abs=1e-3 * max(norms.values()))


class Strange(nn.Layer):
    """A backbone that asks for more than feature maps offer."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return [paddle.nn.functional.relu(x) for x in self.backbone(image)]


class Wrong(Strange):
    """A backbone that is another with feature maps."""

    def forward(self, image):
        return [x * -1.0 if isinstance(x, FeatureMap) else x for x in self.backbone(image)]


def chosen(cfg, model, logged):
    cpu_kernels.choose_kernels(model, cfg, World(0, 1, gpu=False))
    (line,) = [line for line in logged.text.splitlines() if "the network is computed by" in line]
    return line


def test_the_choice_is_said_and_leaves_no_trace(images, logged):
    cfg = small_config("yolof", images, "cpu_kernels=auto")
    model = build_model(cfg)
    start = {key: value.numpy() for key, value in model.state_dict().items()}
    paddle.seed(11)
    expected = paddle.rand([3]).numpy()
    paddle.seed(11)
    assert re.search(r"oneDNN 3\.\d+\.\d+ in float32", chosen(cfg, model, logged))
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), expected)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), start[key], err_msg=key)
    model.train()
    assert "raw" in vars(model)


@pytest.mark.skipif(not library.has_bfloat16(), reason="this processor does not compute in bfloat16")
@pytest.mark.parametrize(
    ("name", "said"), [("pafnet", "in bfloat16, weights"), ("pafnet_lite", "in float32, which is")]
)
def test_mixed_precision_is_bfloat16_except_for_depthwise_convolutions(images, logged, name, said):
    cfg = small_config(name, images, "cpu_kernels=auto", "amp=true")
    assert said in chosen(cfg, build_model(cfg), logged)


@pytest.mark.parametrize(("backbone", "reason"), [(Strange, "relu"), (Wrong, "differs by")])
def test_a_network_that_onednn_cannot_compute_stays_with_paddle(images, logged, backbone, reason):
    cfg = small_config("yolof", images, "cpu_kernels=auto")
    model = build_model(cfg)
    model.backbone = backbone(model.backbone)
    line = chosen(cfg, model, logged)
    assert "Paddle's kernels" in line and reason in line
    assert "raw" not in vars(model)
    assert not any("forward" in vars(layer) for layer in model.sublayers())


def test_asking_for_onednn_where_it_does_not_work_is_an_error(images):
    cfg = small_config("yolof", images, "cpu_kernels=onednn")
    model = build_model(cfg)
    model.backbone = Strange(model.backbone)
    with pytest.raises(UserError, match="cpu_kernels: onednn does not work here"):
        cpu_kernels.choose_kernels(model, cfg, World(0, 1, gpu=False))


def test_a_paddle_without_onednn(images, monkeypatch, logged):
    monkeypatch.setattr(library, "library", lambda: None)
    cfg = small_config("yolof", images, "cpu_kernels=auto")
    assert "this Paddle has no oneDNN 3" in chosen(cfg, build_model(cfg), logged)


def test_paddles_kernels_and_a_gpu_leave_the_model_alone(images):
    model = build_model(small_config("yolof", images))
    cpu_kernels.choose_kernels(model, small_config("yolof", images, "cpu_kernels=paddle"), World(0, 1, gpu=False))
    cpu_kernels.choose_kernels(model, small_config("yolof", images, "cpu_kernels=auto"), World(0, 1, gpu=True))
    assert "raw" not in vars(model)
