"""Schedules and optimizers: the arithmetic of PaddleDetection, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import ParamAttr, nn
from paddle.nn.initializer import Assign
from paddle.regularizer import L2Decay

from ppdet_repro.core.config import RunSettings
from ppdet_repro.engine.training.assembly import learning_rate_scale
from ppdet_repro.optimizer.optimizer import L1, L2, SGD, Adam, AdamW, Momentum, OptimizerBuilder
from ppdet_repro.optimizer.schedules import CosineDecay, ExpWarmup, LearningRate, LinearWarmup, PiecewiseDecay
from ppdet_repro.utils.errors import UserError


def rates(learning_rate, steps_per_epoch, at, scale=1.0):
    """The learning rates of the updates whose numbers (from 0) are in `at`."""
    schedule = learning_rate.schedule(steps_per_epoch, scale)
    found = []
    for _ in range(max(at) + 1):
        found.append(schedule())
        schedule.step()
    return [found[t] for t in at]


class TestSchedules:
    def test_linear_warmup_reaches_the_rate_after_steps_updates(self):
        lr = LearningRate(1.0, [PiecewiseDecay(0.1, [5]), LinearWarmup(steps=4, start_factor=0.2)])
        # factor * (1 - i/4) + i/4: .2, .2*.75 + .25 = .4, .6, .8, then the rate itself
        assert rates(lr, 10, range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0], abs=1e-12)

    def test_milestones_are_epochs_and_a_single_gamma_shrinks_tenfold_at_each(self):
        lr = LearningRate(0.06, [PiecewiseDecay(0.1, [8, 11]), LinearWarmup(steps=2, start_factor=0.0)])
        # 7 updates per epoch: milestones at updates 56 and 77
        assert rates(lr, 7, [2, 55, 56, 76, 77, 83]) == pytest.approx([0.06, 0.06, 6e-3, 6e-3, 6e-4, 6e-4])

    def test_a_list_of_gammas_is_used_unchanged(self):
        lr = LearningRate(2.0, [PiecewiseDecay([0.5, 0.3], [1, 2], use_warmup=False)])
        assert rates(lr, 1, [0, 1, 2, 9]) == [2.0, 1.0, 0.6, 0.6]

    def test_values_are_learning_rates(self):
        lr = LearningRate(9.0, [PiecewiseDecay(milestones=[1, 2], values=[0.4, 0.2, 0.1], use_warmup=False)])
        assert rates(lr, 2, [0, 2, 4]) == [0.4, 0.2, 0.1]

    def test_the_warmup_determines_the_rate_even_after_a_milestone(self):
        lr = LearningRate(1.0, [PiecewiseDecay(0.1, [1]), LinearWarmup(steps=4, start_factor=0.0)])
        assert rates(lr, 2, range(6)) == pytest.approx([0.0, 0.25, 0.5, 0.75, 0.1, 0.1])

    def test_use_warmup_false_ignores_the_warmup(self):
        lr = LearningRate(1.0, [PiecewiseDecay(0.1, [2], use_warmup=False), LinearWarmup(steps=4)])
        assert rates(lr, 2, [0, 1, 4]) == pytest.approx([1.0, 1.0, 0.1])

    def test_warmup_epochs_take_precedence_over_steps_by_default(self):
        assert LinearWarmup(steps=7, epochs=3).length(10) == 30
        assert LinearWarmup(steps=7, epochs=3, epochs_first=False).length(10) == 7
        assert ExpWarmup(steps=7, epochs=3).length(10) == 30
        assert LinearWarmup(steps=0).length(10) == 1

    def test_exponential_warmup(self):
        lr = LearningRate(1.0, [PiecewiseDecay(0.1, [9]), ExpWarmup(steps=4)])
        assert rates(lr, 10, range(5)) == [0.0, 1 / 16, 1 / 4, 9 / 16, 1.0]

    def test_the_cosine_wave_starts_at_the_end_of_the_warmup(self):
        lr = LearningRate(1.0, [CosineDecay(max_epochs=3), LinearWarmup(steps=2, start_factor=0.0)])
        # 4 updates per epoch, 12 in all, 2 of them warmup: (cos(pi * (t - 2) / 10) + 1) / 2
        expected = [0.0, 0.5, 1.0, (math.cos(math.pi / 10) + 1) / 2, 0.5, (math.cos(0.9 * math.pi) + 1) / 2]
        assert rates(lr, 4, [0, 1, 2, 3, 7, 11]) == pytest.approx(expected)

    def test_cosine_without_warmup_and_with_a_lowest_rate(self):
        lr = LearningRate(2.0, [CosineDecay(max_epochs=2, use_warmup=False, min_lr_ratio=0.1)])
        # from 2 to .2 in 8 updates: at 4 the middle, 1.1
        assert rates(lr, 4, [0, 4]) == pytest.approx([2.0, 1.1])

    def test_the_cosine_plateau_keeps_the_lowest_rate_in_the_last_epochs(self):
        decay = CosineDecay(max_epochs=3, min_lr_ratio=0.05, last_plateau_epochs=1)
        lr = LearningRate(1.0, [decay, LinearWarmup(steps=1, start_factor=0.0)])
        # 4 updates per epoch: the wave takes updates 1 to 8, then comes the lowest rate
        wave = 0.05 + 0.95 * 0.5 * (math.cos(math.pi * 6 / 7) + 1)
        assert rates(lr, 4, [7, 8, 11, 20]) == pytest.approx([wave, 0.05, 0.05, 0.05])

    def test_the_rate_stays_constant_after_the_cosine_wave(self):
        lr = LearningRate(1.0, [CosineDecay(max_epochs=1, use_warmup=False)])
        assert rates(lr, 4, [4, 9]) == pytest.approx([(math.cos(0.75 * math.pi) + 1) / 2] * 2)

    def test_a_cosine_wave_shorter_than_the_warmup_keeps_the_base_rate(self):
        lr = LearningRate(1.0, [CosineDecay(max_epochs=1), LinearWarmup(steps=9, start_factor=0.0)])
        assert rates(lr, 4, [8, 9, 30]) == pytest.approx([8 / 9, 1.0, 1.0])

    def test_the_defaults_are_those_of_paddledetection(self):
        lr = LearningRate()
        assert rates(lr, 100, [0, 500, 800, 1100]) == pytest.approx([0.01 / 3, 0.01, 0.001, 0.0001])

    def test_scale_multiplies_every_rate(self):
        lr = LearningRate(1.0, [PiecewiseDecay(0.1, [1]), LinearWarmup(steps=2, start_factor=0.5)])
        assert rates(lr, 4, range(6), 0.5) == [rate / 2 for rate in rates(lr, 4, range(6))]

    @pytest.mark.parametrize(
        "make, complaint",
        [
            (lambda: LearningRate(0.1, []), "one decay"),
            (lambda: LearningRate(0.1, [PiecewiseDecay(), CosineDecay()]), "PiecewiseDecay, CosineDecay"),
            (lambda: LearningRate(0.1, [PiecewiseDecay(), LinearWarmup(), ExpWarmup()]), "one warmup"),
            (lambda: PiecewiseDecay([0.1], [8, 11]), "1 factors in gamma for 2 milestones"),
            (lambda: PiecewiseDecay(0.1, [11, 8]), "not in ascending order"),
            (lambda: PiecewiseDecay(milestones=[8], values=[0.1]), "need 2 values"),
        ],
    )
    def test_contradictory_schedules_are_refused(self, make, complaint):
        with pytest.raises(UserError, match=complaint):
            make()


class TestLinearScaling:
    def test_the_rate_is_proportional_to_the_images_per_update(self):
        run = RunSettings(base_batch_size=32, accumulate_steps=2)
        assert learning_rate_scale(run, batch_size=4, processes=2) == 0.5  # 4 * 2 * 2 of 32

    def test_without_a_base_batch_size_the_rate_is_unchanged(self):
        assert learning_rate_scale(RunSettings(accumulate_steps=8), batch_size=4, processes=2) == 1.0


class Two(nn.Layer):
    """Two weights whose gradients are 3 and 4: the norm of both together is 5."""

    def __init__(self, first: dict = {}, second: dict = {}):  # noqa: B006  read only
        super().__init__()
        one = Assign(np.ones(1, np.float32))
        self.first = self.create_parameter([1], attr=ParamAttr(initializer=one, **first))
        self.second = self.create_parameter([1], attr=ParamAttr(initializer=one, **second))

    def forward(self):
        return 3 * self.first + 4 * self.second


def update(model, builder, rate=0.1, times=1):
    """The two weights, which start as 1, after updates with a constant rate."""
    schedule = LearningRate(rate, [PiecewiseDecay(0.1, [100], use_warmup=False)]).schedule(1)
    optimizer = builder.build(schedule, model)
    for _ in range(times):
        model().backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    return [model.first.item(), model.second.item()]


def near(*expected):
    return pytest.approx(expected, abs=1e-6)


class TestOptimizers:
    def test_sgd(self):
        assert update(Two(), OptimizerBuilder(None, None, None, SGD())) == near(0.7, 0.6)

    def test_momentum_adds_decay_to_the_gradient(self):
        # v1 = 3 + .5*1 = 3.5, p = .65; v2 = .9*3.5 + 3 + .5*.65 = 6.475, p = .65 - .6475
        weights = update(Two(), OptimizerBuilder(None, None, L2(0.5), Momentum(0.9)), times=2)
        assert weights[0] == pytest.approx(0.0025, abs=1e-6)

    def test_l1_decay_does_not_depend_on_the_size_of_the_weight(self):
        # p = 1 - .1 * (3 + .5 * sign(1))
        assert update(Two(), OptimizerBuilder(None, None, L1(0.5), SGD())) == near(0.65, 0.55)

    def test_the_first_step_of_adam_is_the_learning_rate(self):
        assert update(Two(), OptimizerBuilder(None, None, None, Adam())) == near(0.9, 0.9)

    def test_adamw_decay_is_decoupled_and_ignores_the_regularizer(self):
        # 1 - .1 * .5 * 1 - .1
        builder = OptimizerBuilder(None, None, L2(7.0), AdamW(weight_decay=0.5))
        assert update(Two(), builder) == near(0.85, 0.85)

    def test_the_factor_of_a_parameter_multiplies_rate_and_decay(self):
        model = Two(first={"learning_rate": 0.1})
        # 1 - .1 * .1 * (3 + .5) and 1 - .1 * (4 + .5)
        assert update(model, OptimizerBuilder(None, None, L2(0.5), Momentum())) == near(0.965, 0.55)

    def test_the_coefficient_of_a_parameter_replaces_that_of_the_optimizer(self):
        model = Two(first={"regularizer": L2Decay(0.0)}, second={"regularizer": L2Decay(1.0)})
        # no decay, so 1 - .1 * 3; and 1 - .1 * (4 + 1)
        assert update(model, OptimizerBuilder(None, None, L2(0.5), Momentum())) == near(0.7, 0.5)

    def test_gradients_are_clipped_by_their_common_norm_before_decay_is_added(self):
        # norm 5 to 1: .6 and .8; then 1 - .1 * (.6 + .5)
        assert update(Two(), OptimizerBuilder(1.0, None, L2(0.5), Momentum())) == near(0.89, 0.87)

    def test_clipping_by_value(self):
        assert update(Two(), OptimizerBuilder(None, -2.0, None, SGD())) == near(0.8, 0.8)

    def test_a_frozen_parameter_does_not_change(self):
        model = Two()
        model.first.stop_gradient = True
        assert update(model, OptimizerBuilder(None, None, L2(0.5), Momentum())) == near(1.0, 0.55)

    def test_a_parameter_without_gradient_does_not_change_not_even_by_decay(self):
        model = Two()
        optimizer = OptimizerBuilder(None, None, L2(0.5), Momentum()).build(LearningRate().schedule(1), model)
        (4 * model.second).backward()
        optimizer.step()
        assert model.first.item() == 1.0

    @pytest.mark.parametrize("regularizer", [False, None])
    def test_no_regularizer(self, regularizer):
        assert update(Two(), OptimizerBuilder(None, None, regularizer, Momentum())) == near(0.7, 0.6)

    def test_regularizer_true_is_refused(self):
        with pytest.raises(UserError, match="not true"):
            OptimizerBuilder(None, None, True, Momentum())

    def test_a_model_without_trainable_parameters_is_an_error(self):
        model = Two()
        for parameter in model.parameters():
            parameter.stop_gradient = True
        with pytest.raises(UserError, match="no trainable parameter"):
            OptimizerBuilder(None, None, None, SGD()).build(LearningRate().schedule(1), model)


class TestGroups:
    def test_a_group_has_its_own_factor_and_decay(self):
        groups = [{"params": ["^first"], "learning_rate": 0.1, "weight_decay": 2.0}]
        # 1 - .01 * (3 + 2); the other parameter as without groups: 1 - .1 * (4 + .5)
        builder = OptimizerBuilder(None, None, L2(0.5), Momentum(param_groups=groups))
        assert update(Two(), builder) == near(0.95, 0.55)

    def test_adamw_groups(self):
        groups = [{"params": ["first"], "weight_decay": 0.0}]
        builder = OptimizerBuilder(None, None, None, AdamW(weight_decay=0.5, param_groups=groups))
        assert update(Two(), builder) == near(0.9, 0.85)

    def test_settings_that_a_group_leaves_out_are_those_of_the_layer(self):
        """Paddle, and so PaddleDetection, ignores the layers' settings if there are groups."""
        own = {"learning_rate": 0.5, "regularizer": L2Decay(0.0)}
        groups = [{"params": ["first"], "weight_decay": 1.0}]
        builder = OptimizerBuilder(None, None, L2(0.5), Momentum(param_groups=groups))
        # .5 * .1 * (3 + 1); .5 * .1 * 4
        assert update(Two(first=own, second=own), builder) == near(0.8, 0.8)

    def test_each_group_is_clipped_by_its_own_norm(self):
        """Paddle does this, and the configs of PaddleDetection with groups were tuned with it."""
        groups = [{"params": ["first"]}]
        builder = OptimizerBuilder(1.0, None, None, SGD(param_groups=groups))
        assert update(Two(), builder) == near(0.9, 0.9)  # the norms 3 and 4 are each clipped to 1

    @pytest.mark.parametrize(
        "groups, complaint",
        [
            ([{"params": ["third"]}], "no trainable parameter's name contains 'third'"),
            ([{"params": ["first"]}, {"params": ["f.*t"]}], r"param_groups\[1\]: first is also in an earlier"),
            ([{"params": "first"}], "params .a list of patterns."),
            ([{"params": ["first"], "lr": 0.1}], "lr"),
        ],
    )
    def test_contradictory_groups_are_refused(self, groups, complaint):
        with pytest.raises(UserError, match=complaint):
            OptimizerBuilder(None, None, None, SGD(groups)).build(LearningRate().schedule(1), Two())


def test_an_optimizer_follows_the_schedule():
    model = Two()
    schedule = LearningRate(1.0, [PiecewiseDecay(0.1, [1], use_warmup=False)]).schedule(1)
    optimizer = OptimizerBuilder(None, None, None, SGD()).build(schedule, model)
    for expected in (1 - 3 * 1.0, 1 - 3 * 1.0 - 3 * 0.1):
        model().backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        schedule.step()
        assert model.first.item() == pytest.approx(expected, abs=1e-6)


def test_gradients_of_micro_batches_add_up():
    """Gradient accumulation depends on it."""
    weight = paddle.to_tensor([1.0], stop_gradient=False)
    (3 * weight / 2).backward()
    (5 * weight / 2).backward()
    assert weight.grad.item() == 4.0
