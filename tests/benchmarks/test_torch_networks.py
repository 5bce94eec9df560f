"""benchmarks/torch_networks.py and what is measured with them. They need PyTorch, which the lock files do not have.

References for the comparison are made by the networks themselves; `train_cpu.py --torch_python` makes them by Paddle.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch_networks, _torch_training = map(importlib.import_module, ("torch_networks", "_torch_training"))

# parameters of the models of this package with these configs (`ppdet-repro info`), without SAPD's selection of levels
PARAMETERS = {
    ("yolof_r50_c5_1x_coco", 80): 44_166_121,
    ("yolof_demo", 6): 416_423,
    ("ppyolov2_r18vd_256_bccd", 3): 4_624_129,
    ("sapd_r18vd_256_synthetic", 6): 3_280_762,
}
SMALL = [name for name in torch_networks.NETWORKS if "r50" not in name]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize("name, classes", PARAMETERS)
def test_the_number_of_parameters_is_that_of_paddles_model(name, classes):
    network = torch_networks.NETWORKS[name](classes)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name, classes]


def test_every_network_is_tested():
    assert {name for name, _ in PARAMETERS} == set(torch_networks.NETWORKS)


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("yolof_demo", [(2, 8 * 12 * 5, 3), (2, 8 * 12 * 5, 4)]),  # stride 8, 5 anchors
        ("ppyolov2_r18vd_256_bccd", [(2, 27, 2, 3), (2, 27, 4, 6), (2, 27, 8, 12)]),  # 3 anchors x (6 + 3)
    ],
)
def test_the_shapes_of_outputs(name, shapes):
    outputs = torch_networks.NETWORKS[name](3).eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(output.shape) for output in outputs] == shapes


def test_the_outputs_of_sapd_are_logits_distances_and_levels():
    outputs = torch_networks.NETWORKS["sapd_r18vd_256_synthetic"](3).eval()(torch.randn(1, 3, 64, 128))
    sides = [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
    assert [tuple(output.shape) for output in outputs] == [(1, c, *side) for c in (3, 4, 64) for side in sides]
    assert all(float(distances.detach().min()) >= 0 for distances in outputs[5:10])


def test_what_is_frozen_gets_no_gradient_and_keeps_its_statistics():
    network = torch_networks.ResNet(18, 0.5, False, [1, 3], frozen=True).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    _torch_training.loss_of(network(torch.randn(2, 3, 64, 64))).backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None}
    convolutions = {name for name, p in network.named_parameters() if p.ndim == 4}
    assert learned == {name for name in convolutions if not name.startswith(("conv1", "res2"))}
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_the_loss_is_the_sum_of_the_mean_squares():
    outputs = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    assert float(_torch_training.loss_of(outputs)) == 11.5  # (1 + 4) / 2 + 9
    low = _torch_training.loss_of([output.bfloat16() for output in outputs])
    assert low.dtype == torch.float32


def weights_of(network):
    """The arrays of a network under the names that a Paddle model has."""
    names, found = torch_networks.STATISTICS, {}
    for name, values in network.state_dict().items():
        *folders, last = name.split(".")
        if last != "num_batches_tracked":
            found[".".join([*folders, names.get(last, last)])] = values.numpy()
    return found


def reference(network, file):
    """What `_paddle_training.write_reference` writes for a model that computes as `network` does."""
    network = network.double()
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 1.5)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    arrays = {"image/": image.numpy(), **{f"weight/{k}": v.copy() for k, v in weights_of(network).items()}}
    with torch.no_grad():
        arrays.update({f"output/{i}": output.numpy() for i, output in enumerate(network.eval()(image))})
    _torch_training.loss_of(network.train()(image)).backward()
    arrays.update({f"gradient/{n}": p.grad.numpy() for n, p in network.named_parameters() if p.grad is not None})
    np.savez(file, **arrays)


def compare(name, file):
    return _torch_training.compare(torch_networks.NETWORKS[name](3), str(file))


@pytest.mark.parametrize("name", SMALL)
def test_the_same_network_agrees(name, tmp_path):
    reference(torch_networks.NETWORKS[name](3), tmp_path / "r.npz")
    found = compare(name, tmp_path / "r.npz")
    assert found["outputs"] < 1e-12 and found["gradients"] < 1e-9 and found["only one"] == []


def test_a_network_that_computes_something_else_does_not_agree(tmp_path):
    network = torch_networks.NETWORKS["yolof_demo"](3)
    network.neck.dilated_encoder_blocks[3].conv2[0].dilation = (6, 6)  # not 8
    network.neck.dilated_encoder_blocks[3].conv2[0].padding = (6, 6)
    reference(network, tmp_path / "r.npz")
    found = compare("yolof_demo", tmp_path / "r.npz")
    assert found["outputs"] > 1e-3 and found["gradients"] > 1e-3


def test_a_network_that_trains_something_else_does_not_agree(tmp_path):
    network = torch_networks.NETWORKS["yolof_demo"](3)
    network.head.cls_score.bias.requires_grad_(False)
    reference(network, tmp_path / "r.npz")
    assert compare("yolof_demo", tmp_path / "r.npz")["only one"] == ["head.cls_score.bias"]


def test_more_outputs_do_not_agree(tmp_path):
    reference(torch_networks.NETWORKS["yolof_demo"](3), tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "r.npz", **arrays, **{"output/2": arrays["output/1"]})
    assert compare("yolof_demo", tmp_path / "r.npz")["outputs"] == _torch_training.INFINITE


def test_weights_of_another_network_are_refused():
    network = torch_networks.NETWORKS["yolof_demo"](3)
    with pytest.raises(RuntimeError, match="of one network only, such as yolo_head"):
        torch_networks.load(network, weights_of(torch_networks.NETWORKS["ppyolov2_r18vd_256_bccd"](3)))
    with pytest.raises(RuntimeError, match="size mismatch for head.cls_score"):
        torch_networks.load(network, weights_of(torch_networks.NETWORKS["yolof_demo"](4)))


def test_answers():
    assert "there are yolof_r50" in _torch_training.answer({"task": "train", "network": "other"})["error"]
    request = {"task": "train", "network": "yolof_demo", "classes": 3, "shape": [1, 3, 64, 64], "steps": 1, "lr": 1e-6}
    for bfloat16 in (False, True):
        assert _torch_training.answer({**request, "bfloat16": bfloat16})["rate"] > 0
