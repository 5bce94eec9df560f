"""The order of samples, and their distribution over batches and processes."""

from __future__ import annotations

import pytest

from ppdet_repro.data.reader.sampling import batch_positions, epoch_order


def test_positions_of_one_process():
    assert batch_positions(7, 3, 0, 1, wrap=True, drop_last=True) == [range(0, 3), range(3, 6)]
    assert batch_positions(7, 3, 0, 1, wrap=True, drop_last=False)[2:] == [range(6, 7)]


def test_training_positions_of_two_processes_wrap_around():
    # 9 images are extended to 10: two steps of 2 x 2, then 1 + 1, where the last image is the first one again
    ranks = [batch_positions(9, 2, rank, 2, wrap=True, drop_last=False) for rank in (0, 1)]
    assert ranks[0] == [range(0, 2), range(4, 6), range(8, 9)]
    assert ranks[1] == [range(2, 4), range(6, 8), range(9, 10)]


def test_evaluation_positions_of_three_processes_are_one_processs_batches():
    # 14 images, 3 per batch: 0-2, 3-5, 6-8, 9-11, 12-13, distributed in turn
    ranks = [batch_positions(14, 3, rank, 3, wrap=False, drop_last=False) for rank in range(3)]
    assert ranks == [[range(0, 3), range(9, 12)], [range(3, 6), range(12, 14)], [range(6, 9)]]


@pytest.mark.parametrize("count", [1, 5, 12, 31])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_positions_in_general(count, world, drop_last):
    def positions(wrap):
        ranks = range(world)
        return [batch_positions(count, 2, rank, world, wrap=wrap, drop_last=drop_last) for rank in ranks]

    training, evaluation = positions(True), positions(False)
    assert len({len(rank) for rank in training}) == 1  # equally many steps
    assert len(evaluation[0]) == max(len(rank) for rank in evaluation)
    taken = sorted(p for rank in evaluation for batch in rank for p in batch)
    assert taken == list(range(count if not drop_last else count // 2 * 2))
    if not drop_last:
        assert {p % count for rank in training for batch in rank for p in batch} == set(range(count))
    # the processes of a step together are one process with a batch `world` times as large
    whole = batch_positions(count, 2 * world, 0, 1, wrap=True, drop_last=drop_last)
    for step in range(count // (2 * world)):
        assert [p for rank in training for p in rank[step]] == list(whole[step])


def test_the_order_depends_on_seed_and_epoch_and_is_a_permutation():
    orders = [epoch_order(50, True, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (epoch_order(50, True, 1, 1) == orders[3]).all()
    assert (epoch_order(4, False, 1, 1) == [0, 1, 2, 3]).all()
