"""Pruned models: training and resuming, and their weight files in evaluation, export and as a start or a teacher."""

from __future__ import annotations

import json
import re

import numpy as np
import paddle
import pytest
from parity_weights import compare_detections, fill
from small_detectors import SMALL, small_config
from tiny_yolof import tiny_model, write_images, write_training_config

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.model_weights import load_exact, load_pretrained, weights_of
from ppdet_repro.engine.models import build_untrained, load_trained
from ppdet_repro.engine.training.average_checkpoints import average_checkpoints
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.train import train
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.paddle_network import PaddleNetwork
from ppdet_repro.runtime.paddle_options import PaddleOptions
from ppdet_repro.slim import prune_network
from ppdet_repro.slim.prune_shapes import Costs
from ppdet_repro.utils.cpu_env import has_vnni
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state, save_state

SLIM = """
pretrain_weights: PRETRAINED
slim: Pruner
Pruner: {criterion: l1_norm, pruned_flops: 0.3}
"""

# Layers for which the formula does not suit: it knows these for 80 classes only. On the formula's features trained
# weights give equal scores and boxes of thousands of pixels, which float32 rounds by 0.01, so they are scaled down.
TRAINED = re.compile("yolo_output|retina_(reg|cls)")


def shapes(state):
    return {name: list(value.shape) for name, value in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """tiny.yml and its data, weights of its model trained for a second, and slim.yml, which prunes them."""
    folder = tmp_path_factory.mktemp("prune")
    save_state(folder / "trained.pdparams", weights_of(tiny_model(write_training_config(folder))))
    (folder / "slim.yml").write_text(SLIM.replace("PRETRAINED", str(folder / "trained.pdparams")))
    return folder


def config(folder, *overrides, slim="slim.yml"):
    output = f"save_dir={folder}/output"
    return load_config(folder / "tiny.yml", [output, *overrides], slim and folder / slim)


@pytest.fixture(scope="module")
def final(folder):
    """The weights after two epochs of fine-tuning with a moving average."""
    train(config(folder, "use_ema=true"))
    return folder / "output" / "slim" / "model_final.pdparams"


def test_training_starts_from_the_pruned_weights_and_keeps_their_channels(folder, final):
    state = read_state(final)
    original, pruned = build_model(config(folder)), build_untrained(config(folder, slim=None))
    load_exact(pruned, final)
    costs = Costs(original, (96, 96))
    assert costs.total(pruned) / costs.total(original) == pytest.approx(0.69, abs=0.01)
    checkpoint = read_state(list_checkpoints(final.parent)[0] / "model.pdparams")
    assert shapes(weights_of(pruned)) == shapes(state) == shapes(checkpoint)


def test_pruning_is_of_the_pretrained_weights_and_happens_before_training(folder):
    train(config(folder, "epoch=1", "LearningRate.base_lr=0.0", f"save_dir={folder}/still"))
    expected = build_model(config(folder))
    load_exact(expected, folder / "trained.pdparams")
    build(config(folder), "Pruner").prune(expected, (96, 128))
    state = read_state(folder / "still" / "slim" / "model_final.pdparams")
    for name, value in weights_of(expected).items():
        if not name.endswith(("_mean", "_variance")):
            assert (state[name] == value).all(), name


def test_a_resumed_run_ends_as_an_uninterrupted_one_and_does_not_prune_again(folder, final, monkeypatch):
    overrides = "use_ema=true", f"save_dir={folder}/resumed"
    train(config(folder, "epoch=1", *overrides))

    def fails(*_):
        raise AssertionError("pruned again")

    monkeypatch.setattr(prune_network.NetworkPruner, "__init__", fails)
    train(config(folder, *overrides), resume="auto")
    resumed = read_state(folder / "resumed" / "slim" / "model_final.pdparams")
    for name, value in read_state(final).items():
        assert (resumed[name] == value).all(), name


def test_a_pruned_file_loads_without_its_slim_config_and_one_line_says_so(folder, final, logged):
    model = load_trained(config(folder, f"weights={final}", slim=None))
    assert "model_final.pdparams: a pruned model: 32 of 34 convolutions" in logged.text
    assert "% fewer multiply-adds" in logged.text
    state = read_state(final)
    for name, value in weights_of(model).items():
        assert (state[name] == value).all(), name
    load_trained(config(folder, f"weights={final}"))  # with it, too, and the ratios do not matter


def test_fine_tuning_continues_from_a_pruned_file_and_resumes(folder, final, logged):
    overrides = f"pretrain_weights={final}", "use_ema=true", f"save_dir={folder}/more"
    train(config(folder, "epoch=1", *overrides, slim=None))
    assert ", 0 new, 0 unused, 0 reshaped" in logged.text
    train(config(folder, "epoch=2", *overrides, slim=None), resume="auto")
    assert shapes(read_state(folder / "more" / "tiny" / "model_final.pdparams")) == shapes(read_state(final))


def test_the_copies_that_paddleslim_leaves_in_a_file_are_ignored(folder, final, tmp_path):
    state = read_state(final)
    extra = {"backbone.conv1.conv1.conv.conv2d_0_w_0_backup": np.zeros([32, 3, 3, 3], np.float32)}
    save_state(tmp_path / "theirs.pdparams", {**state, **extra})
    model = load_trained(config(folder, f"weights={tmp_path}/theirs.pdparams", slim=None))
    assert shapes(weights_of(model)) == shapes(state)
    assert not load_pretrained(build_model(config(folder, slim=None)), tmp_path / "theirs.pdparams").unused


def test_another_number_of_classes_is_refused_as_before_and_changes_nothing(folder, final):
    model = build_model(config(folder, "num_classes=3", slim=None))
    before = weights_of(model)
    with pytest.raises(UserError, match="have another shape, file -> model .*check num_classes and the config"):
        load_exact(model, final)
    after = weights_of(model)
    assert shapes(before) == shapes(after) and all((before[name] == after[name]).all() for name in before)


def test_without_trained_weights_one_line_says_what_is_missing(folder):
    with pytest.raises(UserError, match=r"slim.yml: pruning starts from trained weights; .*pretrain_weights"):
        train(config(folder, "pretrain_weights=null"))


def test_a_sensitivity_analysis_evaluates_with_the_runs_own_evaluation(folder, tmp_path):
    groups = prune_network.NetworkPruner(build_model(config(folder)), "l1_norm", (96, 128)).groups
    losses = {name: {str(percent / 100): percent / 100 for percent in range(10, 100, 10)} for name in groups}
    del losses[groups[0]]["0.9"]
    (tmp_path / "losses.json").write_text(json.dumps(losses))
    overrides = "epoch=1", f"save_dir={tmp_path}", f"Pruner.sensitivity_file={tmp_path}/losses.json"
    cfg, evaluations = config(folder, *overrides), []
    with pytest.raises(UserError, match="sensitivity analysis evaluates the model; add --eval"):
        train(cfg)

    def evaluation(detector, *_):
        evaluations.append(detector.backbone.conv1.conv1.conv.weight.shape[0])
        return {"bbox_mAP": 0.5}

    train(cfg, evaluate=True, evaluation=evaluation)
    assert evaluations[:2] == [64, 6] and len(evaluations) == 3  # unpruned, without 90 % of 64 filters, after training
    assert json.loads((tmp_path / "losses.json").read_text())[groups[0]]["0.9"] == 0


def test_pruned_checkpoints_are_averaged(folder, final, tmp_path):
    checkpoints = [str(path) for path in list_checkpoints(final.parent)]
    cfg = config(folder, slim=None)
    weights = average_checkpoints(checkpoints, str(tmp_path / "mean.pdparams"), cfg, batches=1)
    assert shapes(weights) == shapes(read_state(final))


def test_pruning_then_quantization_aware_training(folder, tmp_path):
    text = SLIM.replace("PRETRAINED", str(folder / "trained.pdparams")).replace("Pruner", "PrunerQAT")
    (folder / "both.yml").write_text(text)
    cfg = config(folder, "epoch=1", slim="both.yml")
    train(cfg)
    weights = folder / "output" / "both" / "model_final.pdparams"
    assert any("_layer." in name for name in read_state(weights))
    train(config(folder, slim="both.yml"), resume="auto")

    trained = load_trained(config(folder, f"weights={weights}", slim="both.yml"))
    exported = export_model(trained, config(folder, "export.benchmark=true", slim="both.yml"), tmp_path)
    image = np.random.default_rng(0).normal(size=(1, 3, 96, 128)).astype(np.float32)
    with paddle.no_grad():
        expected = trained.raw(paddle.to_tensor(image))
    options = PaddleOptions(enable_mkldnn_int8=None if has_vnni() else False)  # sums of two products would saturate
    outputs = PaddleNetwork(network_file(exported, "paddle"), options).run({"image": image})
    for ours, theirs in zip(outputs, expected):
        assert np.abs(ours - theirs.numpy()).mean() < 0.1 * theirs.numpy().std()


def test_a_pruned_teacher(folder, final):
    text = (folder / "tiny.yml").read_text()
    (folder / "distill.yml").write_text(
        text + f"slim: Distill\npretrain_weights: {final}\ndistill_loss: CWDFeatureLoss\n"
    )
    cfg = config(folder, "epoch=1", slim="distill.yml")
    assert np.isfinite(train(cfg).step)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_detector_is_pruned_trained_saved_loaded_evaluated_and_exported(name, images, tmp_path):
    plain = [f"save_dir={tmp_path}/output", "epoch=1", "use_ema=false"]
    (tmp_path / "slim.yml").write_text(SLIM)
    pretrained = f"pretrain_weights={tmp_path}/trained.pdparams"  # beats what the config gives
    original = build_model(small_config(name, images, *plain))
    save_state(tmp_path / "trained.pdparams", weights_of(original))
    train(small_config(name, images, *plain, "Pruner.criterion=fpgm", pretrained, slim=tmp_path / "slim.yml"))

    weights = tmp_path / "output" / "slim" / "model_final.pdparams"
    cfg = small_config(name, images, *plain, f"weights={weights}")
    model = load_trained(cfg)
    costs = Costs(original, (64, 64))
    assert costs.total(model) / costs.total(original) == pytest.approx(0.69, abs=0.01)
    state = read_state(weights)
    assert all((state[key] == value).all() for key, value in weights_of(model).items())

    values = {
        key: 0.05 * value.numpy() if TRAINED.search(key) else fill(key, value.shape)
        for key, value in model.state_dict().items()
    }
    model.set_state_dict({key: paddle.to_tensor(value) for key, value in values.items()})  # so that there are boxes
    source = build(cfg, "EvalDataset")
    source.load()
    reader = build(cfg, "EvalReader", batch_size=1)
    batch = next(iter(reader.batches(source, epoch=0, epochs_total=1, seed=0, workers=0)))
    with paddle.no_grad():
        eager = model(batch)
    exported = PaddleNetwork(network_file(export_model(model, cfg, tmp_path / "exported"), "paddle"))
    rows, counts = exported.run({key: batch[key].numpy() for key in ("image", "im_shape", "scale_factor")})
    difference = compare_detections(eager["bbox"].numpy(), eager["bbox_num"].numpy(), rows, counts, 1e-4, 0.01)
    assert difference.unmatched == 0 and len(rows) > 0, difference
