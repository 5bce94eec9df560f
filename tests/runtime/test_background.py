"""Work in threads beside the network."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.background import BackgroundCalls, prefetch
from ppdet_repro.runtime.pipeline import Pipeline
from ppdet_repro.utils.errors import UserError


def test_items_are_prefetched_in_order():
    made = []

    def items():
        for i in range(6):
            made.append(i)
            yield i

    stream = prefetch(items(), depth=2)
    assert next(stream) == 0
    time.sleep(0.1)
    assert made == [0, 1, 2]  # two ahead, no more
    assert list(stream) == [1, 2, 3, 4, 5]
    assert list(prefetch(iter([]))) == []


def test_an_exception_while_prefetching_is_raised_where_the_items_are_used():
    def items():
        yield 1
        raise UserError("the second is no image")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(UserError, match="the second is no image"):
        next(stream)


def test_background_calls_are_in_order_and_finished_on_leaving():
    done = []
    with BackgroundCalls(depth=1) as later:
        for i in range(5):
            later(lambda i=i: (time.sleep(0.01), done.append(i)))
    assert done == [0, 1, 2, 3, 4]


def test_an_exception_of_a_background_call_is_raised():
    def fail():
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        with BackgroundCalls() as later:
            later(fail)


def test_the_next_batch_is_prepared_while_the_network_computes():
    """The engine waits in batch 0 until batch 1 has been prepared: otherwise it would wait for ever."""
    second = threading.Event()

    class Waiting:
        def run(self, inputs):
            assert second.wait(10)
            return np.zeros([0, 6], np.float32), np.zeros([1], np.int32)

    def batches():
        yield [np.zeros((8, 8, 3), np.uint8)]
        second.set()
        yield [np.zeros((8, 8, 3), np.uint8)]

    pipeline = Pipeline(from_list([{"type": "Permute"}]), Waiting())
    assert [len(found) for found in pipeline.stream(batches())] == [1, 1]
    assert pipeline.timer.images == 2 and pipeline.timer.wall() > 0
