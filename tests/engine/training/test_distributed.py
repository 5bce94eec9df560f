"""Several processes: the messages between them, and that two processes train like one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from paddle import nn
from paths import ROOT

from ppdet_repro.core.config import load_config
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.engine.distributed import World, synchronize_batch_norms
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.train import train
from ppdet_repro.utils.weights import read_state

CONFIG = """
_BASE_: [{root}/configs/yolof/yolof_r50_c5_1x_coco.yml]
epoch: 2
num_classes: 2
use_gpu: false
norm_type: {norm_type}
log_iter: 1
worker_num: 1
base_batch_size: 4
pretrain_weights: null
save_dir: {folder}/output
TrainDataset: {{dataset_dir: {data}, image_dir: train, anno_path: annotations/instances_train.json}}
EvalDataset: {{dataset_dir: {data}, image_dir: val, anno_path: annotations/instances_val.json}}
ResNet: {{depth: 18, width_mult: 0.25, freeze_norm: {frozen}, freeze_at: -1, lr_mult_list: [1.0, 1.0, 1.0, 1.0]}}
DilatedEncoder:
  in_channels: [128]
  out_channels: [16]
  block_mid_channels: 8
  num_residual_blocks: 1
  block_dilations: [2]
YOLOFHead: {{conv_feat: {{feat_in: 16, feat_out: 16, num_cls_convs: 1, num_reg_convs: 1}}}}
LearningRate:
  base_lr: 0.01
  schedulers:
  - !PiecewiseDecay {{gamma: 0.1, milestones: [3]}}
  - !LinearWarmup {{start_factor: 0.5, steps: 2}}
TrainReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - RandomFlip: {{}}
    - Permute: {{}}
  batch_size: 2
EvalReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - Permute: {{}}
"""

# Trains, with all batch norms frozen if asked to. Each process writes its final weights to the config's folder.
FROZEN = """
import os, sys
import numpy as np
import ppdet_repro
from ppdet_repro import load_config
from ppdet_repro.engine.training import assembly, train as training

if sys.argv[2] == "frozen":
    from paddle import nn
    build_untrained = assembly.build_untrained
    def frozen(cfg, *channels):
        model = build_untrained(cfg, *channels)
        for layer in model.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._use_global_stats = True
        return model
    assembly.build_untrained = frozen

class Kept(training.TrainingLoop):
    def train(self):
        state = super().train()
        weights = {name: value.numpy() for name, value in self.run.model.state_dict().items()}
        rank = os.environ.get("PADDLE_TRAINER_ID", "0")
        np.savez(os.path.join(os.path.dirname(sys.argv[1]), f"rank{rank}.npz"), **weights)
        return state

training.TrainingLoop = Kept
training.train(load_config(sys.argv[1], sys.argv[3:]), evaluate=True)
"""

COLLECTIVES = """
import ppdet_repro, paddle
from ppdet_repro.engine import distributed
from ppdet_repro.engine.distributed import average_update, gather_results, means, start
from ppdet_repro.utils.errors import UserError

world = start(False)
rank = world.rank
assert world.size == 2

def only_in_the_first():
    if rank == 1:
        raise UserError("an image of the second process cannot be read")

assert gather_results(lambda: rank) == [0, 1]
try:
    gather_results(only_in_the_first)
    raise AssertionError("no error")
except UserError as error:
    assert str(error) == "an image of the second process cannot be read"

distributed.BUCKET_SIZE = 3  # several messages
found = means([paddle.full([2], rank), paddle.full([2, 2], 3.0 * rank), paddle.full([], 1.0)])
assert [t.shape for t in found] == [[2], [2, 2], []]
assert [t.numpy().ravel().tolist() for t in found] == [[0.5] * 2, [1.5] * 4, [1.0]]

both, one, none = (paddle.create_parameter([1], "float32") for _ in range(3))
both.grad = paddle.full([1], 1.0 + rank)
if rank == 1:
    one.grad = paddle.full([1], 8.0)
statistic = paddle.full([2], 2.0 * rank)
losses = average_update([both, one, none], [statistic], paddle.to_tensor([1.0, 5.0 * rank]))
assert (both.grad.item(), one.grad.item(), none.grad) == (1.5, 4.0, None)
assert statistic.tolist() == [1.0, 1.0]
assert losses.tolist() == [1.0, 2.5]
"""

FAILING = """
import sys
import ppdet_repro
from ppdet_repro import load_config
from ppdet_repro.engine.training.loop import TrainingLoop
from ppdet_repro.engine.training.train import train
from ppdet_repro.utils.errors import UserError, run_command

def one_epoch(self, log):
    if self.run.world.rank == 1:
        raise UserError("the disk of this machine is broken")
    return ONE_EPOCH(self, log)

