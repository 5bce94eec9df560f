"""Memory for feature maps and gradients, used again from update to update.

Fresh memory costs a page fault for every 4 KiB, which takes as long as computing what is written there.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right, insort
from functools import lru_cache
from typing import Dict, List, Tuple

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


@lru_cache(maxsize=4096)
def vector(address: int, count: int) -> np.ndarray:
    """The float32 numbers at an address, without a copy. Each update asks for the same ones."""
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Pool:
    """Hands out blocks, the smallest free ones that fit, and keeps those that come back."""

    def __init__(self) -> None:
        self.free: Dict[int, List[Tuple[int, Block]]] = {}  # by size: number and block, in the order they came back
        self.sizes: List[int] = []  # of `free`, sorted
        self.used = self.kept = self.peak = self.number = 0
        self.marks = [0] * IDLE  # the number of the last block that had come back, at the ends of the last updates
        self.needs = [0]  # the largest number of bytes in use, of the last updates

    def take(self, size: int) -> Buffer:
        """At least `size` bytes, with what was written there before."""
        size = -(-size // PAGE) * PAGE or PAGE
        found = size if self.free.get(size) else self.larger(size)
        if found:
            block = self.free[found].pop()[1]  # the newest: a cache may still have it
            self.kept -= found
        else:
            self.shrink(max(*self.needs, self.peak, self.used + size) * SPARE - size)
            block = Block(size)
        self.used += block.size
        if self.used > self.peak:
            self.peak = self.used
        return Buffer(block, self)

    def larger(self, size: int) -> int:
        """The smallest size above this one of which a block is free, if it does not waste too much; 0 if none is."""
        limit = max(size * WASTE, size + 8 * PAGE)
        candidates = self.sizes[bisect_right(self.sizes, size) : bisect_right(self.sizes, limit)]
        return next((one for one in candidates if self.free[one]), 0)

    def give_back(self, block: Block) -> None:
        self.number += 1
        if block.size not in self.free:
            self.free[block.size] = []
            insort(self.sizes, block.size)
        self.free[block.size].append((self.number, block))
        self.used -= block.size
        self.kept += block.size

    def trim(self) -> None:
        """End an update: free blocks that the last ones did not use."""
        self.needs = [*self.needs[-MEMORY_OF_NEED:], self.peak]
        self.peak = self.used
        self.drop(self.marks[0])
        self.marks = [*self.marks[1:], self.number]
        self.shrink(max(self.needs) * SPARE)

    def shrink(self, limit: float) -> None:
        """Free the blocks that came back first, until the pool has no more than `limit` bytes or none is free."""
        excess, last = self.used + self.kept - limit, 0
        if excess <= 0:
            return
        free = [(number, size) for size in list(self.sizes) for number, _ in self.free[size]]
        for number, size in sorted(free):
            if excess <= 0:
                break
            excess, last = excess - size, number
        self.drop(last)

    def drop(self, last: int) -> None:
        """Free the blocks that came back no later than the one of this number.

        The garbage collector may call `give_back` in the middle of this, so that lists are changed in place.
        """
        for size in list(self.sizes):
            blocks = self.free[size]
            count = next((i for i, entry in enumerate(blocks) if entry[0] > last), len(blocks))
            del blocks[:count]
            self.kept -= size * count


POOL = Pool()
