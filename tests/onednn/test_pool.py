"""The pool hands out blocks again, the smallest that fits, and does not keep more than the last updates needed."""

from __future__ import annotations

from ppdet_repro.onednn.memory import MEMORY_OF_NEED, PAGE, Pool


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
    assert pool.kept <= 1.1 * 150 * PAGE
