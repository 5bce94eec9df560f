"""The data of a training run: which batches each epoch has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Iterable, Iterator, List, Sequence

from ppdet_repro.core.contract import Batch
from ppdet_repro.data.reader.readers import TrainReader
from ppdet_repro.data.source.base import Source
from ppdet_repro.engine.distributed import World
from ppdet_repro.optimizer.phases import TrainPhases
from ppdet_repro.utils.errors import UserError


@dataclass(frozen=True)
class TrainData:
    """A training set with a reader for each phase. Raises UserError if the dataset has no boxes or classes, or the
    phases' epochs have different numbers of updates."""

    dataset: Source
    phases: TrainPhases
    readers: Sequence[TrainReader]  # one per phase
    epochs: int
    workers: int  # processes that prepare batches
    accumulate_steps: int  # batches per update
    world: World

    def __post_init__(self) -> None:
        self.dataset.require_boxes("TrainDataset", "training")
        updates = [self._updates(reader) for reader in self.readers]
        if len(set(updates)) > 1:
            raise UserError(
                f"TrainPhases: epochs have {' and '.join(map(str, updates))} updates, as the batch sizes differ; set "
                "TrainReader.epoch_steps, so that all have the same number"
            )

    @property
    def updates_per_epoch(self) -> int:
        """The number of updates of every epoch."""
        return self._updates(self.readers[0])

    def batches(self, epoch: int, seed: int) -> Iterator[List[Batch]]:
        """This process's batches of an epoch (from 0), in lists of `accumulate_steps`: one list per update."""
        reader = self.readers[self.phases.phases.index(self.phases.at(epoch))]
        rank, size, _ = self.world
        batches = reader.batches(
            self.dataset, epoch=epoch, epochs_total=self.epochs, seed=seed, workers=self.workers, rank=rank, world=size
        )
        return in_groups(batches, self.accumulate_steps)

    def _updates(self, reader: TrainReader) -> int:
        return -(-reader.steps_per_epoch(self.dataset, self.world.size) // self.accumulate_steps)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[List[Batch]]:
    """Lists of `size` successive batches; the last list may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