ONE_EPOCH, TrainingLoop.one_epoch = TrainingLoop.one_epoch, one_epoch
run_command(lambda: train(load_config(sys.argv[1])) and None)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """8 images of 2 classes to train on, and 3 to evaluate, which two processes cannot share equally."""
    return generate(tmp_path_factory.mktemp("data") / "set", train=8, val=3, size=(64, 64), classes=2, objects=(1, 3))


def config(folder, data, norm_type="bn", frozen="true"):
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yml"
    path.write_text(CONFIG.format(root=ROOT, folder=folder, data=data, norm_type=norm_type, frozen=frozen))
    return path


def launch(folder, code, *arguments, processes=2):
    """Run Python code in several processes on the CPU. The result has the log of the first process as `log`."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(code)
    command = ["-m", "paddle.distributed.launch", f"--nproc_per_node={processes}", "--log_dir", str(folder / "log")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, str(folder / "script.py"), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    done.log = (folder / "log" / "workerlog.0").read_text()
    return done


def lines(folder, kind):
    """The entries of one kind in a run's log."""
    found = [json.loads(line) for line in (folder / "output/tiny/log.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_means_over_processes(tmp_path):
    done = launch(tmp_path, COLLECTIVES)
    assert done.returncode == 0, done.log


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path, data):
    """With frozen batch norms: the same losses, weights and average precision; one log, one checkpoint."""
    two, one = tmp_path / "two", tmp_path / "one"
    done = launch(two, FROZEN, config(two, data), "frozen")
    assert done.returncode == 0, done.log
    path = config(one, data)
    alone = subprocess.run(
        [sys.executable, two / "script.py", path, "frozen", "TrainReader.batch_size=4"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr

    a, b = lines(two, "train"), lines(one, "train")
    assert [line["step"] for line in a] == [line["step"] for line in b] == [1, 2, 3, 4]
    for name in ("loss", "loss_cls", "loss_reg", "lr"):
        assert [line[name] for line in a] == pytest.approx([line[name] for line in b], rel=1e-5)
    assert lines(two, "eval") == lines(one, "eval")

    ranks = [np.load(two / f"rank{rank}.npz") for rank in range(2)]
    assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in ranks[0].files)
    expected = read_state(one / "output/tiny/model_final.pdparams")
    for name, value in read_state(two / "output/tiny/model_final.pdparams").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert [path.name for path in list_checkpoints(two / "output/tiny")] == ["epoch_0001", "epoch_0002"]
    assert "4 images per update (2 x 2 processes x 1 accumulated)" in done.log
    assert (two / "log" / "workerlog.1").read_text().count("INFO") == 0


def test_batch_norms_that_are_not_frozen_have_equal_statistics_in_all_processes(tmp_path, data):
    done = launch(tmp_path, FROZEN, config(tmp_path, data, "sync_bn", "false"), "free", "epoch=1", "use_ema=true")
    assert done.returncode == 0, done.log
    ranks = [np.load(tmp_path / f"rank{rank}.npz") for rank in range(2)]
    assert all(np.array_equal(ranks[0][name], ranks[1][name]) for name in ranks[0].files)
    assert np.any(ranks[0]["backbone.conv1.conv1.norm._mean"] != 0)
    assert "sync_bn: BN used instead" in done.log


def test_a_failing_process_ends_the_others(tmp_path, data):
    started = time.perf_counter()
    done = launch(tmp_path, FAILING, config(tmp_path, data))
    assert done.returncode != 0
    assert time.perf_counter() - started < 120
    log = (tmp_path / "log" / "workerlog.1").read_text()
    assert "error: the disk of this machine is broken" in log and "Traceback" not in log


def test_one_process_can_resume_a_run_of_two(tmp_path, data):
    path = config(tmp_path, data)
    done = launch(tmp_path, FROZEN, path, "free", "epoch=1")
    assert done.returncode == 0, done.log
    state = train(load_config(path, ["TrainReader.batch_size=4"]), resume="auto")
    assert (state.epoch, state.step) == (2, 4)


def test_sync_bn_on_the_cpu_is_bn_and_logged(logged):
    model = nn.Sequential(nn.BatchNorm2D(1))
    synchronize_batch_norms(model, World(0, 2, gpu=False))
    assert type(model[0]) is nn.BatchNorm2D and "BN used instead" in logged.text


def test_sync_bn_on_gpus_keeps_names_weights_and_frozen_layers():
    frozen = nn.BatchNorm2D(1, use_global_stats=True)
    model = nn.Sequential(nn.BatchNorm2D(1), nn.Sequential(frozen))
    before = model.state_dict()
    synchronize_batch_norms(model, World(0, 2, gpu=True))
    assert type(model[0]) is nn.SyncBatchNorm and model[1][0] is frozen
    after = model.state_dict()
    assert list(after) == list(before) and all(after[name] is before[name] for name in after)
