"""Training: an update, the guard against NaN, the log, and whole runs of a tiny YOLOF."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.base import core
from paths import ROOT

from ppdet_repro.core.config import RunSettings, load_config
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.engine.distributed import World, synchronize_batch_norms
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.assembly import choose_precision
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.data import in_groups
from ppdet_repro.engine.training.loop import seed_everything, train_one_epoch
from ppdet_repro.engine.training.progress import TrainLog
from ppdet_repro.engine.training.step import NanGuard, StepReport, TrainStep
from ppdet_repro.engine.training.train import train
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.optimizer import SGD, OptimizerBuilder
from ppdet_repro.optimizer.schedules import LearningRate, PiecewiseDecay
from ppdet_repro.utils import files, logger
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state

ALONE = World(rank=0, size=1, gpu=False)


@pytest.fixture
def logged(caplog, monkeypatch):
    """What the package's logger says."""
    monkeypatch.setattr(logger.get_logger(), "propagate", True)
    caplog.set_level("INFO")
    return caplog


class Mean(nn.Layer):
    """Learns the mean of its images: loss (weight - image)^2, after a batch norm nobody uses."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.0))
        self.norm = nn.BatchNorm1D(1)

    def forward(self, batch):
        self.norm(batch["image"])
        loss = (self.weight - batch["image"]).square().mean()
        return {"loss_near": loss, "loss": loss}


def batch_of(*values, im_id=0):
    image = paddle.to_tensor([[float(value)] for value in values])
    return {"image": image, "im_id": paddle.full([len(values), 1], im_id, "int64"), "gt_bbox": [paddle.zeros([2, 4])]}


def step_for(model, folder, action="stop", ema=None, rate=0.25):
    schedule = LearningRate(rate, [PiecewiseDecay(0.1, [9], use_warmup=False)]).schedule(1)
    optimizer = OptimizerBuilder(None, None, None, SGD()).build(schedule, model)
    return TrainStep(model, optimizer, schedule, NanGuard(action, folder), ALONE, ema)


class TestStep:
    def test_an_update(self, tmp_path):
        model = Mean()
        report = step_for(model, tmp_path)([batch_of(1, 3)])
        # loss (1 + 9) / 2 = 5, gradient -(1 + 3) = -4, weight 0 + .25 * 4
        assert report.losses == {"loss_near": 5.0, "loss": 5.0}
        assert (report.learning_rate, report.images, float(model.weight.item())) == (0.25, 2, 1.0)

    def test_micro_batches_give_the_update_of_one_batch(self, tmp_path):
        model = Mean()
        report = step_for(model, tmp_path)([batch_of(1), batch_of(3)])
        assert (report.losses["loss"], report.images, model.weight.item()) == (5.0, 2, 1.0)

    def test_gradients_do_not_outlive_an_update(self, tmp_path):
        model = Mean()
        step = step_for(model, tmp_path)
        step([batch_of(1, 3)])
        step([batch_of(1, 1)])  # weight 1 is right: no gradient
        assert model.weight.item() == 1.0

    def test_the_schedule_and_the_average_follow(self, tmp_path):
        model = Mean()
        ema = ModelEMA(model)
        step = step_for(model, tmp_path, ema=ema)
        step([batch_of(2)])  # weight .25 * 2 * 2 = 1
        assert step.schedule.last_epoch == 1 and ema.step == 1
        assert ema.average["weight"].item() == pytest.approx(0.9)

    def test_running_statistics_that_are_frozen_are_not_touched(self, tmp_path):
        model = Mean()
        assert len(step_for(model, tmp_path).statistics) == 2
        model.norm = nn.BatchNorm1D(1, use_global_stats=True)
        assert step_for(model, tmp_path).statistics == []


class TestNanGuard:
    def test_stop_saves_the_batch_and_says_which_images(self, tmp_path):
        model = Mean()
        with pytest.raises(UserError, match="update 1: not finite: loss_near, loss, gradients; image ids 7") as error:
            step_for(model, tmp_path)([batch_of(float("nan"), im_id=7)])
        assert "nan_step1_rank0.npz" in str(error.value) and "nan_action=skip" in str(error.value)
        assert model.weight.item() == 0.0
        saved = np.load(tmp_path / "nan_step1_rank0.npz")
        assert np.isnan(saved["0/image"]).all() and saved["0/gt_bbox/0"].shape == (2, 4)

    def test_skip_goes_on_as_if_the_batch_had_not_been(self, tmp_path, logged):
        model = Mean()
        ema = ModelEMA(model)
        step = step_for(model, tmp_path, "skip", ema)
        step([batch_of(1), batch_of(1, float("inf"))])
        assert model.weight.item() == 0.0 and model.weight.grad is None and ema.step == 0
        assert np.isfinite(model.norm._mean.numpy()).all()  # the forward pass had spoilt it
        assert "update skipped" in logged.text
        step([batch_of(2)])
        assert model.weight.item() == 1.0 and step.schedule.last_epoch == 2

    def test_a_finite_loss_with_gradients_that_are_not(self, tmp_path):
        class Root(Mean):
            def forward(self, batch):
                return {"loss": self.weight.sqrt().sum()}  # slope 1 / 0

        with pytest.raises(UserError, match="not finite: gradients; image ids 7"):
            step_for(Root(), tmp_path)([batch_of(1, im_id=7)])

    def test_skipping_for_ever_ends(self, tmp_path):
        step = step_for(Mean(), tmp_path, "skip")
        with pytest.raises(UserError, match="the 20th in a row"):
            for _ in range(20):
                step([batch_of(float("nan"))])
        assert len(list(tmp_path.iterdir())) == 3  # of the batches only the first are kept

    def test_a_full_disk_does_not_hide_the_message(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match="image ids 7 .the batch could not be saved in .*No space left"):
            step_for(Mean(), tmp_path)([batch_of(float("nan"), im_id=7)])


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestLoop:
    def test_every_group_is_an_update_in_training_mode(self):
        model, seen = Mean(), []
        model.eval()
        train_one_epoch(model, in_groups("abcde", 2), lambda group: (model.training, group), seen.append)
        assert seen == [(True, ["a", "b"]), (True, ["c", "d"]), (True, ["e"])]

    def test_random_states_depend_on_seed_epoch_and_rank(self):
        def draws(*numbers):
            seed_everything(*numbers)
            return (random.random(), np.random.rand(), paddle.rand([1]).item())

        assert draws(0, 1, 0) == draws(0, 1, 0)
        first = draws(0, 1, 0)
        for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
            assert all(a != b for a, b in zip(first, draws(*other)))

    def test_mixed_precision_needs_a_gpu_and_says_so(self, logged):
        assert choose_precision(RunSettings(amp=True), ALONE).low is None
        assert "training in float32" in logged.text

    def test_level_o2_is_not_there(self):
        with pytest.raises(UserError, match="amp_level: O2 is not supported"):
            choose_precision(RunSettings(amp=True, amp_level="O2"), ALONE)

    def test_sync_bn_becomes_bn_on_the_cpu_and_says_so(self, logged):
        model = Mean()
        synchronize_batch_norms(model, World(0, 2, gpu=False))
        assert type(model.norm) is nn.BatchNorm1D and "BN used instead" in logged.text

    def test_sync_bn_on_gpus_keeps_names_weights_and_frozen_layers(self):
        frozen = nn.BatchNorm2D(1, use_global_stats=True)
        model = nn.Sequential(nn.BatchNorm2D(1), nn.Sequential(frozen))
        before = model.state_dict()
        synchronize_batch_norms(model, World(0, 2, gpu=True))
        assert type(model[0]) is nn.SyncBatchNorm and model[1][0] is frozen
        after = model.state_dict()
        assert list(after) == list(before) and all(after[name] is before[name] for name in after)


class TestLog:
    def report(self, loss, rate=0.1):
        return StepReport({"loss": loss}, rate, images=4, seconds=0.0)

    def entries(self, path):
        return [json.loads(line) for line in path.read_text().splitlines()]

    def test_a_line_every_log_iter_updates_with_means_since_the_last(self, tmp_path):
        with TrainLog(tmp_path / "log.jsonl", epochs=2, steps=5, log_iter=2) as log:
            for _ in range(2):
                log.start_epoch()
                for loss in (1.0, 2.0, 4.0, 6.0, 8.0):
                    log(self.report(loss))
            log.evaluation({"bbox_mAP": 0.5})
        found = [(e["kind"], e["epoch"], e["step"], e.get("loss")) for e in self.entries(tmp_path / "log.jsonl")]
        epoch = [(1, 1.0), (2, 2.0), (4, 5.0), (5, 8.0)]
        assert found == [
            *[("train", 1, step, loss) for step, loss in epoch],
            *[("train", 2, step + 5, loss) for step, loss in epoch],
            ("eval", 2, 10, None),
        ]

    def test_lines_of_updates_that_are_done_again_are_dropped_and_cut_ones_too(self, tmp_path):
        path = tmp_path / "log.jsonl"
        path.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"ste')
        TrainLog(path, epochs=2, steps=5, done=5)
        assert [entry["step"] for entry in self.entries(path)] == [1, 5]

    def test_skipped_updates_leave_the_mean_finite(self, tmp_path):
        with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=3, log_iter=3) as log:
            log.start_epoch()
            for loss in (1.0, float("nan"), 3.0):
                log(self.report(loss))
        assert [entry["loss"] for entry in self.entries(tmp_path / "log.jsonl")] == [1.0, 3.0]

    def test_curves_for_visualdl(self, tmp_path):
        pytest.importorskip("visualdl", reason="an extra: pip install visualdl")
        with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=1, vdl_dir=str(tmp_path / "vdl")) as log:
            log.start_epoch()
            log(self.report(1.0))
        assert list((tmp_path / "vdl").iterdir())

    def test_a_full_disk_does_not_end_the_training(self, tmp_path, logged):
        (tmp_path / "log.jsonl").mkdir()
        with TrainLog(tmp_path / "log.jsonl", epochs=1, steps=1) as log:
            log.start_epoch()
            log(self.report(1.0))
        assert "cannot write the log" in logged.text


TINY = """
_BASE_: [{root}/configs/yolof/yolof_r50_c5_1x_coco.yml]
epoch: 4
num_classes: 2
use_gpu: false
log_iter: 1
worker_num: 1
base_batch_size: 4
pretrain_weights: null
save_dir: {folder}/output
TrainDataset: {{dataset_dir: {data}, image_dir: train, anno_path: annotations/instances_train.json}}
EvalDataset: {{dataset_dir: {data}, image_dir: val, anno_path: annotations/instances_val.json}}
ResNet: {{depth: 18, width_mult: 0.25, freeze_norm: false, freeze_at: -1, lr_mult_list: [1.0, 1.0, 1.0, 1.0]}}
DilatedEncoder:
  {{in_channels: [128], out_channels: [16], block_mid_channels: 8, num_residual_blocks: 1,
    block_dilations: [2]}}
