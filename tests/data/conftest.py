from __future__ import annotations

from functools import partial

import pytest
from reader_images import Images
from voc_devkit import write_devkit


@pytest.fixture
def images(tmp_path):
    """A dataset of ten images."""
    return Images(tmp_path)


@pytest.fixture
def devkit(tmp_path):
    """Writes a VOC devkit of the given {image id: xml}; returns its dataset."""
    return partial(write_devkit, tmp_path)
