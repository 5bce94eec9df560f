"""One epoch's batches: prepared by worker processes, the same whatever their number.

Everything random is drawn from (seed, epoch, position in the epoch) for a sample and from
(seed, epoch, step) for what concerns a whole batch, so that neither the number of workers nor an
interruption between epochs changes a single pixel, and all processes of a step draw alike.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Iterator, NamedTuple, Protocol, Sequence

import numpy as np

from ppdet_repro.data.reader.workers import ordered_map
from ppdet_repro.data.transform.base import (
    PER_BOX,
    BatchTransform,
    Compose,
    Context,
    ImageError,
    Sample,
    SampleTransform,
    apply_to_batch,
)
from ppdet_repro.data.transform.pad import stack
from ppdet_repro.utils.errors import UserError

BATCH = (0, 0, 2)  # keeps the random stream of batches apart from that of samples

Batch = dict[str, Any]


class Dataset(Protocol):
    """What a reader needs of a data set: its length, and fresh records without pixels."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Sample: ...


class Prepared(NamedTuple):
    """A batch of arrays and the images that were skipped on the way to it."""

    batch: Batch
    skipped: list[ImageError]


@dataclass(frozen=True)
class Preparation:
    """Makes a batch from the positions of its samples in the epoch; runs in the workers.

    order        the epoch's order of the data set's indices
    steps        how many steps the epoch has
    collate      whether boxes are stacked as well (then every image must have equally many)
    skip_limit   how many unreadable images a sample may step over; 0: they are errors
    training     whether batches say how far the training is (entry `progress` [1], 0 to 1)
    """

    dataset: Dataset
    sample_transforms: Sequence[SampleTransform]
    batch_transforms: Sequence[SampleTransform | BatchTransform]
    order: np.ndarray
    seed: int
    epoch: int
    epochs_total: int
    steps: int
    collate: bool
    skip_limit: int
    training: bool

    def __call__(self, task: tuple[int, range]) -> Prepared:
        step, positions = task
        progress = (self.epoch + step / self.steps) / self.epochs_total
        skipped: list[ImageError] = []
        samples = [self.sample(position, progress, skipped) for position in positions]
        ctx = Context(np.random.default_rng([self.seed, self.epoch, step, *BATCH]), progress)
        samples = apply_to_batch(self.batch_transforms, samples, ctx)
        batch = collate(samples, self.collate)
        if self.training:
            batch["progress"] = np.array([progress], np.float32)
        return Prepared(batch, skipped)

    def sample(self, position: int, progress: float, skipped: list[ImageError]) -> Sample:
        """The sample at a position; if an image that it needs is unreadable, the one that follows."""
        count, unreadable = len(self.order), set()
        for attempt in range(count):
            seed = [self.seed, self.epoch, position, *([attempt] if attempt else [])]
            rng = np.random.default_rng(seed)
            ctx = Context(rng, progress, partial(_random_record, self.dataset, rng))
            record = self.dataset.record(int(self.order[(position + attempt) % count]))
            try:
                return Compose(self.sample_transforms)(record, ctx)
            except ImageError as error:
                unreadable.add(error.path)
                if len(unreadable) > self.skip_limit:
                    raise UserError(f"{error}; repair or remove it") from error
                skipped.append(error)
        raise UserError(f"{skipped[-1]}; no image of the data set is readable")


def _random_record(dataset: Dataset, rng: np.random.Generator) -> Sample:
    return dataset.record(int(rng.integers(len(dataset))))


def collate(samples: Sequence[Sample], collate_boxes: bool) -> Batch:
    """What the model needs of the samples, each entry stacked along a new first axis.

    Per-box entries stay lists of arrays unless `collate_boxes`. File names and sizes are left out.

    Raises:
        UserError: entries of different shapes cannot be stacked.
    """
    batch: Batch = {}
    for key, first in samples[0].items():
        if not isinstance(first, np.ndarray):
            continue
        values = [sample[key] for sample in samples]
        if key in PER_BOX and not collate_boxes:
            batch[key] = values
        elif any(value.shape != first.shape for value in values):
            fix = "set collate_batch: false or add PadBox" if key in PER_BOX else "add PadBatch or Resize"
            shapes = sorted({value.shape for value in values})
            raise UserError(f"the batch's {key} have different shapes {shapes} and cannot be stacked: {fix}")
        else:
            batch[key] = stack(values)
    return batch


class EpochBatches:
    """An epoch's batches, sized; iterating starts the workers, and ending or leaving the loop ends
    them.

    Raises (while iterating):
        UserError: an unreadable image in evaluation, too many of them in training, or a failure of
            a worker.
    """

    def __init__(
        self,
        prepare: Preparation,
        tasks: Sequence[tuple[int, range]],
        workers: int,
        use_shared_memory: bool,
        finish: Callable[[Batch], Batch],
        report: Callable[[list[ImageError]], None],
    ) -> None:
        self._prepare, self._tasks, self._workers = prepare, tasks, workers
        self._use_shared_memory, self._finish, self._report = use_shared_memory, finish, report

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Batch]:
        results = ordered_map(self._prepare, self._tasks, self._workers, self._use_shared_memory)
        with closing(results):
            for batch, skipped in results:
                if skipped:
                    self._report(skipped)
                yield self._finish(batch)


class SkippedImages:
    """Counts an epoch's unreadable images and stops training when they are too many.

    warn   is called once for each file
    known  files that have been warned of before (added to)
    limit  how many an epoch may have
    """

    def __init__(self, limit: int, known: set[str], warn: Callable[[str], None]) -> None:
        self.limit, self.known, self.warn = limit, known, warn
        self.files: set[str] = set()

    def __call__(self, errors: list[ImageError]) -> None:
        """Count these too.

        Raises:
            UserError: more than `limit` files are unreadable.
        """
        for error in errors:
            self.files.add(error.path)
            if error.path not in self.known:
                self.known.add(error.path)
                self.warn(f"skipped {error}")
        if len(self.files) > self.limit:
            raise UserError(
                f"{len(self.files)} unreadable images in one epoch, more than the {self.limit} allowed; "
                f"the last: {errors[-1]}"
            )


def skip_limit(count: int) -> int:
    """How many of `count` training images may be unreadable: 5 %, at least one, at most 50."""
    return max(1, min(50, count // 20))
