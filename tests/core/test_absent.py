"""Configs that are built on parts of PaddleDetection that this package has not are refused in one line."""

from __future__ import annotations

import pytest

from ppdet_repro.core.config import absent, components, load_config
from ppdet_repro.core.registry import register, registered
from ppdet_repro.utils.errors import UserError

SNIPER = """
metric: SNIPERCOCO
num_classes: 9
TrainDataset: !SniperCOCODataSet {image_dir: a, image_target_sizes: [2000, 1000], use_neg_chip: false}
TrainReader: {sample_transforms: [{SniperDecodeCrop: {}}]}
architecture: FasterRCNN
"""


def message(tmp_path, text):
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "a.yml")
    return str(error.value)


def test_sniper_is_refused_in_one_line_that_says_why(tmp_path):
    text = message(tmp_path, SNIPER)
    assert len(text.splitlines()) == 1 and "a.yml:2: SNIPERCOCO" in text and "chips" in text
    only_data = "\n".join(line for line in SNIPER.splitlines() if "Dataset" in line)
    assert "a.yml:1: SniperCOCODataSet: SNIPER" in message(tmp_path, only_data.strip())


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ("architecture: PicoDet", 1, "this detector"),
        ("PPYOLOEHead: {}\narchitecture: YOLOv3", 1, "this detector"),
        ("EvalMOTDataset: !MOTImageFolder {}\narchitecture: YOLOv3", 1, "can be trained without"),
        ("EvalMOTDataset: {}\narchitecture: DeepSORT", 2, "does not track"),
        ("architecture: DeepSORT\nDeepSORT: {detector: YOLOv3}\nunknown: 1", 2, "track"),
        (
            "num_joints: 17\nTrainDataset: !KeypointTopDownCocoDataset {}\nmetric: KeyPointTopDownCOCOEval",
            3,
            "keypoints",
        ),
        ("ssod_method: DenseTeacher\nsemi_start_iters: 5", 1, "semi-supervised"),
    ],
)
def test_the_line_and_the_reason(tmp_path, text, line, reason):
    found = message(tmp_path, text)
    assert len(found.splitlines()) == 1 and f"a.yml:{line}: " in found and reason in found


def test_a_transform_inside_of_a_reader_keeps_its_line_among_others(tmp_path):
    lines = message(
        tmp_path, "epoch: 1\nTrainReader:\n  sample_transforms: [SniperDecodeCrop: , Decodo: ]"
    ).splitlines()
    assert len(lines) == 2 and "chips" in lines[0] and "did you mean 'Decode'" in lines[1]


def test_no_name_is_both_absent_and_in_the_package():
    assert [name for name in absent.REASONS if components.find(name) is not None] == []


class FCOS:
    """A detector of the user, with the name of one of PaddleDetection's."""

    def __init__(self):
        pass


def test_a_program_may_register_an_absent_name(tmp_path, monkeypatch):
    monkeypatch.setattr("ppdet_repro.core.registry._registered", dict(registered()))
    register(FCOS)
    (tmp_path / "a.yml").write_text("architecture: FCOS")
    assert load_config(tmp_path / "a.yml").run.architecture == "FCOS"
