"""benchmarks/train_cpu.py: batches, the loss of the network alone, the table, and the comparison with PyTorch.

A shell script stands for the Python that has PyTorch; the networks themselves are in test_torch_networks.py.
"""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import _paddle_training
import numpy as np
import paddle
import pytest
import train_cpu

from ppdet_repro import load_config
from ppdet_repro.utils.errors import UserError

SIZE = (64, 96)
SAME = {"parameters": 1234, "trained": 1000, "outputs": 3e-12, "gradients": 4e-12, "only one": [], "settings": "fake"}
EXPECTED = {"parameters": 1234, "trained": 1000}


@pytest.mark.parametrize(
    "config, shapes",
    [
        ("yolof/yolof_r18vd_bccd.yml", {"gt_bbox": [2, 4, 4], "gt_class": [2, 4, 1]}),
        # 3 anchors per level, 6 numbers and 6 classes, strides 32, 16 and 8; boxes are padded to 50
        (
            "ppyolo/ppyolov2_r18vd_256_synthetic.yml",
            {"target0": [2, 3, 12, 2, 3], "target2": [2, 3, 12, 8, 12], "gt_cxcywh_relative": [2, 50, 4]},
        ),
        ("ttfnet/pafnet_r18vd_224_synthetic.yml", {"ttf_heatmap": [2, 6, 16, 24], "ttf_reg_weight": [2, 1, 16, 24]}),
    ],
)
def test_a_batch_has_the_targets_of_the_configs_reader(config, shapes):
    batch = _paddle_training.training_batch(load_config(config), 2, SIZE)
    assert batch["image"].shape == [2, 3, *SIZE]
    assert batch["progress"].tolist() == [1.0]
    assert {name: list(paddle.stack(list(batch[name])).shape) for name in shapes} == shapes


def test_the_memory_of_a_measurement_does_not_contain_that_of_its_parent():
    large = np.ones(600 << 20, np.uint8)  # 600 MiB, all of it in memory
    command = [sys.executable, "-c", "from _memory import peak_memory; print(peak_memory())"]
    found = subprocess.run(command, cwd=train_cpu.HERE, capture_output=True, text=True, check=True)
    assert 1 < float(found.stdout) < 100 and len(large) > 0


def test_boxes_are_in_the_image_and_a_quarter_to_half_as_large():
    boxes = _paddle_training.random_sample(np.random.default_rng(0), SIZE, 3)["gt_bbox"]
    sides = (boxes[:, 2:] - boxes[:, :2]) / [96, 64]
    assert boxes.min() >= 0 and (boxes <= [96, 64, 96, 64]).all()
    assert sides.min() >= 0.25 and sides.max() <= 0.5


def test_the_loss_of_the_network_is_the_sum_of_the_mean_squares_of_what_depends_on_weights():
    first, second = (paddle.to_tensor(v, stop_gradient=False) for v in ([1.0, 2.0], [3.0]))
    model = SimpleNamespace(raw=lambda image: {"maps": [first, second], "anchors": paddle.to_tensor([100.0])})
    loss = _paddle_training.network_loss(model, None)
    assert float(loss) == 11.5  # (1 + 4) / 2 + 9


@pytest.mark.parametrize("network_only", [False, True])
def test_a_detector_whose_targets_the_reader_makes_is_measured(network_only):
    config = load_config("ttfnet/pafnet_r18vd_224_synthetic.yml", ["cpu_kernels=paddle"])
    assert _paddle_training.updates_per_second(config, 1, (64, 64), 1, 1e-6, network_only) > 0


