"""Weight files are loaded into models: completely, or as far as they fit."""

from __future__ import annotations

import os
import pickle

import numpy as np
import paddle
import pytest
from paddle import nn

from ppdet_repro.engine.model_weights import LoadReport, load_exact, load_pretrained, weights_of
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import save_state


class Net(nn.Layer):
    """A backbone with a batch norm, and a head with one output per class."""

    def __init__(self, classes=2):
        super().__init__()
        self.backbone = nn.Sequential(("conv", nn.Conv2D(3, 4, 1)), ("norm", nn.BatchNorm2D(4)))
        self.head = nn.Linear(4, classes)


def equal(a, b):
    """Whether two dicts have the same arrays, bit for bit."""
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


class TestLoadExact:
    def test_equal_names_and_shapes(self, tmp_path):
        source, target = Net(), Net()
        save_state(tmp_path / "a.pdparams", weights_of(source))
        load_exact(target, tmp_path / "a.pdparams")
        assert equal(weights_of(source), weights_of(target))

    def test_any_difference_is_an_error_that_lists_both_sides_and_changes_nothing(self, tmp_path):
        state = weights_of(Net(classes=3))
        state["backbone.norm2.bias"] = state.pop("backbone.norm.bias")
        save_state(tmp_path / "a.pdparams", state)
        model = Net()
        before = weights_of(model)
        with pytest.raises(UserError) as raised:
            load_exact(model, tmp_path / "a.pdparams")
        message = str(raised.value)
        assert "1 of the model's are not in the file (backbone.norm.bias)" in message
        assert "1 of the file's are not in the model (backbone.norm2.bias)" in message
        assert "2 have another shape, file -> model (head.weight [4, 3] -> [4, 2], head.bias [3] -> [2])" in message
        assert "num_classes" in message
        assert equal(before, weights_of(model))

    def test_entries_that_the_model_does_not_need_are_left_out_in_one_line(self, tmp_path, logged):
        """A part that the model does not have, copies of averages, counts, and the classifier of a backbone."""
        source, target = Net(), Net()
        more = ["aux_head.weight", "ema.head.weight", "head.weight_ema", "backbone.norm.num_batches_tracked"]
        more += ["backbone.total_ops", "total_params", "backbone.fc.weight", "ema_model.backbone.conv.weight"]
        save_state(tmp_path / "a.pdparams", {**weights_of(source), **dict.fromkeys(more, np.zeros(1))})
        load_exact(target, tmp_path / "a.pdparams")
        assert equal(weights_of(source), weights_of(target))
        (line,) = [line for line in logged.messages if "a.pdparams" in line]
        assert "8 entries that this model does not need are left out (aux_head.weight, ema.head.weight, " in line
        assert ", and 4 more)" in line

    @pytest.mark.parametrize("name", ["backbone.conv2.weight", "backbone.cinema.weight", "head.fc.weight"])
    def test_more_layers_of_a_part_are_of_another_model(self, tmp_path, name):
        """A ResNet-101 has all weights of a ResNet-50; PaddleDetection evaluates them as that without an error."""
        save_state(tmp_path / "a.pdparams", {**weights_of(Net()), name: np.zeros(1)})
        with pytest.raises(
            UserError, match=f"1 of the file's are not in the model .{name}.; do they belong to another"
        ):
            load_exact(Net(), tmp_path / "a.pdparams")

    def test_a_missing_weight_is_an_error_in_spite_of_others(self, tmp_path):
        state = {**weights_of(Net()), "aux_head.weight": np.zeros(1)}
        del state["head.bias"]
        save_state(tmp_path / "a.pdparams", state)
        with pytest.raises(UserError, match=r"model's: 1 of the model's are not in the file \(head.bias\); do they"):
            load_exact(Net(), tmp_path / "a.pdparams")

    def test_values_get_the_precision_of_the_model(self, tmp_path):
        state = {name: value.astype(np.float64) for name, value in weights_of(Net()).items()}
        save_state(tmp_path / "a.pdparams", state)
        model = Net()
        load_exact(model, tmp_path / "a.pdparams")
        assert model.head.weight.dtype == paddle.float32


class TestLoadPretrained:
    def test_the_file_of_a_backbone_has_no_prefix(self, tmp_path):
        state = {name[len("backbone.") :]: v for name, v in weights_of(Net()).items() if name.startswith("backbone.")}
        save_state(tmp_path / "a.pdparams", {**state, "fc.weight": np.zeros(1)})
        model = Net()
        report = load_pretrained(model, tmp_path / "a.pdparams")
        assert len(report.loaded) == 6 and report.unused == ["fc.weight"]
        assert report.new == ["head.weight", "head.bias"] and report.reshaped == []
        assert np.array_equal(model.backbone.conv.weight.numpy(), state["conv.weight"])

    def test_a_head_for_other_classes_is_not_loaded_and_is_reported(self, tmp_path):
        save_state(tmp_path / "a.pdparams", weights_of(Net(classes=80)))
        model = Net()
        before = model.head.weight.numpy()
        report = load_pretrained(model, tmp_path / "a.pdparams")
        assert report.reshaped == ["head.weight [4, 80] -> [4, 2]", "head.bias [80] -> [2]"] and report.new == []
        assert str(report) == (
            "6 loaded, 0 new, 0 unused, 2 reshaped and left new (head.weight [4, 80] -> [4, 2], head.bias [80] -> [2])"
        )
        assert np.array_equal(before, model.head.weight.numpy())

    def test_long_lists_are_abbreviated(self):
        names = [f"layer{i}" for i in range(6)]
        report = LoadReport([], names, [], [])
        assert "6 new (layer0, layer1, layer2, layer3, and 2 more)" in str(report)

    def test_nothing_loaded_is_an_error(self, tmp_path):
        save_state(tmp_path / "a.pdparams", {"conv1.weight": np.zeros(1)})
        with pytest.raises(UserError, match=r"nothing in this file fits the model: it has \(conv1.weight\)"):
            load_pretrained(Net(), tmp_path / "a.pdparams")

    def test_code_in_a_file_is_not_run(self, tmp_path):
        mark = tmp_path / "mark"

        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(mark),)

        (tmp_path / "a.pdparams").write_bytes(pickle.dumps(Hostile()))
        for load in (load_exact, load_pretrained):
            with pytest.raises(UserError, match="refused"):
                load(Net(), tmp_path / "a.pdparams")
        assert not mark.exists()
