"""The base class of data sources. They read a table of images and boxes once and return samples from it.

I images, N boxes of all images together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, List, NamedTuple, Optional, Protocol, Union, cast

import numpy as np

from ppdet_repro.data.source.files import require_file
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, SETTING, Findings, listed
from ppdet_repro.data.transform.base import Sample
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

ALL_FIELDS = ("image", "gt_bbox", "gt_class", "is_crowd", "difficult")  # those of a dataset that names none
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")

Column = Union[np.ndarray, List[Any]]


class ImageTable(NamedTuple):
    """All images of a source and their boxes, stored by column. Worker processes can share the few large arrays."""

    files: list[str]  # I paths
    ids: np.ndarray  # [I] int64
    sizes: Optional[np.ndarray]  # [I, 2] float64, height and width; None if the annotations do not contain them
    starts: np.ndarray  # [I + 1]: the boxes of image i are the rows from starts[i] to starts[i + 1]
    columns: dict[str, Column]  # "gt_bbox", "gt_class", ...: N rows each

    def take(self, images: np.ndarray) -> ImageTable:
        """Return the table of the images with the given indices, in this order."""
        counts = np.diff(self.starts)[images]
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in images] or [images])
        return ImageTable(
            [self.files[i] for i in images],
            self.ids[images],
            None if self.sizes is None else self.sizes[images],
            starts_of(counts),
            {
                name: column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
                for name, column in self.columns.items()
            },
        )


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Turn the number of boxes per image [I] into `ImageTable.starts` [I + 1]."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


class Dataset(Protocol):
    """What readers need of a dataset: its length, and samples whose images are not decoded yet."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Sample: ...