YOLOFHead: {{conv_feat: {{feat_in: 16, feat_out: 16, num_cls_convs: 1, num_reg_convs: 1}}}}
LearningRate:
  base_lr: 0.02
  schedulers:
  - !PiecewiseDecay {{gamma: 0.1, milestones: [3]}}
  - !LinearWarmup {{start_factor: 0.1, steps: 3}}
TrainReader: &reader
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - RandomFlip: {{}}
    - Permute: {{}}
  batch_size: 4
EvalReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - Permute: {{}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """8 images of 2 classes to train on, 2 to evaluate."""
    return generate(tmp_path_factory.mktemp("data") / "set", train=8, val=2, size=(64, 64), classes=2, objects=(1, 3))


@pytest.fixture
def tiny(tmp_path, data):
    """The path of a config for runs of 4 epochs of 2 updates."""
    path = tmp_path / "tiny.yml"
    path.write_text(TINY.format(root=ROOT, folder=tmp_path, data=data))
    return path


def scores(*values):
    """An evaluation that finds these values of bbox_mAP, one call after another."""
    left = list(values)
    return lambda model, cfg, dataset: {"bbox_mAP": left.pop(0)}


def arrays(folder):
    """Every array of a checkpoint."""
    return {
        f"{file.name}/{name}": value
        for file in sorted(folder.iterdir())
        if file.suffix != ".json"
        for name, value in read_state(file).items()
    }


def run_elsewhere(code, *arguments):
    """Python code in another process, from the root of the package."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


KILLED = """
    import os, signal, sys
    import ppdet_repro
    from ppdet_repro import load_config
    from ppdet_repro.engine.training import loop
    from ppdet_repro.engine.training.train import train

    class DyingLog(loop.TrainLog):
        def __call__(self, report):
            super().__call__(report)
            if self.done == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)

    loop.TrainLog = DyingLog
    train(load_config(sys.argv[1]), evaluate=True)
