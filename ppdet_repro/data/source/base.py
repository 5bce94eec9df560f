"""What every data source shares: a table of images and boxes, read once, handed out one record at a time.

I images, N boxes of all images together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Optional, Union

import numpy as np

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Table(NamedTuple):
    """All images of a source, column by column (a few arrays, so worker processes share them cheaply)."""

    files: list[str]  # I paths
    ids: np.ndarray  # [I] int64
    sizes: Optional[np.ndarray]  # [I, 2] float64 (h, w); None where the annotations do not say
    starts: np.ndarray  # [I + 1]: the boxes of image i are rows starts[i] to starts[i + 1]
    columns: dict[str, Sequence]  # "gt_bbox", "gt_class", ...: N rows each

    def take(self, images: Sequence[int]) -> Table:
        """The table of the given images (indices), in the given order."""
        images = np.asarray(images, dtype=np.int64)
        counts = np.diff(self.starts)[images]
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in images] or [images])
        return Table(
            [self.files[i] for i in images],
            self.ids[images],
            None if self.sizes is None else self.sizes[images],
            starts_of(counts),
            {name: _rows(column, rows) for name, column in self.columns.items()},
        )


def starts_of(counts: Sequence[int]) -> np.ndarray:
    """Where each image's boxes start, and where the last one's end, from the number of boxes of each."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])


def _rows(column: Sequence, rows: np.ndarray) -> Sequence:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]


class Source:
    """A data set: `load()` it, then `len()` and `record(i)`. No Paddle, no decoding of images.

    dataset_dir: the data set's folder; the other paths are relative to it.
    image_dir: the images' folder.
    anno_path: the annotation file.
    data_fields: which of the boxes' columns records carry; "image" stands for im_file, im_id, h, w,
        which they always carry.
    sample_num: at most so many images are loaded; -1 for all.
    repeat: how many times the data set is run through in one epoch.
    """

    def __init__(
        self,
        dataset_dir: Optional[str],
        image_dir: Optional[str],
        anno_path: Optional[str],
        data_fields: Optional[Sequence[str]],
        sample_num: int,
        repeat: int,
    ):
        self.dataset_dir = dataset_dir or ""
        self.image_dir = image_dir or ""
        self.anno_path = anno_path
        self.data_fields = ["image"] if data_fields is None else list(data_fields)
        self.sample_num = sample_num
        self.repeat = repeat
        self._table: Optional[Table] = None
        self._summary = ""

    def read(self) -> tuple[Table, str]:
        """Read everything from the disk: the images and boxes to use, and the line that sums them up."""
        raise NotImplementedError

    def load(self) -> None:
        """Read the annotations and log one line about them; a second call does nothing.

        Raises `UserError` where the files are missing or wrong, or no image is left.
        """
        if self._table is None:
            self._table, self._summary = self.read()
            get_logger().info(self._summary)

    @property
    def table(self) -> Table:
        self.load()
        return self._table

    @property
    def summary(self) -> str:
        """One line: images, boxes, and what was left out."""
        self.load()
        return self._summary

    @property
    def class_names(self) -> list[str]:
        """The classes' names; the index is the class id that models see."""
        raise NotImplementedError

    @property
    def category_ids(self) -> list[int]:
        """The ids that annotation and result files call the classes by; the index is the class id."""
        return list(range(len(self.class_names)))

    def __len__(self) -> int:
        return len(self.table.files) * self.repeat

    def record(self, index: int) -> dict:
        """A fresh copy of an image's record: im_file, im_id [1] int64, h and w (float, the annotation's)
        and, G boxes, the fields asked for: gt_bbox [G, 4] float32 xyxy pixels, gt_class [G, 1] int32, ...
        """
        table = self.table
        index %= len(table.files)
        record = {"im_file": table.files[index], "im_id": table.ids[index : index + 1].copy()}
        if table.sizes is not None:
            record["h"], record["w"] = table.sizes[index].tolist()
        start, stop = table.starts[index], table.starts[index + 1]
        for name, column in table.columns.items():
            record[name] = column[start:stop].copy()
        return record

    def _path(self, *parts: str) -> str:
        return os.path.join(self.dataset_dir, *parts)

    @property
    def image_folder(self) -> str:
        """The folder that the images' names are relative to."""
        return self._path(self.image_dir)

    @property
    def anno_file(self) -> str:
        """The annotation file's path; `UserError` if there is none."""
        if not self.anno_path:
            raise UserError(f"{type(self).__name__} needs an anno_path: the annotation file's path")
        path = self._path(self.anno_path)
        require_file(path, "set dataset_dir and anno_path of the data set")
        return path

    def _without_empty(self, table: Table, allow_empty: bool, empty_ratio: float) -> tuple[Table, int]:
        """Keep `sample_num` images, those with boxes first; images without go unless `allow_empty`, and
        are thinned to the share `empty_ratio` of all images where that is in [0, 1). Also how many went.
        """
        counts = np.diff(table.starts)
        kept = np.arange(len(counts)) if allow_empty else np.flatnonzero(counts)
        if self.sample_num > 0:
            kept = kept[: self.sample_num]
        full, empty = kept[counts[kept] > 0], kept[counts[kept] == 0]
        if 0 <= empty_ratio < 1:
            wanted = min(int(len(full) * empty_ratio / (1 - empty_ratio)), len(empty))
            empty = np.sort(np.random.default_rng(0).choice(empty, wanted, replace=False))
        chosen = np.concatenate([full, empty])
        if not len(chosen):
            fix = "check the annotations, or set allow_empty: true" if not allow_empty else "add images"
            raise UserError(f"no image is left in {self.anno_file}: {fix}")
        return table.take(chosen), int((counts == 0).sum()) - len(empty)


