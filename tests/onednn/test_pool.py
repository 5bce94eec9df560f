"""The pool hands out blocks again, the smallest that fits, and does not keep more than the last updates needed."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from ppdet_repro.onednn import library, memory, primitives
from ppdet_repro.onednn.memory import MEMORY_OF_NEED, PAGE, Block, Pool

KEPT = primitives.to_dense.cache_info().maxsize


def test_a_block_that_came_back_is_used_again():
    pool = Pool()
    first = pool.take(10 * PAGE)
    address = first.address
    assert address % 64 == 0
    del first
    assert pool.used == 0 and pool.kept == 10 * PAGE
    assert pool.take(9 * PAGE + 1).address == address


def test_the_smallest_block_that_fits_is_taken_and_none_that_is_far_too_large():
    pool = Pool()
    large, small = pool.take(1000 * PAGE), pool.take(100 * PAGE)
    addresses = large.address, small.address
    del large, small
    assert pool.take(90 * PAGE).address == addresses[1]
    assert pool.take(500 * PAGE).address not in addresses


def test_buffers_in_use_do_not_overlap():
    pool = Pool()
    buffers = [pool.take(size * 100) for size in range(1, 60)]
    spans = sorted((b.address, b.address + b.block.size) for b in buffers)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))


def test_blocks_that_the_last_updates_did_not_need_are_freed():
    pool = Pool()
    for sizes in [(100, 300), *[(100, 50)] * (MEMORY_OF_NEED + 1)]:
        buffers = [pool.take(size * PAGE) for size in sizes]
        del buffers
        pool.trim()
    assert pool.used == 0
    assert pool.kept == 150 * PAGE


def test_equal_updates_soon_make_no_more_blocks(monkeypatch):
    """Their small maps cannot take the place of the large ones, so the pool is larger than what is in use at a time."""
    made = []
    monkeypatch.setattr(memory, "Block", lambda size: made.append(size) or Block(size))
    pool = Pool()
    for _ in range(10):
        made.clear()
        for size, count in ((100, 10), (31, 12)):
            buffers = [pool.take(size * PAGE) for _ in range(count)]
            del buffers
        pool.trim()
    assert made == []


def test_blocks_of_another_size_make_room_for_new_ones():
    """Two updates of images of different sizes share no block, and need no more together than the larger one."""
    pool = Pool()
    for sizes in ([100] * 10, [31] * 20, [100] * 10):
        buffers = []
        for size in sizes:
            buffers.append(pool.take(size * PAGE))
            assert pool.used + pool.kept <= 1.4 * 1000 * PAGE
        del buffers
        pool.trim()


@pytest.mark.skipif(library.library() is None, reason="this Paddle has no oneDNN 3")
def test_only_primitives_that_were_used_lately_are_kept():
    """Older ones are destroyed, and made again when they are needed; the values stay."""

    def alive():
        return sum(isinstance(one, primitives.Primitive) for one in gc.get_objects())

    gc.collect()
    before, shapes, results = alive(), range(2, 2 + KEPT + 10), []
    for size in [*shapes, *shapes]:
        x = np.arange(2 * size, dtype="float32")
        y = np.zeros_like(x)
        primitives.to_dense((1, 2, size, 1), library.F32)(x.ctypes.data, y.ctypes.data)
        results.append(y)
    assert alive() - before <= KEPT
    assert all((a == b).all() for a, b in zip(results[: len(shapes)], results[len(shapes) :]))
    assert results[1].tolist() == [0, 2, 4, 1, 3, 5]  # a channel's three locations, then the other's