"""


class TestRuns:
    def test_killed_in_the_third_epoch_and_resumed_equals_never_stopped(self, tiny, tmp_path):
        tiny.write_text(tiny.read_text() + "use_ema: true\n")
        whole = train(load_config(tiny, [f"save_dir={tmp_path}/whole"]), evaluate=True)

        done = run_elsewhere(KILLED, tiny, 5)  # the first update of the third epoch
        assert done.returncode == -signal.SIGKILL, done.stderr
        folder = tmp_path / "output" / "tiny"
        assert [path.name for path in list_checkpoints(folder)] == ["epoch_0001", "epoch_0002"]
        core.set_num_threads(1)  # as a predictor of Paddle Inference does to its whole process
        resumed = train(load_config(tiny), resume="auto", evaluate=True)

        other = tmp_path / "whole" / "tiny"
        assert resumed == whole
        for name in ("epoch_0003", "epoch_0004"):
            a, b = (arrays(path / "checkpoints" / name) for path in (folder, other))
            assert set(a) == set(b) and any("velocity" in key for key in a)
            assert [key for key in a if not np.array_equal(a[key], b[key])] == []
        for file in ("model_final.pdparams", "best_model.pdparams"):
            a, b = read_state(folder / file), read_state(other / file)
            assert all(np.array_equal(a[name], b[name]) for name in b)

        def log(path):
            lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
            return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

        assert log(folder) == log(other)

    def test_weights_of_a_run_are_an_ordinary_weight_file(self, tiny, tmp_path, logged):
        train(load_config(tiny, ["epoch=1", "print_params=true", "print_flops=true"]))
        assert "M trainable" in logged.text and "GFLOPs at 64 x 64" in logged.text
        final = read_state(tmp_path / "output/tiny/model_final.pdparams")
        assert "backbone.conv1.conv1.conv.weight" in final
        epoch = tmp_path / "output/tiny/checkpoints/epoch_0001"
        assert {file.name for file in epoch.iterdir()} == {"model.pdparams", "optimizer.pdopt", "state.json"}
        train(load_config(tiny, ["epoch=0", f"pretrain_weights={epoch}", f"save_dir={tmp_path}/fine"]))
        tuned = read_state(tmp_path / "fine/tiny/model_final.pdparams")
        assert all(np.array_equal(final[name], tuned[name]) for name in final)

    def test_a_training_set_without_boxes_is_one_line(self, tiny):
        with pytest.raises(UserError, match=r"tiny.yml: TrainDataset.data_fields is .*needs gt_bbox and gt_class"):
            train(load_config(tiny, ["TrainDataset.data_fields=[image]"]))

    def test_an_evaluation_that_cannot_be_is_refused_before_the_first_epoch(self, tiny, tmp_path):
        with pytest.raises(UserError, match=r"test_scales: \[0, 64\] is not \[short side, long side\]"):
            train(load_config(tiny, ["test_scales=[[0,64]]"]), evaluate=True)
        with pytest.raises(UserError, match="metric"):
            train(load_config(tiny, ["metric=VOC"]), evaluate=True)
        assert not (tmp_path / "output").exists()

    def test_best_weights_and_early_stopping(self, tiny, tmp_path, logged):
        cfg = load_config(tiny, ["epoch=9", "early_stop=2"])
        state = train(cfg, evaluate=True, evaluation=scores(0.1, 0.3, 0.3, 0.2, 0.9))
        assert (state.epoch, state.best, state.best_epoch) == (4, 0.3, 2)
        assert "stopped early after epoch 4: 2 evaluations without gain on epoch 2" in logged.text
        folder = tmp_path / "output" / "tiny"
        best = read_state(folder / "best_model.pdparams")
        second = read_state(folder / "checkpoints/epoch_0002/model.pdparams")
        assert all(np.array_equal(best[name], second[name]) for name in best)
        assert train(cfg, resume="auto", evaluate=True, evaluation=scores()).epoch == 4

    def test_snapshots_at_intervals_and_at_the_end(self, tiny, tmp_path):
        state = train(load_config(tiny, ["epoch=3", "snapshot_epoch=2"]), evaluate=True, evaluation=scores(0.5, 0.4))
        assert [path.name for path in list_checkpoints(tmp_path / "output/tiny")] == ["epoch_0002", "epoch_0003"]
        assert state.metrics == {"bbox_mAP": 0.4}

    def test_a_full_disk_does_not_end_the_training(self, tiny, tmp_path, logged, monkeypatch):
        real = os.fsync

        class Disk:
            full = False

        monkeypatch.setattr(files.os, "fsync", lambda d: full_disk() if Disk.full else real(d))

        def evaluation(model, cfg, dataset):
            Disk.full = len(list_checkpoints(tmp_path / "output/tiny")) == 1 and not Disk.full
            return {"bbox_mAP": 0.5}

        train(load_config(tiny, ["epoch=3"]), evaluate=True, evaluation=evaluation)
        assert "could not save epoch 2" in logged.text and "No space left on device" in logged.text
        assert "the last good checkpoint is" in logged.text
        assert [path.name for path in list_checkpoints(tmp_path / "output/tiny")] == ["epoch_0001", "epoch_0003"]

    def test_a_full_disk_at_the_end_is_an_error(self, tiny, tmp_path, monkeypatch):
        def no_room(path, weights):
            full_disk()

        monkeypatch.setattr(run_folder, "save_state", no_room)
        with pytest.raises(UserError, match="cannot save the final weights: No space left.*epoch_0001"):
            train(load_config(tiny, ["epoch=1"]))

    def test_a_new_run_does_not_mix_with_an_old_one(self, tiny, tmp_path, logged):
        folder = tmp_path / "output" / "tiny"
        train(load_config(tiny, ["epoch=2"]))
        train(load_config(tiny, ["epoch=1"]))
        assert [path.name for path in list_checkpoints(folder)] == ["epoch_0001"]
        assert [path.name for path in list_checkpoints(folder / "previous")] == ["epoch_0001", "epoch_0002"]
        assert "held an earlier run; it is now in" in logged.text

    def test_a_folder_that_cannot_be_written(self, tiny, tmp_path):
        (tmp_path / "output").touch()
        with pytest.raises(UserError, match="cannot write to .*output/tiny/checkpoints: .*set save_dir"):
            train(load_config(tiny))

    def test_ctrl_c_says_how_to_go_on(self, tiny, tmp_path, logged):
        def interrupt(model, cfg, dataset):
            if list_checkpoints(tmp_path / "output/tiny"):
                raise KeyboardInterrupt
            return {"bbox_mAP": 0.5}

        with pytest.raises(KeyboardInterrupt):
            train(load_config(tiny), evaluate=True, evaluation=interrupt)
        assert f"interrupted; --resume auto goes on from {tmp_path}/output/tiny/checkpoints/epoch_0001" in logged.text

    def test_the_number_of_classes_must_be_the_data_sets(self, tiny):
        with pytest.raises(UserError, match="TrainDataset has 2 classes, but num_classes"):
            train(load_config(tiny, ["num_classes=3"]))


class TestCommand:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, "tools/train.py", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_a_run(self, tiny, tmp_path):
        done = self.run("-c", tiny, "-o", "epoch=1", "--seed", 3, "--eval", "-r", "auto")
        assert done.returncode == 0, done.stderr
        assert "learning rate: base_lr x 1, for 4 images per update" in done.stderr
        assert "has no checkpoint; starting at the beginning" in done.stderr
        assert "done: " in done.stderr
        assert json.loads((tmp_path / "output/tiny/checkpoints/epoch_0001/state.json").read_text())["seed"] == 3

    def test_hostile_weights_are_refused_in_one_line(self, tiny, tmp_path):
        mark = tmp_path / "mark"
        (tmp_path / "a.pdparams").write_bytes(b"cos\nmkdir\n(V%s\ntR." % str(mark).encode())
        done = self.run("-c", tiny, "-o", f"pretrain_weights={tmp_path}/a.pdparams")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "refused: the file refers to os.mkdir" in done.stderr.splitlines()[-1]
        assert not mark.exists()
