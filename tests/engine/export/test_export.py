"""Exported models: the files in the folder, and the same boxes as the eager model."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import paddle
import pytest
import yaml
from paddle import inference, nn
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.data.transform.normalize import NormalizeImage
from ppdet_repro.data.transform.preprocess import from_list, to_list
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.export.fastdeploy import export_for_fastdeploy
from ppdet_repro.engine.export.fold import fold_batch_norms
from ppdet_repro.engine.export.infer_cfg import ARCHITECTURES, read_input
from ppdet_repro.engine.export.verify import choose_files, verify
from ppdet_repro.engine.export.wrappers import NormalizedInside
from ppdet_repro.paddle_private.saved_program import inference_config
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.utils.errors import UserError

FILES = {
    ".pdmodel": ["infer_cfg.yml", "manifest.json", "model.pdiparams", "model.pdiparams.info", "model.pdmodel"],
    ".json": ["infer_cfg.yml", "manifest.json", "model.json", "model.pdiparams"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(folder, write_images(folder / "data"))


@pytest.fixture(scope="module")
def model(config):
    return tiny_model(config)


@pytest.fixture(scope="module")
def folder(config, model, tmp_path_factory):
    """An export with decoding and suppression, for any size."""
    return export_model(model, load_config(config), tmp_path_factory.mktemp("export"))


def export(config, model, output_dir, *overrides):
    """An export of the same weights with another config."""
    cfg = load_config(config, overrides)
    other = build_model(cfg)
    other.set_state_dict(model.state_dict())
    return export_model(other, cfg, output_dir)


def run(folder, inputs):
    """The exported model's outputs on a dict of arrays."""
    config = inference_config(network_file(folder, "paddle"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def batches(config, batch_size=1):
    cfg = load_config(config)
    reader = build(cfg, "EvalReader", batch_size=batch_size)
    return list(reader.batches(build(cfg, "EvalDataset"), epoch=0, epochs_total=1, seed=0, workers=0))


def eager(model, batch):
    with paddle.no_grad():
        return {name: value.numpy() for name, value in model(batch).items()}


def assert_same_boxes(found, expected):
    (bbox, bbox_num), rows = found, expected["bbox"]
    assert bbox_num.tolist() == expected["bbox_num"].tolist() and len(rows) == len(bbox) > 0
    np.testing.assert_array_equal(bbox[:, 0], rows[:, 0])
    np.testing.assert_allclose(bbox[:, 1], rows[:, 1], atol=1e-5)
    np.testing.assert_allclose(bbox[:, 2:], rows[:, 2:], atol=1e-3)


def test_exporting_leaves_the_model_as_it_is(model, folder):
    """Tracing replaces the methods of layers."""
    assert folder.is_dir()
    assert [layer for layer in model.sublayers(include_self=True) if "forward" in vars(layer)] == []


def test_the_folder_is_paddledetections(folder):
    assert sorted(path.name for path in folder.iterdir()) == FILES[network_file(folder, "paddle").suffix]
    assert yaml.safe_load((folder / "infer_cfg.yml").read_text()) == {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": True,
        "arch": "YOLOF",
        "min_subgraph_size": 40,
        "Preprocess": [
            {"type": "Resize", "target_size": [96, 128], "keep_ratio": True, "interp": 1},
            {
                "type": "NormalizeImage",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "is_scale": True,
                "norm_type": "mean_std",
            },
            {"type": "Permute"},
            {"type": "PadStride", "stride": 32},
        ],
        "label_list": ["square", "disc"],
    }


@pytest.mark.parametrize("batch_size, expected_sizes", [(1, {(96, 128), (128, 96)}), (3, {(128, 96), (128, 128)})])
def test_boxes_are_the_eager_models_at_every_size(config, model, folder, batch_size, expected_sizes):
    sizes = set()
    for batch in batches(config, batch_size):
        inputs = {key: batch[key].numpy() for key in ("image", "im_shape", "scale_factor")}
        assert_same_boxes(run(folder, inputs), eager(model, batch))
        sizes.add(tuple(batch["image"].shape[2:]))
    assert sizes == expected_sizes  # 36 anchors are all decoded, of 48 the best 40


def test_normalization_in_the_network_takes_pixels_and_keeps_padding_at_zero(config, model, tmp_path):
    folder = export(config, model, tmp_path, "TestReader.fuse_normalize=true")
    steps = yaml.safe_load((folder / "infer_cfg.yml").read_text())["Preprocess"]
    assert [step["type"] for step in steps] == ["Resize", "Permute", "PadStride"]
    source = build(load_config(config), "EvalDataset")
    image = [source.record(0)["im_file"]]
    inputs = from_list(steps)(image)._asdict()
    assert inputs["image"].max() > 100  # pixels, and some padding
    assert inputs["im_shape"].tolist() != [list(inputs["image"].shape[2:])]
    normalized = from_list(to_list(build(load_config(config), "EvalReader").preprocess))(image)._asdict()
    expected = eager(model, {key: paddle.to_tensor(value) for key, value in normalized.items()})
    assert_same_boxes(run(folder, inputs), expected)


@pytest.mark.parametrize("black, padding", [(False, 0.0), (True, -2.0)])
def test_the_value_of_padding_where_the_network_normalizes(black, padding):
    """A picture of one pixel, padded to 1 x 2: (255 / 255 - 0.5) / 0.25 = 2 and (0 / 255 - 0.5) / 0.25 = -2."""
    normalize = NormalizeImage(mean=[0.5] * 3, std=[0.25] * 3)
    network = NormalizedInside(Picture(), normalize, black)
    inputs = {"image": paddle.to_tensor([[[[255.0, 0.0]]] * 3]), "im_shape": paddle.to_tensor([[1.0, 1.0]])}
    assert network(inputs).numpy().round(5).tolist() == [[[[2.0, padding]]] * 3]


class Picture(nn.Layer):
    def forward(self, inputs):
        return inputs["image"]


def test_black_padding_is_normalized_with_the_image(config, model, tmp_path):
    """As in PaddleDetection: `verify` compares with the eager model on the padded and then normalized image."""
    cfg = load_config(config, ["TestReader.fuse_normalize=true", "export.padding=black"])
    files = choose_files(cfg, 2, None)
    folder = export_model(model, cfg, tmp_path, verify_on=files)
    with pytest.raises(UserError, match="have no match"):
        trained_way = read_input(load_config(config, ["TestReader.fuse_normalize=true"]))
        verify(model, folder, "paddle", "fp32", trained_way.eager, files)
    alone = load_config(config, ["export.padding=black"])
    with pytest.raises(UserError, match="export.padding: black needs TestReader.fuse_normalize: true"):
        export_model(model, alone, tmp_path)


def test_a_fixed_size_becomes_the_inputs_and_resizes(config, model, tmp_path):
    size = "TestReader.inputs_def={image_shape: [3, 64, 96]}"
    stretch = "TestReader.sample_transforms.1.Resize.keep_ratio=false"
    folder = export(config, model, tmp_path, size, stretch, "YOLOFHead.nms.score_threshold=0.9999")
    content = yaml.safe_load((folder / "infer_cfg.yml").read_text())
    assert content["use_dynamic_shape"] is False
    assert content["Preprocess"][0]["target_size"] == [64, 96]
    inputs = {"image": np.zeros((1, 3, 64, 96)), "im_shape": [[64, 96]], "scale_factor": [[1, 1]]}
    bbox, bbox_num = run(folder, {key: np.array(value, "float32") for key, value in inputs.items()})
    assert bbox.shape == (0, 6) and bbox_num.tolist() == [0]  # nothing reaches the threshold: no boxes at all


def test_benchmark_exports_the_network_alone_with_the_image_as_its_only_input(config, model, tmp_path):
    folder = export(config, model, tmp_path, "export.benchmark=true")
    batch = batches(config)[0]
    anchors, logits, deltas = run(folder, {"image": batch["image"].numpy()})  # 4 x 3 places, 3 anchors each
    with paddle.no_grad():
        raw = model.raw(batch["image"])
    assert anchors.shape == (36, 4) and logits.shape == (1, 36, 2)
    np.testing.assert_allclose(logits, raw.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(deltas, raw.deltas.numpy(), atol=1e-4)


@pytest.mark.parametrize("without_nms", ["export.nms=false", "exclude_nms=true"])
def test_without_nms_decoded_boxes_and_scores_come_out(without_nms, config, model, tmp_path):
    folder = export(config, model, tmp_path, without_nms, "export.fuse_conv_bn=true")
    batch = batches(config)[0]
    inputs = {key: batch[key].numpy() for key in ("image", "im_shape", "scale_factor")}
    boxes, scores = run(folder, inputs)
    with paddle.no_grad():
        expected = model.decode(model.raw(batch["image"]), batch["im_shape"], batch["scale_factor"])
    for image in range(len(boxes)):  # a graph for any size has the boxes by score, the model in the anchors' order
        own, other = (np.lexsort(s[image].T[:, ::-1].T) for s in (scores, expected[1].numpy()))
        np.testing.assert_allclose(boxes[image, own], expected[0].numpy()[image, other], atol=1e-3)
        np.testing.assert_allclose(scores[image][:, own], expected[1].numpy()[image][:, other], atol=1e-5)


def test_an_export_for_fastdeploy(config, model, tmp_path):
    """The files are in the output folder itself, beside those that were there; the manifest knows their names."""
    (tmp_path / "other.txt").write_text("stays")
    cfg = load_config(config, ["filename=renamed.yml", "exclude_nms=true"])
    export_for_fastdeploy(partial(export_model, model, cfg), str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    program = network_file(tmp_path, "paddle", "inference").name
    assert {"inference.pdiparams", "inference.yml", "manifest.json", "other.txt", program} <= set(names)
    assert [name for name in names if name.startswith((".", "model", "infer_", "renamed"))] == []
    assert open_model_folder(tmp_path, fastdeploy_names=True).checked
    assert json.loads((tmp_path / "manifest.json").read_text())["name"] == "renamed"


def test_folding_removes_every_batch_norm_and_changes_nothing(config, model):
    image = batches(config)[0]["image"]
    folded = fold_batch_norms(model, lambda network: network.raw(image))
    norms = [layer for layer in folded.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert not norms and any(isinstance(layer, nn.BatchNorm2D) for layer in model.sublayers())
    with paddle.no_grad():
        before, after = model.raw(image), folded.raw(image)
    np.testing.assert_allclose(after.logits.numpy(), before.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(after.deltas.numpy(), before.deltas.numpy(), atol=1e-4)


class SharedConvolution(nn.Layer):
    """One convolution with two norms, run for each or once for both; then one, without bias, with its own."""

    def __init__(self, once):
        super().__init__()
        self.once = once
        self.shared = nn.Conv2D(3, 3, 1)
        self.norms = nn.LayerList([nn.BatchNorm2D(3), nn.BatchNorm2D(3)])
        self.last = nn.Conv2D(3, 2, 1, bias_attr=False)
        self.last_norm = nn.BatchNorm2D(2)
        self.norms[1]._mean.set_value(paddle.ones([3]))
        self.last_norm._variance.set_value(paddle.full([2], 4.0))

    def forward(self, x):
        one = self.shared(x)
        other = one if self.once else self.shared(x)
        return self.last_norm(self.last(self.norms[0](one) + self.norms[1](other)))


@pytest.mark.parametrize("once", [True, False])
def test_a_convolution_with_several_norms_is_not_folded(once):
    network = SharedConvolution(once)
    network.eval()
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype("float32"))
    folded = fold_batch_norms(network, lambda layer: layer(x))
    assert isinstance(folded.norms[0], nn.BatchNorm2D) and isinstance(folded.last_norm, nn.Identity)
    np.testing.assert_allclose(folded(x).numpy(), network(x).numpy(), atol=1e-6)


def test_the_model_stays_as_it_was_and_a_failed_export_leaves_the_old_one(config, model, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "infer_cfg.yml").write_text("old")

    def disk_full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paddle.jit, "save", disk_full)
    model.train()
    with pytest.raises(UserError, match="cannot write the export to .*tiny: No space left on device"):
        export_model(model, load_config(config), tmp_path)
    assert model.training
    model.eval()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (folder / "infer_cfg.yml").read_text() == "old"


def test_wrong_configs_are_errors(config, model, tmp_path):
    mistakes = {
        "TestReader.sample_transforms=[]": "no TestReader with transforms",
        "TestReader.inputs_def={image_shape: [1, 64, 64]}": r"image_shape \[1, 64, 64\] is not \[3, height",
        "num_classes=3": "TestDataset.anno_path names 2 classes, but num_classes of the model is 3",
    }
    for override, message in mistakes.items():
        batch_transforms = "TestReader.batch_transforms=[]"
        with pytest.raises(UserError, match=message):
            export_model(model, load_config(config, [override, batch_transforms]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_without_a_name_in_deployment_is_refused(config, model, tmp_path, monkeypatch):
    monkeypatch.delitem(ARCHITECTURES, "YOLOF")
    with pytest.raises(UserError, match="cannot export architecture YOLOF; these can be: "):
        export_model(model, load_config(config), tmp_path)
