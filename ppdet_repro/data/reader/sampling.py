"""The order of the samples of an epoch, and their distribution over batches and processes."""

from __future__ import annotations

from typing import Optional

import numpy as np

SHUFFLE = (0, 0, 1)  # keeps this random stream apart from those of samples and batches


def epoch_order(count: int, shuffle: bool, seed: int, epoch: int, length: Optional[int] = None) -> np.ndarray:
    """Return the indices of a dataset with `count` images in the order of an epoch: [count] int64.

    With a `length`, the dataset is repeated, each time in another order, and cut to this length.
    """
    rng = np.random.default_rng([seed, epoch, *SHUFFLE])
    runs = 1 if length is None else -(-length // count)
    return np.concatenate([rng.permutation(count) if shuffle else np.arange(count) for _ in range(runs)])[:length]


def batch_positions(count: int, batch_size: int, rank: int, world: int, *, wrap: bool, drop_last: bool) -> list[range]:
    """Return the positions in the epoch that process `rank` of `world` takes, one range per batch.

    The `world` batches of a step are neighbors. Together they are what a single process with a batch size `world`
    times as large would take.

    Args:
        count: Number of images of the epoch.
        batch_size: Images per batch and process.
        rank: This process, from 0.
        world: Number of processes.
        wrap: For training. The epoch is extended to a multiple of `world` (positions of `count` and above mean the
            start of the epoch), and an incomplete last step is divided evenly, so that all processes take the same
            number of steps. If false, the batches are those of a single process, distributed in turn, so that the
            images of a batch, and their padding, do not depend on `world`.
        drop_last: Omit an incomplete last step.
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
