"""A small exported model that several tests share."""

from __future__ import annotations

import pytest
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a small dataset in `data` and the config `tiny.yml`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, write_images(folder / "data"))
    return folder


@pytest.fixture(scope="session")
def model(tiny):
    return tiny_model(tiny / "tiny.yml")


@pytest.fixture(scope="session")
def exported(tiny, model):
    return export_model(model, load_config(tiny / "tiny.yml"), tiny / "export")