@contextmanager
def files_checked(path: Union[str, os.PathLike], doing: str) -> Iterator[None]:
    """The system's refusals (no permission, disk full) as a `UserError`; doing: 'read' or 'written'."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        fix = "is there space, and may you write there?" if doing == "written" else "may you read it?"
        raise UserError(f"{name} cannot be {doing} ({error.strerror or error}): {fix}") from None


def require_file(path: str, fix: str) -> None:
    """Raise `UserError` unless `path` is a file."""
    if not os.path.isfile(path):
        found = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{path} {found}: {fix}")


def require_folder(path: str, fix: str) -> None:
    """Raise `UserError` unless `path` is a folder."""
    if not os.path.isdir(path):
        found = "is a file, not a folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"{path} {found}: {fix}")


def path_inside(folder: str, name: str, where: str) -> str:
    """`folder/name`, if that does not lead out of the folder (judged by the text: links may lead anywhere).

    where: what names the file, for the error.
    """
    if (os.path.isabs(name) or ".." in name) and (
        os.path.relpath(os.path.join(folder, name), folder or ".").split(os.sep)[0] == os.pardir
    ):
        raise UserError(
            f"{where}: {name!r} leads out of the image folder {folder or '.'}: name images relative to "
            "image_dir, and set image_dir to a folder that holds them all"
        )
    return os.path.join(folder, name)


def require_images(files: Sequence[str], names: Iterable[str], where: str) -> None:
    """Raise one `UserError` for all missing files; names: what to call each, such as 'image id 7'."""
    missing = [(name, path) for name, path in zip(names, files) if not os.path.isfile(path)]
    if missing:
        name, path = missing[0]
        count = f"{len(missing)} of {len(files)} images are missing, first " if len(missing) > 1 else ""
        raise UserError(
            f"{where}: {count}{name}: {path} does not exist: set dataset_dir and image_dir, or remove the "
            "entry ('tools/dataset.py check' lists them all)"
        )


def read_label_list(path: str) -> list[str]:
    """Class names from a text file, one a line; a leading 'background' is left out."""
    require_file(path, "give a text file with one class name a line")
    with files_checked(path, "read"), open(path, encoding="utf-8-sig") as file:
        names = [line.strip() for line in file if line.strip()]
    if names and names[0] == "background":
        names = names[1:]
    if not names:
        raise UserError(f"{path} names no class: write one name a line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} names {twice[0]!r} more than once: remove the repetition")
    return names


def summary_line(path: str, table: Table, classes: str, left_out: dict[str, int], clipped: str) -> str:
    """'a.json: 3 images, 8 boxes of 2 classes; left out: crowd regions (2); ...', zeros not mentioned.

    left_out: the number of each kind of thing left out; clipped: a last clause, or ''.
    """
    boxes = count(int(table.starts[-1]), "box", "boxes")
    kinds = [f"{kind} ({number:,})" for kind, number in left_out.items() if number]
    clauses = [f"{path}: {count(len(table.files), 'image')}, {boxes} of {classes}"]
    clauses += ["left out: " + ", ".join(kinds)] if kinds else []
    clauses += [clipped] if clipped else []
    return "; ".join(clauses)


def natural_key(text: str) -> list:
    """Sort key that puts 'a2' before 'a10'."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def count(number: int, one: str, many: str = "") -> str:
    """'1 box', '1,234 boxes'."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
