"""Prepares the batches of one epoch in worker processes.

The batches do not depend on the number of workers, nor on whether training was interrupted between epochs: the random
generator of a sample is seeded with (seed, epoch, position in the epoch), and that of the batch transforms with
(seed, epoch, step). Therefore all processes of a step also draw the same numbers for their batch transforms.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ppdet_repro.core.contract import Batch
from ppdet_repro.data.source.base import Dataset, random_record
from ppdet_repro.data.transform.base import PER_BOX, AnyTransform, Compose, Context, ImageError, Sample, apply_to_batch
from ppdet_repro.data.transform.pad import stack
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.workers import ordered_map

BATCH = (0, 0, 2)  # makes the random numbers of batches independent of those of samples

Arrays = Dict[str, Union[np.ndarray, List[np.ndarray]]]
"""A batch before its arrays become tensors."""


class Prepared(NamedTuple):
    """A batch of arrays, and the unreadable images that were skipped."""

    batch: Arrays
    skipped: list[ImageError]


@dataclass(frozen=True)
class Preparation:
    """Makes a batch from a step's number and the positions of its samples in the epoch. Runs in the workers."""

    dataset: Dataset
    sample_transform: Compose
    batch_transforms: Sequence[AnyTransform]
    order: np.ndarray  # the indices of the dataset in the order of the epoch
    seed: int
    epoch: int
    epochs_total: int
    steps: int  # of the epoch
    collate: bool  # stack the boxes of images, which must then be equally many
    skip_limit: int  # unreadable images that may be skipped to find one sample; if 0, they are errors
    training: bool  # add the entry `progress` to batches
    leave_out: bool = False  # leave out unreadable images, whatever `skip_limit` is; a batch may then be empty

    def __call__(self, task: tuple[int, range]) -> Prepared:
        step, positions = task
        progress = (self.epoch + step / self.steps) / self.epochs_total
        skipped: list[ImageError] = []
        found = (self.sample(position, progress, skipped) for position in positions)
        samples = [sample for sample in found if sample is not None]
        if not samples:
            return Prepared({}, skipped)
        ctx = Context(np.random.default_rng([self.seed, self.epoch, step, *BATCH]), progress)
        samples = apply_to_batch(self.batch_transforms, samples, ctx)
        batch = collate(samples, self.collate)
        if self.training:
            batch["progress"] = np.array([progress], np.float32)
        return Prepared(batch, skipped)

    def sample(self, position: int, progress: float, skipped: list[ImageError]) -> Optional[Sample]:
        """Return the sample at a position, or, if an image that it needs is unreadable, the next one of the epoch, or
        None with `leave_out`.

        Skipped images are appended to `skipped`.
        """
        count = len(self.order)
        unreadable: set[str] = set()
        for attempt in range(count):
            rng = np.random.default_rng([self.seed, self.epoch, position, *([attempt] if attempt else [])])
            ctx = Context(rng, progress, partial(random_record, self.dataset, rng))
            record = self.dataset.record(int(self.order[(position + attempt) % count]))
            try:
                return self.sample_transform(record, ctx)
            except ImageError as error:
                if self.leave_out:
                    skipped.append(error)
                    return None
                unreadable.add(error.path)
                if len(unreadable) > self.skip_limit:
                    raise UserError(f"{error}; repair or remove it") from error
                skipped.append(error)
        raise UserError(f"{skipped[-1]}; no image of the dataset is readable")


def collate(samples: Sequence[Sample], collate_boxes: bool) -> Arrays:
    """Stack the arrays of samples along a new first axis. Entries that are not arrays are omitted.

    Entries with one row per box become lists of arrays, unless `collate_boxes` is set. UserError if shapes differ.
    """
    batch: Arrays = {}
    for key, first in samples[0].items():
        if not isinstance(first, np.ndarray):
            continue
        values = [sample[key] for sample in samples]  # type: ignore[literal-required]  # a key of the first sample
        if key in PER_BOX and not collate_boxes:
            batch[key] = values
        elif any(value.shape != first.shape for value in values):
            fix = "set collate_batch: false or add PadBox" if key in PER_BOX else "add PadBatch or Resize"
            shapes = sorted({value.shape for value in values})
            raise UserError(f"the batch's {key} have different shapes {shapes} and cannot be stacked: {fix}")
        else:
            batch[key] = stack(values)
    return batch


@dataclass(frozen=True)
class EpochBatches:
    """The batches of an epoch. Iterating starts the workers, and leaving the loop stops them.

    Iterating raises UserError if an image is unreadable in evaluation, too many images are unreadable in training, or
    a worker failed.
    """

    prepare: Preparation
    tasks: Sequence[tuple[int, range]]  # steps and the positions of their samples
    workers: int
    use_shared_memory: bool
    finish: Callable[[Arrays], Batch]
    report: Callable[[list[ImageError]], None]

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Batch]:
        with closing(ordered_map(self.prepare, self.tasks, self.workers, self.use_shared_memory)) as results:
            for batch, skipped in results:
                if skipped:
                    self.report(skipped)
                if batch:
                    yield self.finish(batch)


class SkippedImages:
    """Counts the unreadable images of an epoch and stops training if there are more than `limit`.

    `warn` is called for files that are not in `known`, to which they are added.
    """

    def __init__(self, limit: int, known: set[str], warn: Callable[[str], None]) -> None:
        self.limit, self.known, self.warn = limit, known, warn
        self.files: set[str] = set()

    def __call__(self, errors: list[ImageError]) -> None:
        """Add errors. UserError if more than `limit` files are unreadable."""
        for error in errors:
            if error.path not in self.known:
                self.warn(f"skipped {error}")
            self.files.add(error.path)
            self.known.add(error.path)
        if len(self.files) > self.limit:
            raise UserError(
                f"{len(self.files)} unreadable images in one epoch, more than the {self.limit} allowed; "
                f"the last: {errors[-1]}"
            )


def skip_limit(count: int) -> int:
    """Return how many of `count` training images may be unreadable: 5 %, at least 1 and at most 50."""
    return max(1, min(50, count // 20))
