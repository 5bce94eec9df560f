"""Which samples make up which batch of an epoch, on each of several processes."""

from __future__ import annotations

from typing import Optional

import numpy as np

SHUFFLE = (0, 0, 1)  # keeps this random stream apart from those of samples and batches


def epoch_order(count: int, shuffle: bool, seed: int, epoch: int, length: Optional[int] = None) -> np.ndarray:
    """The data set's indices in the order of this epoch, [count] int64; of another `length` the first of so many runs
    through the data set as it takes."""
    rng = np.random.default_rng([seed, epoch, *SHUFFLE])
    runs = 1 if length is None else -(-length // count)
    return np.concatenate([rng.permutation(count) if shuffle else np.arange(count) for _ in range(runs)])[:length]


def batch_positions(count: int, batch_size: int, rank: int, world: int, *, wrap: bool, drop_last: bool) -> list[range]:
    """The positions in the epoch that process `rank` of `world` takes, one range a batch.

    A step's `world` batches are neighbours: together they are what one process with a batch `world`
    times as large would take.

    wrap  for training: the epoch is lengthened to a multiple of `world` (positions from `count` on
          mean the start again), and the incomplete last step, unless dropped, is divided evenly, so
          that all processes take equally many steps. Without it the batches are those of one
          process, dealt out in turn: an image meets the same others, and the same padding, whatever
          `world` is.
    """
    step = batch_size * world
    if not wrap:
        end = count // batch_size * batch_size if drop_last else count
        starts = range(rank * batch_size, end, step)
        return [range(first, min(first + batch_size, end)) for first in starts]
    total = -(-count // world) * world
    whole = total // step
    batches = [range(first, first + batch_size) for first in range(rank * batch_size, whole * step, step)]
    rest = total - whole * step
    if rest and not drop_last:
        start, end = (whole * step - (-rest * r // world) for r in (rank, rank + 1))
        if start < end:
            batches.append(range(start, end))
    return batches
