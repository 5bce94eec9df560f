"""The moving average of weights: the arithmetic of PaddleDetection."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.optimizer.ema import ModelEMA


def model_with(value):
    """A model whose weights, biases and batch norm statistics all have the same value."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1D(1))
    set_all(model, value)
    return model


def set_all(model, value):
    for parameter in model.state_dict().values():
        parameter.set_value(paddle.full(parameter.shape, value, parameter.dtype))


def value_of(weights):
    """The value that all entries have in common."""
    values = {v.item() for v in weights.values()}
    assert len(values) == 1
    return values.pop()


def test_threshold_decay_grows_with_the_number_of_updates():
    ema = ModelEMA(model_with(0.0), 0.5, "threshold")
    # min(.5, (1+t)/(10+t)): 1/10, 2/11, 3/12, ... 8/17, then .5
    assert [ema.decay_at(t) for t in (0, 1, 2, 7, 8, 9)] == [1 / 10, 2 / 11, 3 / 12, 8 / 17, 0.5, 0.5]


def test_the_average_starts_at_zero_and_covers_the_whole_state():
    model = model_with(2.0)
    ema = ModelEMA(model)
    ema.update()  # .1 * 0 + .9 * 2
    assert value_of(ema.average) == pytest.approx(1.8)
    assert set(ema.average) == {"0.weight", "0.bias", "1.weight", "1.bias", "1._mean", "1._variance"}


def test_the_average_is_divided_by_one_minus_the_last_decay_to_the_power_of_t():
    """The division is exact for a constant decay; for a growing decay it is not, early in training."""
    model = model_with(2.0)
    ema = ModelEMA(model)
    ema.update()
    assert value_of(ema.applied_weights()) == pytest.approx(1.8 / (1 - 0.1))
    set_all(model, 4.0)
    ema.update()  # 2/11 * 1.8 + 9/11 * 4 = 3.6; / (1 - (2/11)^2)
    assert value_of(ema.applied_weights()) == pytest.approx(3.6 / (1 - (2 / 11) ** 2))


def test_normal_decay_is_constant_so_the_division_is_exact():
    model = model_with(3.0)
    ema = ModelEMA(model, 0.9, "normal")
    for _ in range(3):
        ema.update()
    assert value_of(ema.applied_weights()) == pytest.approx(3.0)


def test_an_exponential_average_is_not_divided():
    model = model_with(2.0)
    ema = ModelEMA(model, 0.5, "exponential")
    ema.update()
    decay = 0.5 * (1 - np.exp(-1 / 2000))
    assert value_of(ema.applied_weights()) == pytest.approx((1 - decay) * 2)


def test_listed_weights_integers_and_frozen_weights_are_copied():
    model = model_with(2.0)
    model.register_buffer("count", paddle.to_tensor([7]))
    model[0].bias.stop_gradient = True
    ema = ModelEMA(model, black_list=["1.weight"], filter_no_grad=True)
    assert set(ema.average) == {"0.weight", "1.bias", "1._mean", "1._variance"}
    ema.update()
    set_all(model, 5.0)
    weights = ema.applied_weights()
    assert weights["1.weight"].item() == 5.0 and weights["0.bias"].item() == 5.0
    assert weights["count"].dtype == paddle.int64


def test_before_the_first_update_the_models_own_weights_are_used():
    """PaddleDetection would use zeros."""
    assert value_of(ModelEMA(model_with(2.0)).applied_weights()) == 2.0


def test_the_average_is_applied_within_the_block_only():
    model = model_with(2.0)
    ema = ModelEMA(model, 0.5, "exponential")
    ema.update()
    inside = value_of(ema.applied_weights())
    with pytest.raises(KeyboardInterrupt):
        with ema.applied():
            assert value_of(model.state_dict()) == pytest.approx(inside)
            raise KeyboardInterrupt
    assert value_of(model.state_dict()) == 2.0


def test_a_new_cycle_starts_at_zero():
    ema = ModelEMA(model_with(2.0), cycle_epoch=2)
    ema.update()
    ema.end_cycle()
    assert ema.step == 1
    ema.end_cycle()
    assert (ema.step, ema.cycle, value_of(ema.average)) == (0, 0, 0.0)


def test_a_restored_average_continues_as_if_never_saved():
    model = model_with(2.0)
    ema = ModelEMA(model)
    ema.update()
    other = ModelEMA(model_with(2.0))
    other.restore(ema.state(), ema.step, ema.cycle)
    for average in (ema, other):
        average.update()
    assert all(np.array_equal(ema.state()[name], other.state()[name]) for name in ema.state())


def test_an_average_of_another_model_is_refused():
    with pytest.raises(ValueError, match="0.bias"):
        ModelEMA(model_with(0.0)).restore({"0.weight": np.zeros([1, 1], np.float32)}, 1, 0)