class Source:
    """A dataset: `load()` reads it, then `len()` and `record(i)` return its samples. Images are not decoded.

    Args:
        dataset_dir: The dataset's folder. The other paths are relative to it.
        image_dir: The image folder.
        anno_path: The annotation file.
        data_fields: The entries of records, such as gt_bbox. "image" stands for im_file, im_id, h and w, which are
            always present. By default, boxes, classes, and the flags of crowds and difficult objects, as far as the
            annotations have them.
        sample_num: The largest number of images to load, or -1 for all.
        repeat: The number of passes over the dataset per epoch.
        allow_empty: Keep images without boxes.
        empty_ratio: If in [0, 1), the largest share of images without boxes, which are then chosen at random.
    """

    def __init__(
        self,
        dataset_dir: Optional[str],
        image_dir: Optional[str],
        anno_path: Optional[str],
        data_fields: Optional[Sequence[str]],
        sample_num: int,
        repeat: int,
        allow_empty: bool = True,
        empty_ratio: float = 1.0,
    ):
        self.dataset_dir, self.image_dir, self.anno_path = dataset_dir or "", image_dir or "", anno_path
        self.data_fields = None if data_fields is None else list(data_fields)
        self.sample_num, self.repeat = sample_num, repeat
        self.allow_empty, self.empty_ratio = allow_empty, empty_ratio
        self._table: Optional[ImageTable] = None
        self._summary = ""
        self._names: list[str] = []
        self._source_of_names = ""  # a note for the summary
        self._no_annotations = ""  # why there are no annotations at all

    def scan(self, findings: Findings) -> ImageTable:
        """Read the annotations and set `_names`. Returns all images and boxes that can be used."""
        raise NotImplementedError

    def read(self) -> tuple[ImageTable, str]:
        """Read the annotations and set `_names`. Returns the images and boxes to use, and a line that sums them up."""
        findings = Findings()
        table = self.scan(findings)
        return self._chosen(table, findings)

    def load(self) -> ImageTable:
        """Return the images and boxes. The first call reads the annotations and logs one line about them.

        UserError if files are missing or wrong, or no image is left.
        """
        if self._table is None:
            self._table, self._summary = self.read()
            get_logger().info(self._summary)
        return self._table

    @property
    def table(self) -> ImageTable:
        return self.load()

    @property
    def summary(self) -> str:
        """One line with the number of images and boxes, and what was left out."""
        self.load()
        return self._summary

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; the index is the class id of the model."""
        if not self._names:
            self.load()
        return self._names

    @property
    def category_ids(self) -> list[int]:
        """The category ids of annotation and result files; the index is the class id of the model."""
        return list(range(len(self.class_names)))

    def __len__(self) -> int:
        return len(self.table.files) * self.repeat

    def record(self, index: int) -> Sample:
        """Return a new copy of an image's sample: im_file, im_id, h and w (from the annotations), and `data_fields`."""
        table = self.table
        index %= len(table.files)
        record: dict[str, Any] = {"im_file": table.files[index], "im_id": table.ids[index : index + 1].copy()}
        if table.sizes is not None:
            record["h"], record["w"] = table.sizes[index].tolist()
        start, stop = table.starts[index], table.starts[index + 1]
        for name, column in table.columns.items():
            record[name] = column[start:stop].copy()
        return cast(Sample, record)

    def require_boxes(self, section: str, user: str) -> None:
        """UserError if the records of a dataset, a `section` of the config, lack boxes or classes, which `user` needs.

        Example: dataset.require_boxes("TrainDataset", "training")
        """
        missing = [field for field in ("gt_bbox", "gt_class") if field not in self.table.columns]
        if missing and self.data_fields is None:
            raise UserError(f"{section}: {self._no_annotations or 'it has no annotations'}; {user} needs boxes")
        if missing:
            fields = f"{section}.data_fields is {self.data_fields}"
            raise UserError(f"{fields}; {user} needs {' and '.join(missing)} in it too")

    def _path(self, *parts: str) -> str:
        return os.path.join(self.dataset_dir, *parts)

    @property
    def image_folder(self) -> str:
        """The folder that the names of images are relative to."""
        return self._path(self.image_dir)

    @property
    def anno_file(self) -> str:
        """The path of the annotation file. UserError if it does not exist."""
        if not self.anno_path:
            raise UserError(f"{type(self).__name__} needs an anno_path: the path of the annotation file")
        path = self._path(self.anno_path)
        require_file(path, "set dataset_dir and anno_path of the dataset")
        return path

    def _chosen(self, table: ImageTable, findings: Findings) -> tuple[ImageTable, str]:
        """Choose at most `sample_num` images, those with boxes first, and the columns in `data_fields`.

        Returns the chosen table and its summary, "a.json: 3 images, 8 boxes of 2 classes; left out: crowd region (2)".
        """
        allow_empty, empty_ratio = self.allow_empty or bool(self._no_annotations), self.empty_ratio
        counts = np.diff(table.starts)
        kept = np.arange(len(counts)) if allow_empty else np.flatnonzero(counts)
        if self.sample_num > 0:
            kept = kept[: self.sample_num]
        full, empty = kept[counts[kept] > 0], kept[counts[kept] == 0]
        if 0 <= empty_ratio < 1:
            wanted = min(int(len(full) * empty_ratio / (1 - empty_ratio)), len(empty))
            empty = np.sort(np.random.default_rng(0).choice(empty, wanted, replace=False))
        left_out = {**findings.of(SETTING), **findings.of(LEFT_OUT)}
        if not len(full) + len(empty):
            fix = "check the annotations, or set allow_empty: true" if not allow_empty else "add images"
            why = f" (left out: {listed(left_out)})" if left_out else ""
            raise UserError(f"no image is left in {self.anno_file}{why}: {fix}")
        fields = ([] if self._no_annotations else ALL_FIELDS) if self.data_fields is None else self.data_fields
        columns = {name: column for name, column in table.columns.items() if name in fields}
        table = table._replace(columns=columns).take(np.concatenate([full, empty]))
        without = {"image without boxes": int((counts == 0).sum()) - len(empty)}
        boxes, classes = count(int(table.starts[-1]), "box", "boxes"), count(len(self._names), "class", "classes")
        clauses = {
            "left out": listed({**without, **left_out}),
            "odd, but clear": listed(findings.of(ODD)),
            "doubtful": listed(findings.of(DOUBTFUL)),
        }
        line = f"{self.anno_file}: {count(len(table.files), 'image')}, {boxes} of {classes}{self._source_of_names}"
        return table, "; ".join([line, *(f"{name}: {kinds}" for name, kinds in clauses.items() if kinds)])


def random_record(dataset: Dataset, rng: np.random.Generator) -> Sample:
    """Return the record of a random image."""
    return dataset.record(int(rng.integers(len(dataset))))


def natural_key(text: str) -> list:
    """Sort key that puts "a2" before "a10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def count(number: int, one: str, many: str = "") -> str:
    """Format a count: "1 box", "1,234 boxes"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
