"""Averages of checkpoints: weights computed by hand, and running statistics that are measured again."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from tiny_yolof import write_config, write_images

from ppdet_repro import build_model, load_config
from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.training.average_checkpoints import average, average_checkpoints, measure_statistics
from ppdet_repro.optimizer.schedules import CyclicCosineDecay
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state, save_state


def state(weight, mean=0.0):
    return {
        "fc.weight": np.array([weight], np.float32),
        "bn._mean": np.array([mean], np.float32),
        "steps": np.array([3], np.int64),
    }


def test_weights_are_means():
    # (1 + 2 + 6) / 3 = 3
    weights, moved = average([state(1.0), state(2.0), state(6.0)], ["a", "b", "c"])
    assert weights["fc.weight"].tolist() == [3.0] and weights["fc.weight"].dtype == np.float32
    assert weights["steps"].tolist() == [3] and moved == []


def test_running_statistics_that_differ_are_named():
    assert average([state(1.0, 0.5), state(2.0, 0.75)], ["a", "b"])[1] == ["bn._mean"]


def test_small_weights_are_not_lost_in_the_sum():
    # in single precision 1e8 + 1 - 1e8 is 0
    assert average([state(1e8), state(1.0), state(-1e8)], "abc")[0]["fc.weight"][0] == pytest.approx(1 / 3)


def test_files_of_another_model_are_refused():
    other = {**state(1.0), "more": np.zeros(1, np.float32)}
    with pytest.raises(UserError, match="b is not a file of the same model as a: they differ in more"):
        average([state(1.0), other], ["a", "b"])


class Net(nn.Layer):
    """A batch norm, and a frozen one after it."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2D(1)
        self.frozen = nn.BatchNorm2D(1, use_global_stats=True)

    def raw(self, image):
        return self.frozen(self.bn(image))


def test_statistics_are_the_means_over_batches():
    # batches of the values 0, 2 (mean 1, variance 1), 4, 4 (4, 0) and 1, 7 (4, 9):
    # mean (1 + 4 + 4) / 3 = 3, variance (1 + 0 + 9) / 3 = 10 / 3; earlier values do not count
    net = Net()
    net.bn._mean.set_value(paddle.to_tensor([100.0]))
    net.eval()
    batches = [{"image": paddle.to_tensor(v).reshape([2, 1, 1, 1])} for v in ([0.0, 2], [4.0, 4], [1.0, 7])]
    measure_statistics(net, batches)
    assert float(net.bn._mean) == pytest.approx(3.0) and float(net.bn._variance) == pytest.approx(10 / 3, rel=1e-5)
    assert float(net.frozen._mean) == 0 and float(net.frozen._variance) == 1
    assert net.bn._momentum == 0.9 and not net.training


@pytest.fixture
def tiny(tmp_path):
    config = write_config(tmp_path, write_images(tmp_path, 4))
    reader = (
        "TrainDataset: {name: COCODataSet, dataset_dir: DATA, image_dir: images, anno_path: truth.json,"
        " data_fields: [image, gt_bbox, gt_class, is_crowd]}\n"
        "TrainReader:\n  sample_transforms:\n    - Decode: {}\n"
        "    - Resize: {target_size: [64, 64], keep_ratio: false}\n    - NormalizeImage: {}\n    - Permute: {}\n"
        "  batch_size: 2\n  collate_batch: false\n"
    )
    config.write_text(config.read_text() + reader.replace("DATA", str(tmp_path)))
    cfg, paths = load_config(config), []
    for seed in (1, 2):
        paddle.seed(seed)
        weights = weights_of(build_model(cfg))
        statistics = {n: v + seed / 10 for n, v in weights.items() if n.endswith("._mean")}
        paths.append(tmp_path / f"{seed}.pdparams")
        save_state(paths[-1], {**weights, **statistics})
    return cfg, [str(path) for path in paths], tmp_path


def test_an_average_without_a_config_is_refused_if_statistics_differ(tiny):
    _, paths, folder = tiny
    with pytest.raises(UserError, match="running statistics of batch norms differ"):
        average_checkpoints(paths, str(folder / "swa.pdparams"))
    assert not (folder / "swa.pdparams").exists()


def test_the_average_is_written_with_new_statistics(tiny):
    cfg, paths, folder = tiny
    average_checkpoints(paths, str(folder / "swa.pdparams"), cfg, batches=2)
    mine, first, second = (read_state(path) for path in (folder / "swa.pdparams", *paths))
    name = "head.cls_score.weight"
    np.testing.assert_allclose(mine[name], (first[name] + second[name]) / 2, atol=1e-7)
    moved = "backbone.conv1.conv1.norm._mean"
    assert np.abs(mine[moved] - (first[moved] + second[moved]) / 2).max() > 1e-3


def test_a_single_checkpoint_or_a_wrong_file_name_is_refused(tiny):
    _, paths, folder = tiny
    with pytest.raises(UserError, match="at least two checkpoints, 1 given"):
        average_checkpoints(paths[:1], str(folder / "swa.pdparams"))
    with pytest.raises(UserError, match="must end with .pdparams"):
        average_checkpoints(paths, str(folder / "swa"))


def test_a_cycle_falls_to_its_lowest_rate_and_starts_again():
    # 2 epochs of 3 updates per cycle: 6 updates, half a cosine over 5 steps
    decay = CyclicCosineDecay(cycle_epochs=2, min_lr_ratio=0.01)
    rates = [decay.rate(t, 3, 0, 1.0) for t in range(7)]
    assert rates[0] == rates[6] == 1.0 and rates[5] == pytest.approx(0.01)
    assert rates[2] == pytest.approx(0.01 + 0.99 * 0.5 * (np.cos(0.4 * np.pi) + 1))
    with pytest.raises(UserError, match="cycle_epochs 0"):
        CyclicCosineDecay(0)
