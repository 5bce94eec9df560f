"""Several datasets as one."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import numpy as np

from ppdet_repro.core.registry import Part, register
from ppdet_repro.data.source.base import Column, ImageTable, Source, count, starts_of
from ppdet_repro.utils.errors import UserError


@register
class UnionDataSet(Source):
    """The images of several datasets with the same classes, one dataset after another.

    Image ids are those of the datasets if all are different, otherwise 0, 1, 2, ...

    Args:
        datasets: The datasets.
        data_fields: Replaces the `data_fields` of all datasets; by default, those of the first one are used for all.
        repeat: The number of passes per epoch.
    """

    def __init__(self, datasets: List[Part[Any]], data_fields: Optional[List[str]] = None, repeat: int = 1):
        if not datasets:
            raise UserError("UnionDataSet: datasets is empty; name at least one")
        super().__init__(None, None, None, data_fields or datasets[0].data_fields, -1, repeat)
        self.datasets: List[Source] = list(datasets)
        for dataset in self.datasets:
            dataset.data_fields = self.data_fields

    @property
    def class_names(self) -> list[str]:
        return self.datasets[0].class_names

    @property
    def category_ids(self) -> list[int]:
        return self.datasets[0].category_ids

    def read(self) -> tuple[ImageTable, str]:
        for dataset in self.datasets:
            if dataset.class_names != self.class_names:
                raise UserError(
                    f"UnionDataSet: {dataset.anno_file} has the classes {dataset.class_names[:4]}..., "
                    f"{self.datasets[0].anno_file} has {self.class_names[:4]}...; give all the same label list"
                )
        tables = [dataset.table for dataset in self.datasets]
        ids = np.concatenate([table.ids for table in tables])
        if len(np.unique(ids)) < len(ids):
            ids = np.arange(len(ids))
        sizes = [table.sizes for table in tables if table.sizes is not None]
        table = ImageTable(
            [file for table in tables for file in table.files],
            ids,
            np.concatenate(sizes) if len(sizes) == len(tables) else None,
            starts_of(np.concatenate([np.diff(table.starts) for table in tables])),
            {
                name: joined([table.columns[name] for table in tables])
                for name in tables[0].columns
                if all(name in table.columns for table in tables)
            },
        )
        boxes = count(int(table.starts[-1]), "box", "boxes")
        return table, f"together {count(len(table.files), 'image')}, {boxes}"


def joined(parts: Sequence[Column]) -> Column:
    """Concatenate columns."""
    arrays = all(isinstance(part, np.ndarray) for part in parts)
    return np.concatenate(parts) if arrays else [value for part in parts for value in part]
