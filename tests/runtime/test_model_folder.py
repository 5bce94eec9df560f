"""Reading the folder of an exported model, and wrong files in it."""

from __future__ import annotations

import pytest
import yaml

from ppdet_repro.engine.export import infer_cfg
from ppdet_repro.runtime.manifest import MANIFEST
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
        ({"Preprocess": "Resize"}, r"infer_cfg.yml:\d+: Preprocess must be a list"),
        ({"Preprocess": [3]}, r"infer_cfg.yml:\d+: Preprocess\[0\] must be a mapping"),
        ({"Preprocess": [{}]}, r"infer_cfg.yml:\d+: Preprocess\[0\] needs a type"),
        ({"Preprocess": [{"type": ["Resize"]}]}, r"infer_cfg.yml:\d+: Preprocess\[0\] needs a type"),
        ({"Preprocess": [{"type": "NormalizeImage", "mean": "a"}]}, r"Preprocess\[0\].mean must be a list"),
        ({"Preprocess": [{"type": "NormalizeImage", "std": [1, "b", 1]}]}, r"std\[1\] must be a number, got 'b'"),
        ({"Preprocess": [{"type": "NormalizeImage", "std": [1, float("nan"), 1]}]}, "numbers of at most 16384"),
        ({"Preprocess": [{"type": "PadStride", "stride": "32"}]}, r"Preprocess\[0\].stride must be an integer"),
        ({"Preprocess": [{"type": "PadStride", "stride": 10**9}]}, "numbers of at most 16384, got 1000000000"),
        ({"Preprocess": [{"type": "Resize", "target_size": {}}]}, r"Preprocess\[0\].target_size must be an integer or"),
        ({"Preprocess": [{"type": "Resize", "target_size": [64, 10**6]}]}, "numbers of at most 16384"),
        ({"label_list": "person"}, "label_list must be a list"),
        ({"label_list": ["person", ["car"]]}, r"label_list\[1\] must be text or true or false"),
        ({"min_subgraph_size": "3"}, "min_subgraph_size must be an integer, got '3'"),
        ({"draw_threshold": [0.5]}, r"draw_threshold must be a number, got \[0.5\]"),
        ({"use_dynamic_shape": "yes!"}, "use_dynamic_shape must be true or false"),
        ({"PostProcess": "MatrixNMS"}, "PostProcess must be a mapping or null"),
        ({"PostProcess": {"type": "TTFBox", "score_thresh": "x"}}, "PostProcess.score_thresh must be a number"),
        ({"PostProcess": {"type": "MatrixNMS", "nms_top_k": 1.5}}, "PostProcess.nms_top_k must be an integer, got 1.5"),
        ({"arch": ["YOLO"]}, "arch must be text"),
    ],
)
def test_a_wrong_infer_cfg_is_an_error_of_one_line(exported, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_model_folder(broken_copy(exported, tmp_path, **changes))


@pytest.mark.parametrize(
    "text, message",
    [
        ("arch: YOLO\n[", r"infer_cfg.yml:\d: not valid YAML"),
        ("- 1", "infer_cfg.yml:1: a config is a mapping of keys to values"),
        ("[" * 100_000, "infer_cfg.yml:1: not valid YAML: more than 40 lists"),
        ("arch: !!python/name:os.system", "infer_cfg.yml:1: not valid YAML: could not determine a constructor"),
        ("arch: &a [x]\nlabel_list: &b [*a, *a]\nPreprocess: " + "[*b, " * 30, "infer_cfg.yml:3: not valid YAML"),
        ("arch: YOLO\nlabel_list: \ud800", "infer_cfg.yml:2: not text in UTF-8"),
    ],
    ids=range(6),
)
def test_a_text_that_is_not_an_infer_cfg_is_an_error_of_one_line(exported, tmp_path, text, message):
    folder = broken_copy(exported, tmp_path)
    (folder / "infer_cfg.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=message) as raised:
        open_model_folder(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_names_of_classes_that_yaml_reads_as_other_values(exported, tmp_path):
    folder = broken_copy(exported, tmp_path, label_list=["person", True, 3, 2.5])
    assert open_model_folder(folder).labels == ["person", "True", "3", "2.5"]


@pytest.mark.parametrize("part, size", [("program", 0), ("program", 1000), ("parameters", 1000)])
def test_a_damaged_model_is_an_error_of_one_line(exported, tmp_path, part, size):
    folder = broken_copy(exported, tmp_path)
    name = network_file(folder, "paddle").name if part == "program" else "model.pdiparams"
    content = (folder / name).read_bytes()[:size] or b"damaged"
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="export it again") as caught:
        PaddleNetwork(open_model_folder(folder).network_file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
