"""Updates of a model, and the handling of losses and gradients that are not finite."""

from __future__ import annotations

import errno
import os

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.core.config import RunSettings
from ppdet_repro.engine.distributed import World
from ppdet_repro.engine.training.assembly import choose_precision
from ppdet_repro.engine.training.step import NanGuard, TrainStep
from ppdet_repro.optimizer.ema import ModelEMA
from ppdet_repro.optimizer.optimizer import SGD, OptimizerBuilder
from ppdet_repro.optimizer.schedules import LearningRate, PiecewiseDecay
from ppdet_repro.utils.errors import UserError

ALONE = World(rank=0, size=1, gpu=False)


class Mean(nn.Layer):
    """Learns the mean of its images: the loss is (weight - image)^2. The output of its batch norm is not used."""

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

    def test_two_batches_give_the_update_of_one_with_all_their_images(self, tmp_path):
        model = Mean()
        report = step_for(model, tmp_path)([batch_of(1), batch_of(3)])
        assert (report.losses["loss"], report.images, model.weight.item()) == (5.0, 2, 1.0)

    def test_gradients_are_cleared_after_an_update(self, tmp_path):
        model = Mean()
        step = step_for(model, tmp_path)
        step([batch_of(1, 3)])
        step([batch_of(1, 1)])  # the gradient of weight 1 is zero
        assert model.weight.item() == 1.0

    def test_an_update_advances_the_schedule_and_the_moving_average(self, tmp_path):
        model = Mean()
        ema = ModelEMA(model)
        step = step_for(model, tmp_path, ema=ema)
        step([batch_of(2)])  # weight .25 * 2 * 2 = 1
        assert step.schedule.last_epoch == 1 and ema.step == 1
        assert ema.average["weight"].item() == pytest.approx(0.9)

    def test_frozen_running_statistics_are_not_updated(self, tmp_path):
        model = Mean()
        assert len(step_for(model, tmp_path).statistics) == 2
        model.norm = nn.BatchNorm1D(1, use_global_stats=True)
        assert step_for(model, tmp_path).statistics == []


class TestNanGuard:
    def test_stop_saves_the_batch_and_names_its_images(self, tmp_path):
        model = Mean()
        with pytest.raises(UserError, match="update 1: not finite: loss_near, loss, gradients; image ids 7") as error:
            step_for(model, tmp_path)([batch_of(float("nan"), im_id=7)])
        assert "nan_step1_rank0.npz" in str(error.value) and "nan_action=skip" in str(error.value)
        assert model.weight.item() == 0.0
        saved = np.load(tmp_path / "nan_step1_rank0.npz")
        assert np.isnan(saved["0/image"]).all() and saved["0/gt_bbox/0"].shape == (2, 4)

    def test_skip_continues_as_if_the_batch_had_not_occurred(self, tmp_path, logged):
        model = Mean()
        ema = ModelEMA(model)
        step = step_for(model, tmp_path, "skip", ema)
        step([batch_of(1), batch_of(1, float("inf"))])
        assert model.weight.item() == 0.0 and model.weight.grad is None and ema.step == 0
        assert np.isfinite(model.norm._mean.numpy()).all()  # the forward pass had changed it
        assert "update skipped" in logged.text
        step([batch_of(2)])
        assert model.weight.item() == 1.0 and step.schedule.last_epoch == 2

    def test_gradients_that_are_not_finite_though_the_loss_is(self, tmp_path):
        class Root(Mean):
            def forward(self, batch):
                return {"loss": self.weight.sqrt().sum()}  # its derivative is 1 / 0

        with pytest.raises(UserError, match="not finite: gradients; image ids 7"):
            step_for(Root(), tmp_path)([batch_of(1, im_id=7)])

    def test_too_many_skipped_updates_in_a_row_end_the_run(self, tmp_path):
        step = step_for(Mean(), tmp_path, "skip")
        with pytest.raises(UserError, match="the 20th in a row"):
            for _ in range(20):
                step([batch_of(float("nan"))])
        assert len(list(tmp_path.iterdir())) == 3  # only the first batches are saved

    def test_a_full_disk_does_not_hide_the_message(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match="image ids 7 .the batch could not be saved in .*No space left"):
            step_for(Mean(), tmp_path)([batch_of(float("nan"), im_id=7)])


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestPrecision:
    def test_mixed_precision_without_a_gpu_is_float32_and_logged(self, logged):
        assert choose_precision(RunSettings(amp=True, cpu_kernels="paddle"), ALONE).low is None
        assert "training in float32" in logged.text

    def test_level_o2_is_not_supported(self):
        with pytest.raises(UserError, match="amp_level: O2 is not supported"):
            choose_precision(RunSettings(amp=True, amp_level="O2"), ALONE)
