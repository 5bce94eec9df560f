"""Reading the folder of an exported model, and wrong files in it."""

from __future__ import annotations

import pytest
import yaml

from ppdet_repro.engine.export import infer_cfg
from ppdet_repro.runtime.model_folder import ARCHITECTURES, open_model_folder
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.utils.errors import UserError


def test_every_architecture_that_is_exported_is_known():
    assert {arch for arch, _ in infer_cfg.ARCHITECTURES.values()} == set(ARCHITECTURES)


def broken_copy(exported, tmp_path, **changes):
    """A copy of the exported folder with other entries in infer_cfg.yml; None removes an entry."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).symlink_to(path)
    config = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    (folder / "infer_cfg.yml").unlink()
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (folder / "infer_cfg.yml").write_text(yaml.safe_dump(config))
    return folder


def test_a_missing_file_of_the_folder_is_an_error_of_one_line(exported, tmp_path):
    with pytest.raises(UserError, match="is not a folder; ppdet-repro export writes one"):
        open_model_folder(tmp_path / "missing")
    folder = broken_copy(exported, tmp_path)
    (folder / "model.pdiparams").unlink()
    with pytest.raises(UserError, match="lacks model.pdiparams"):
        open_model_folder(folder)
    with pytest.raises(UserError, match="lacks inference.pdmodel.*set --use_fd_format=False"):
        open_model_folder(folder, fastdeploy_names=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arch": "Mask2Former"}, "architecture 'Mask2Former' is not one of YOLO, YOLOF"),
        ({"label_list": None}, "has no entry 'label_list'"),
        ({"Preprocess": "Resize"}, "is not an infer_cfg.yml"),
    ],
)
def test_a_wrong_infer_cfg_is_an_error_of_one_line(exported, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_model_folder(broken_copy(exported, tmp_path, **changes))


@pytest.mark.parametrize("part, size", [("program", 0), ("program", 1000), ("parameters", 1000)])
def test_a_damaged_model_is_an_error_of_one_line(exported, tmp_path, part, size):
    folder = broken_copy(exported, tmp_path)
    name = network_file(folder, "paddle").name if part == "program" else "model.pdiparams"
    content = (folder / name).read_bytes()[:size] or b"damaged"
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="export it again") as caught:
        PaddleNetwork(open_model_folder(folder).network_file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
