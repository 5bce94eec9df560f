"""`ppdet-repro config` judges a config as building its model does."""

from __future__ import annotations

import pytest
from paths import ROOT

from ppdet_repro.cli.main import build_parser
from ppdet_repro.utils.errors import UserError

CONFIG = ROOT / "configs" / "yolof" / "yolof_r18vd_bccd.yml"


def printed(capsys, *overrides):
    parsed = build_parser(["config"]).parse_args(["config", "-c", str(CONFIG), "-o", "epoch=0", *overrides])
    parsed.run(parsed)
    return capsys.readouterr().out


def test_channels_of_another_backbone_are_warned_about(capsys, logged):
    assert "in_channels: [96]" in printed(capsys, "DilatedEncoder.in_channels=[96]")
    message = (
        "command line: DilatedEncoder.in_channels is [96], but ResNet gives [64]; the value in the file is ignored"
    )
    assert message in logged.text


def test_what_the_model_refuses_is_refused(capsys):
    with pytest.raises(UserError, match="return_idx .* names a stage outside"):
        printed(capsys, "ResNet.return_idx=[7]")
    assert capsys.readouterr().out == ""


def test_a_config_without_a_model_is_printed(capsys):
    assert "# ResNet: nothing uses this section" in printed(capsys, "architecture=null")
