"""TrainReader, EvalReader and TestReader: from a data set to batches of tensors."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import paddle

from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.data.reader.batches import Batch, Dataset, EpochBatches, Preparation, SkippedImages, skip_limit
from ppdet_repro.data.reader.sampling import batch_positions, epoch_order
from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

INPUTS = ("image_shape", "num_max_boxes")


class _Reader:
    """What the three readers share. See `TrainReader` for the parameters."""

    training = False
    epoch_steps: Optional[int] = None

    def __init__(
        self,
        *,
        sample_transforms: Optional[Sequence[Any]],
        batch_transforms: Optional[Sequence[Any]],
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        collate_batch: bool,
        num_classes: int,
        inputs_def: Optional[dict[str, Any]],
        use_shared_memory: bool,
    ) -> None:
        self.sample_transforms = list(sample_transforms or [])
        self.batch_transforms = list(batch_transforms or [])
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.collate_batch, self.use_shared_memory = collate_batch, use_shared_memory
        name = type(self).__name__
        if batch_size < 1:
            raise UserError(f"{name}: batch_size {batch_size} must be at least 1")
        unknown = set(inputs_def or ()) - set(INPUTS)
        if unknown:
            raise UserError(f"{name}.inputs_def: unknown {sorted(unknown)}; known are {list(INPUTS)}")
        self.image_shape: Optional[list[int]] = (inputs_def or {}).get("image_shape")
        for transform in self.preprocess:
            classes = getattr(transform, "num_classes", num_classes)
            if classes != num_classes:
                raise UserError(
                    f"{name}: {type(transform).__name__} has num_classes {classes}, the model has "
                    f"{num_classes}; leave num_classes out there"
                )
        self._warned: set[str] = set()

    @property
    def preprocess(self) -> list[Any]:
        """Sample transforms, then batch transforms."""
        return [*self.sample_transforms, *self.batch_transforms]

    def steps_per_epoch(self, dataset: Dataset, world: int = 1) -> int:
        """How many batches an epoch has on each of `world` processes (on the first, where they differ).

        Raises:
            UserError: the data set cannot fill a single batch.
        """
        return len(self._positions(dataset, 0, world))

    def batches(
        self, dataset: Dataset, *, epoch: int, epochs_total: int, seed: int, workers: int, rank: int = 0, world: int = 1
    ) -> EpochBatches:
        """The batches of epoch `epoch` (from 0) for process `rank`: dicts of tensors, where per-box
        entries that are not collated are lists of tensors.

        The result depends on seed, epoch, rank and world, not on `workers`.

        Raises:
            UserError: the data set cannot fill a single batch, or seed or workers are negative; more
                when iterating (`EpochBatches`).
        """
        for name, value in (("seed", seed), ("worker_num", workers)):
            if value < 0:
                raise UserError(f"{name} {value} must not be negative")
        tasks = list(enumerate(self._positions(dataset, rank, world)))
        limit = skip_limit(len(dataset)) if self.training else 0
        prepare = Preparation(
            dataset=dataset,
            sample_transforms=self._active_transforms(epoch),
            batch_transforms=self.batch_transforms,
            order=epoch_order(len(dataset), self.shuffle, seed, epoch, self._epoch_length(world)),
            seed=seed,
            epoch=epoch,
            epochs_total=epochs_total,
            steps=len(tasks),
            collate=self.collate_batch,
            skip_limit=limit,
            training=self.training,
        )
        report = SkippedImages(limit, self._warned, get_logger().warning)
        return EpochBatches(prepare, tasks, workers, self.use_shared_memory, to_tensors, report)

    def _active_transforms(self, epoch: int) -> list[Any]:
        return self.sample_transforms

    def _epoch_length(self, world: int) -> Optional[int]:
        """The images of an epoch of `epoch_steps`."""
        return None if self.epoch_steps is None else self.epoch_steps * self.batch_size * world

    def _positions(self, dataset: Dataset, rank: int, world: int) -> list[range]:
        count = self._epoch_length(world) or len(dataset)
        positions = batch_positions(count, self.batch_size, rank, world, wrap=self.training, drop_last=self.drop_last)
        if not positions and rank == 0:
            raise UserError(
                f"{type(self).__name__}: {len(dataset)} images do not fill one batch of "
                f"{self.batch_size} x {world} processes; lower batch_size or set drop_last: false"
            )
        return positions


@register
class TrainReader(_Reader):
    """Shuffled training batches.

    collate_batch      stack the boxes too; false: a list with one entry an image
    mixup_epoch, cutmix_epoch
                       the transform of that name is active in epochs below this number; 0: always;
                       absent: never
    num_classes        must agree with that of the transforms
    inputs_def         accepted: `num_max_boxes` is what PadBox says
    use_shared_memory  how workers hand batches over; the result is the same. PaddleDetection's
                       default is false, as it needs space in /dev/shm; this does not
    fuse_normalize     accepted, without effect in training
    epoch_steps        batches of an epoch on each process, whatever the data set's size: a part of it, another in each
                       epoch, or more than one run through it; absent: one run

    A batch's `progress` says how far the training is, 0 at its start, below 1 in its last step.

    An unreadable image is replaced by the next of the epoch's order, with one warning a file; more
    than 5 % of the images (or 50) are an error.
    """

    training = True

    def __init__(
        self,
        sample_transforms: Optional[list[Part[Any]]] = None,
        batch_transforms: Optional[list[Part[Any]]] = None,
        batch_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        collate_batch: bool = True,
        num_classes: Shared[int] = 80,
        mixup_epoch: int = -1,
        cutmix_epoch: int = -1,
        inputs_def: Optional[dict[str, Any]] = None,
        use_shared_memory: bool = True,
        fuse_normalize: bool = False,
        epoch_steps: Optional[int] = None,
    ):
        super().__init__(
            sample_transforms=sample_transforms,
            batch_transforms=batch_transforms,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_batch=collate_batch,
            num_classes=num_classes,
            inputs_def=inputs_def,
            use_shared_memory=use_shared_memory,
        )
        if epoch_steps is not None and epoch_steps < 1:
            raise UserError(f"TrainReader: epoch_steps {epoch_steps} must be at least 1")
        self.epoch_steps = epoch_steps
        self._until = {Mixup: mixup_epoch, Cutmix: cutmix_epoch}

    def _active_transforms(self, epoch: int) -> list[Any]:
        """The sample transforms less those whose epochs are over."""
        idle = tuple(kind for kind, until in self._until.items() if until != 0 and epoch >= until)
        return [transform for transform in self.sample_transforms if not isinstance(transform, idle)]


@register
class EvalReader(_Reader):
    """Batches for evaluation: every image exactly once over all processes, boxes always as lists.

    An unreadable image is an error. `collate_batch` and `fuse_normalize` are accepted, without
    effect in evaluation.
    """

    def __init__(
        self,
        sample_transforms: Optional[list[Part[Any]]] = None,
        batch_transforms: Optional[list[Part[Any]]] = None,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_batch: bool = True,
        num_classes: Shared[int] = 80,
        inputs_def: Optional[dict[str, Any]] = None,
        use_shared_memory: bool = True,
        fuse_normalize: bool = False,
    ):
        super().__init__(
            sample_transforms=sample_transforms,
            batch_transforms=batch_transforms,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_batch=False,
            num_classes=num_classes,
            inputs_def=inputs_def,
            use_shared_memory=use_shared_memory,
        )


@register
class TestReader(_Reader):
    """Batches of images without ground truth, for inference and export.

    inputs_def      {image_shape: [3, height, width]} fixes the exported model's input, -1 for any
    fuse_normalize  the exported model normalises its input itself, preprocessing leaves it out

    An unreadable image is an error.
    """

    def __init__(
        self,
        sample_transforms: Optional[list[Part[Any]]] = None,
        batch_transforms: Optional[list[Part[Any]]] = None,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_batch: bool = True,
        num_classes: Shared[int] = 80,
        inputs_def: Optional[dict[str, Any]] = None,
        use_shared_memory: bool = True,
        fuse_normalize: bool = False,
    ):
        super().__init__(
            sample_transforms=sample_transforms,
            batch_transforms=batch_transforms,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            collate_batch=False,
            num_classes=num_classes,
            inputs_def=inputs_def,
            use_shared_memory=use_shared_memory,
        )
        self.fuse_normalize = fuse_normalize


def to_tensors(batch: Batch) -> Batch:
    """The batch with every array, also those in lists, copied into a tensor."""
    return {
        key: list(map(paddle.to_tensor, value)) if isinstance(value, list) else paddle.to_tensor(value)
        for key, value in batch.items()
    }
