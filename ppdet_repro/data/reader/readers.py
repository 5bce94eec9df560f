"""TrainReader, EvalReader and TestReader: from a dataset to batches of tensors."""

from __future__ import annotations

from typing import Any, Optional, cast

import paddle

from ppdet_repro.core.contract import Batch
from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.data.reader.batches import Arrays, EpochBatches, Preparation, SkippedImages, skip_limit
from ppdet_repro.data.reader.sampling import batch_positions, epoch_order
from ppdet_repro.data.source.base import Dataset
from ppdet_repro.data.transform.base import Compose
from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.data.transform.mosaic import Mosaic
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

INPUTS = ("image_shape", "num_max_boxes")


class _Reader:
    """The common part of the three readers. See `TrainReader` for the parameters."""

    training = False
    leave_out = False  # leave out unreadable images
    epoch_steps: Optional[int] = None

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
        self.sample_transforms, self.batch_transforms = list(sample_transforms or []), list(batch_transforms or [])
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.collate_batch = collate_batch and self.training
        self.use_shared_memory, self.fuse_normalize = use_shared_memory, fuse_normalize
        name = type(self).__name__
        if batch_size < 1:
            raise UserError(f"{name}: batch_size {batch_size} must be at least 1")
        unknown = set(inputs_def or ()) - set(INPUTS)
        if unknown:
            raise UserError(f"{name}.inputs_def: unknown keys {sorted(unknown)}; known keys are {list(INPUTS)}")
        self.image_shape: Optional[list[int]] = (inputs_def or {}).get("image_shape")
        for transform in self.preprocess:
            classes = getattr(transform, "num_classes", num_classes)
            if classes != num_classes:
                raise UserError(
                    f"{name}: {type(transform).__name__} has num_classes {classes}, the model has "
                    f"{num_classes}; remove num_classes from the transform"
                )
        self._warned: set[str] = set()

    @property
    def preprocess(self) -> list[Any]:
        """The sample transforms, followed by the batch transforms."""
        return [*self.sample_transforms, *self.batch_transforms]

    def steps_per_epoch(self, dataset: Dataset, world: int = 1) -> int:
        """Return the number of batches per epoch on each of `world` processes (the first one may have one more)."""
        return len(self._positions(dataset, 0, world))

    def batches(
        self, dataset: Dataset, *, epoch: int, epochs_total: int, seed: int, workers: int, rank: int = 0, world: int = 1
    ) -> EpochBatches:
        """Return the batches of epoch `epoch` out of `epochs_total`, for process `rank` out of `world`.

        Numbers count from 0. The result does not depend on the number of `workers`, which are processes. Raises
        UserError if the dataset is smaller than one batch, or `seed` or `workers` is negative; see also `EpochBatches`.
        """
        for name, value in (("seed", seed), ("worker_num", workers)):
            if value < 0:
                raise UserError(f"{name} {value} must not be negative")
        tasks = list(enumerate(self._positions(dataset, rank, world)))
        limit = len(dataset) if self.leave_out else skip_limit(len(dataset)) if self.training else 0
        order = epoch_order(len(dataset), self.shuffle, seed, epoch, self._epoch_length(world))
        prepare = Preparation(
            dataset,
            Compose(self._active_transforms(epoch)),
            self.batch_transforms,
            order,
            seed,
            epoch,
            epochs_total,
            steps=len(tasks),
            collate=self.collate_batch,
            skip_limit=limit,
            training=self.training,
            leave_out=self.leave_out,
        )
        report = SkippedImages(limit, self._warned, get_logger().warning)
        return EpochBatches(prepare, tasks, workers, self.use_shared_memory, to_tensors, report)

    def _active_transforms(self, epoch: int) -> list[Any]:
        return self.sample_transforms

    def _epoch_length(self, world: int) -> Optional[int]:
        """The number of images in an epoch of `epoch_steps` steps, None if they are not set."""
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
    """Shuffled batches for training.

    An unreadable image is replaced by the next image of the epoch, with one warning per file. More than 5 % of the
    images, or more than 50, are an error.

    Args:
        sample_transforms: Transforms of one sample.
        batch_transforms: Transforms of the samples of one batch. Sample transforms are allowed here, too.
        batch_size: Images per batch and process.
        shuffle: Use another random order in each epoch.
        drop_last: Omit an incomplete last batch.
        collate_batch: Stack the boxes as well; otherwise they are lists with one tensor per image.
        num_classes: Must agree with that of the transforms.
        mixup_epoch: Mixup is active in epochs below this number: 0 for always, absent for never.
        cutmix_epoch: The same for Cutmix.
        mosaic_epoch: The same for Mosaic, but with `target_size`, it is active if this is absent.
        inputs_def: Accepted; its `num_max_boxes` has no effect, see PadBox.
        use_shared_memory: Pass batches from workers in shared memory. The result is the same. Unlike PaddleDetection,
            whose default is false, this does not need space in /dev/shm.
        fuse_normalize: Accepted, without effect in training.
        epoch_steps: Batches per epoch on each process, whatever the size of the dataset. An epoch is then a part of
            the dataset, a different one each time, or more than one pass over it.
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
        mosaic_epoch: int = -1,
    ):
        transforms = sample_transforms, batch_transforms
        super().__init__(
            *transforms, batch_size, shuffle, drop_last, collate_batch, num_classes, inputs_def, use_shared_memory
        )
        if epoch_steps is not None and epoch_steps < 1:
            raise UserError(f"TrainReader: epoch_steps {epoch_steps} must be at least 1")
        self.epoch_steps = epoch_steps
        self._until = {Mixup: mixup_epoch, Cutmix: cutmix_epoch, Mosaic: mosaic_epoch}

    def _active_transforms(self, epoch: int) -> list[Any]:
        """The sample transforms without those that are not active in this epoch."""
        return [transform for transform in self.sample_transforms if self._is_active(transform, epoch)]

    def _is_active(self, transform: Any, epoch: int) -> bool:
        until = self._until.get(type(transform), 0)
        if isinstance(transform, Mosaic) and not transform.scheduled and until < 0:
            return True
        return until == 0 or epoch < until


@register
class EvalReader(_Reader):
    """Batches for evaluation. All processes together read every image exactly once.

    Boxes are always lists with one tensor per image. An unreadable image is an error. See `TrainReader` for the
    parameters; `collate_batch` and `fuse_normalize` have no effect.
    """


@register
class TestReader(_Reader):
    """Batches of images without ground truth, for inference and export.

    An unreadable image is left out, with a warning. See `TrainReader` for the other parameters.

    Args:
        inputs_def: {image_shape: [3, height, width]} fixes the input of the exported model. -1 stands for any size.
        fuse_normalize: Let the exported model normalize its input, and omit this from the preprocessing.
    """

    leave_out = True


def to_tensors(batch: Arrays) -> Batch:
    """Copy the arrays of a batch, and those in its lists, into tensors."""
    tensors = {
        key: list(map(paddle.to_tensor, value)) if isinstance(value, list) else paddle.to_tensor(value)
        for key, value in batch.items()
    }
    return cast(Batch, tensors)
