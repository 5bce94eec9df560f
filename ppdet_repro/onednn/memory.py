"""Memory for feature maps and gradients, used again from update to update.

Fresh memory costs a page fault for every 4 KiB, which takes as long as computing what is written there.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_left, insort
from typing import List, Tuple

import numpy as np

PAGE = 4096
WASTE = 1.25  # a block may be larger than what is asked for by this factor
SPARE = 1.4  # the most bytes of a pool, over the largest need of the last updates; equal ones take up to 1.35
MEMORY_OF_NEED = 20  # updates
IDLE = 4  # updates; a teacher's pass counts as one, too


class Block:
    """An aligned piece of memory."""

    def __init__(self, size: int):
        self.size = size
        self.map = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 21:
            self.map.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


class Buffer:
    """A block in use. It goes back to its pool when nothing refers to it any more."""

    __slots__ = ("address", "block", "pool")

    def __init__(self, block: Block, pool: Pool):
        self.block, self.pool, self.address = block, pool, block.address

    def __del__(self) -> None:
        self.pool.give_back(self.block)


def vector(address: int, count: int) -> np.ndarray:
    """The float32 numbers at an address, without a copy."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Pool:
    """Hands out blocks, the smallest free one that fits, and keeps those that come back."""

    def __init__(self) -> None:
        self.free: List[Tuple[int, int, Block]] = []  # size, number, block; sorted
        self.used = self.kept = self.peak = self.number = 0
        self.marks = [0] * IDLE  # the number of the last block that had come back, at the ends of the last updates
        self.needs = [0]  # the largest number of bytes in use, of the last updates

    def take(self, size: int) -> Buffer:
        """At least `size` bytes, with what was written there before."""
        size = -(-max(size, 1) // PAGE) * PAGE
        index = bisect_left(self.free, (size, -1))
        if index < len(self.free) and self.free[index][0] <= max(size * WASTE, size + 8 * PAGE):
            newest = bisect_left(self.free, (self.free[index][0] + 1, -1)) - 1  # a cache may still have it
            block = self.free.pop(newest)[2]
            self.kept -= block.size
        else:
            self.shrink(max(*self.needs, self.peak, self.used + size) * SPARE - size)
            block = Block(size)
        self.used += block.size
        self.peak = max(self.peak, self.used)
        return Buffer(block, self)

    def give_back(self, block: Block) -> None:
        self.number += 1
        insort(self.free, (block.size, self.number, block))
        self.used -= block.size
        self.kept += block.size

    def trim(self) -> None:
        """End an update: free blocks that the last ones did not use."""
        self.needs = [*self.needs[-MEMORY_OF_NEED:], self.peak]
        self.peak = self.used
        used = [entry for entry in self.free if entry[1] > self.marks[0]]
        self.kept -= sum(size for size, *_ in self.free) - sum(size for size, *_ in used)
        self.free, self.marks = used, [*self.marks[1:], self.number]
        self.shrink(max(self.needs) * SPARE)

    def shrink(self, limit: float) -> None:
        """Free the blocks that came back first, until the pool has no more than `limit` bytes or none is free."""
        if self.used + self.kept <= limit:
            return
        for entry in sorted(self.free, key=lambda entry: entry[1]):
            self.free.remove(entry)
            self.kept -= entry[0]
            if self.used + self.kept <= limit:
                break


POOL = Pool()