def test_the_reference_holds_the_network_without_the_part_of_the_loss(tmp_path):
    config = load_config("sapd/sapd_r18vd_256_synthetic.yml")
    counts = _paddle_training.write_reference(config, SIZE, tmp_path / "reference.npz")
    with np.load(tmp_path / "reference.npz") as stored:
        groups = {group: {k: v for k, v in stored.items() if k.startswith(group)} for group in ("weight", "gradient")}
        outputs = [stored[f"output/{i}"].shape for i in range(15)]
        assert stored["image/"].shape == (2, 3, *SIZE) and stored["output/0"].dtype == np.float64
    assert not [name for name in groups["weight"] if "levels" in name]
    learned = {k.replace("weight/", "gradient/", 1) for k in groups["weight"] if not k.endswith(("_mean", "_variance"))}
    assert set(groups["gradient"]) == learned
    assert counts["parameters"] == counts["trained"] == sum(v.size for v in groups["gradient"].values())
    assert outputs[0] == (2, 6, 8, 12)  # P3: classes, stride 8
    assert outputs[5] == (2, 4, 8, 12)  # distances
    assert outputs[14] == (2, 64, 1, 1)  # P7


def test_the_table_has_ratios_and_shares_of_the_same_round():
    rates = {"Paddle as it comes": [2.0, 4.0], "oneDNN, float32": [4.0, 4.0], train_cpu.GEMM: [24e9, 48e9]}
    memory = {"Paddle as it comes": [900.0, 1100.0], "oneDNN, float32": [1200.0, 1200.0]}
    lines = train_cpu.report(rates, memory, 10**9).splitlines()
    # 2 and 4 images per second of 3e9 multiply-adds: 6 of 24 and 12 of 48; 4 and 4: 12 of 24 and 12 of 48
    assert [cell.strip() for cell in lines[2].split("|")[2:6]] == [
        "3.00 (2.00 to 4.00)", "1.00 (1.00 to 1.00)", "25% (25% to 25%)", "1000 MiB"
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[3].split("|")[2:6]] == [
        "4.00 (4.00 to 4.00)", "1.50 (1.00 to 2.00)", "38% (25% to 50%)", "1200 MiB"
    ]  # fmt: skip
    assert "36.0 (24.0 to 48.0) GFLOPs/s" in lines[4]


def fake_python(folder, answer):
    """A program that answers every request with `answer`, and writes its last argument to a file."""
    path = folder / "python"
    script = f"#!/bin/sh\nfor last; do :; done\nprintf '%s' \"$last\" > {folder}/request\ncat <<'E'\n{answer}\nE\n"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def compared(folder, **changes):
    python = fake_python(folder, json.dumps({**SAME, **changes}))
    return train_cpu.PyTorch(python, "some_config", 5).compared(EXPECTED, folder / "reference.npz")


def test_the_comparison_with_pytorch_is_one_line(tmp_path):
    assert compared(tmp_path) == (
        "PyTorch's network is Paddle's: 1,234 parameters, 1,000 of them trained; in float64, outputs in evaluation "
        "mode differ by 3.0e-12, gradients by 4.0e-12"
    )
    request = json.loads((tmp_path / "request").read_text())
    assert request["task"] == "compare" and request["file"] == str(tmp_path / "reference.npz")
    assert request["network"] == "some_config" and request["classes"] == 5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"parameters": 1235}, "1235 parameters instead of 1234"),
        ({"trained": 999}, "999 trained instead of 1000"),
        ({"outputs": 2e-6}, "outputs that differ by 2.0e-06"),
        ({"outputs": float("nan")}, "outputs that differ by nan"),
        ({"gradients": 1e30}, "gradients that differ by 1.0e.30"),
        ({"only one": ["head.a"]}, r"gradients of \['head.a'\]"),
        ({"error": "some_config is not written for PyTorch"}, "some_config is not written"),
    ],
)
def test_another_network_is_not_timed(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        compared(tmp_path, **changes)


def test_a_python_without_pytorch_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        train_cpu.PyTorch(str(tmp_path / "nothing"), "a", 1)
    path = fake_python(tmp_path, "")
    (tmp_path / "python").write_text("#!/bin/sh\necho 'ModuleNotFoundError: no torch' >&2\nexit 1\n")
    with pytest.raises(UserError, match="ModuleNotFoundError: no torch; install torch and numpy"):
        train_cpu.PyTorch(path, "a", 1)


def test_pytorch_needs_network_only():
    with mock.patch.object(sys, "argv", ["train_cpu.py", "--torch_python", "python"]):
        with pytest.raises(UserError, match="--torch_python needs --network_only"):
            train_cpu.main()
