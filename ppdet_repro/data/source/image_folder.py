"""Images without annotations, for inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Optional, Union

import numpy as np

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.data.source.base import IMAGE_SUFFIXES, ImageTable, Source, count, natural_key, starts_of
from ppdet_repro.data.source.categories import COCO, VOC, Categories, read_categories
from ppdet_repro.data.source.text import is_hidden
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.packaged import own_or_packaged


@register
class ImageFolder(Source):
    """Image files, and the images in folders and their subfolders, in natural order ("a2" before "a10").

    Image ids count from 0. Records have the entries im_file and im_id.

    Args:
        dataset_dir: The folder that the other paths are relative to.
        image_dir: A folder or file, or a list of them. See also `set_images`.
        anno_path: The file that defines the class names: a COCO JSON file, or a text file with one name per line. It is
            relative to dataset_dir or, if there is no such file, to the working directory. If it is not given or does
            not exist, the names are those of COCO for 80 classes, those of VOC for 20 classes, and otherwise "class
            0", "class 1", ...
        sample_num: The largest number of images, or -1 for all.
        use_default_label: Ignore anno_path.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        dataset_dir: Optional[str] = None,
        image_dir: Optional[Union[str, list[str]]] = None,
        anno_path: Optional[str] = None,
        sample_num: int = -1,
        use_default_label: Optional[bool] = None,
        num_classes: Shared[int] = 80,
    ):
        super().__init__(dataset_dir, None, anno_path, None, sample_num, 1)
        self.use_default_label, self.num_classes = use_default_label, num_classes
        given = [image_dir] if isinstance(image_dir, str) else image_dir or []
        self.images = [self._path(path) for path in given]

    def set_images(self, paths: Sequence[str]) -> None:
        """Use these image files and folders instead. They are relative to the working directory."""
        self.images = list(paths)
        self._table = None

    @property
    def class_names(self) -> list[str]:
        return self._categories.names

    @property
    def category_ids(self) -> list[int]:
        return self._categories.ids

    def read(self) -> tuple[ImageTable, str]:
        files = [file for path in self.images for file in find_images(path)]
        if self.sample_num > 0:
            files = files[: self.sample_num]
        if not files:
            looked = ", ".join(self.images) or "image_dir is empty"
            raise UserError(f"no image to run on ({looked}): give image files or a folder that contains some")
        table = ImageTable(files, np.arange(len(files)), None, starts_of(np.zeros(len(files), int)), {})
        return table, f"{count(len(files), 'image')} in {', '.join(self.images[:3])}"

    @cached_property
    def _categories(self) -> Categories:
        name, path = self.anno_path or "", self._path(self.anno_path or "")
        if not os.path.isfile(path) and os.path.isfile(name):
            path = name
        path = str(own_or_packaged(Path(path), name))
        wanted = self.anno_path and not self.use_default_label
        if wanted and os.path.isfile(path):
            return read_categories(path, self.num_classes)
        ids = list(range(self.num_classes))
        categories = {80: COCO, 20: VOC}.get(self.num_classes) or Categories([f"class {i}" for i in ids], ids)
        if wanted:
            get_logger().warning(
                f"{path} does not exist: the classes are called {categories.names[0]!r} to {categories.names[-1]!r}; "
                "set TestDataset.anno_path to a COCO JSON file or a list of names"
            )
        return categories


def find_images(path: str) -> list[str]:
    """Return the path itself if it is an image file, or the images in a folder and its subfolders in natural order.

    Each real folder is searched once, so that links may form circles. Hidden folders, and files that systems put beside
    the images (._a.jpg, __MACOSX), are passed over. UserError if the path is neither a file nor a folder.
    """
    if os.path.isfile(path):
        if not path.lower().endswith(IMAGE_SUFFIXES):
            raise UserError(f"{path} is not an image: give one of {', '.join(IMAGE_SUFFIXES)}")
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"{path} does not exist: give an image file or a folder of images")
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in ("__MACOSX", "@eaDir"))
        images = (name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name))
        found += [os.path.join(folder, name) for name in images]
    return sorted(found, key=natural_key)
