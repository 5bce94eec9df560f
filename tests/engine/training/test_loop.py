"""The parts of the training loop: an epoch, and random seeds."""

from __future__ import annotations

import random

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.engine.training.data import in_groups
from ppdet_repro.engine.training.loop import seed_everything, train_one_epoch


def test_each_group_of_batches_is_an_update_in_training_mode():
    model, seen = nn.Linear(1, 1), []
    model.eval()
    train_one_epoch(model, in_groups("abcde", 2), lambda group: (model.training, group), seen.append)
    assert seen == [(True, ["a", "b"]), (True, ["c", "d"]), (True, ["e"])]


def test_random_numbers_depend_on_seed_epoch_and_rank():
    def draws(*numbers):
        seed_everything(*numbers)
        return (random.random(), np.random.rand(), paddle.rand([1]).item())

    assert draws(0, 1, 0) == draws(0, 1, 0)
    first = draws(0, 1, 0)
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert all(a != b for a, b in zip(first, draws(*other)))
