"""One contract for every config: it builds, trains for a step, evaluates, and its export agrees with the evaluation.

Images are tiny, and weights follow a formula (with scores spread so that boxes are found). Every config is loaded and
checked. Each different reader, dataset and optimizer is built, and each different network (equal backbones once). A
network is also trained, evaluated and exported if it is the first with its combination of classes, or the first with
one of its parts. Parts that differ only in numbers (depths, anchors, thresholds, loss weights) count as equal.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from parity_weights import compare_detections, filled_state
from small_detectors import small_inputs
from tiny_yolof import write_images

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.core.config.plan import Plan, Setting
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.paddle_network import PaddleNetwork

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(
    path for path in ROOT.glob("*/*.yml") if path.parent.name != "datasets" and not path.parent.name.startswith("_")
)
CLASSES = 80
INPUTS = ("image", "im_shape", "scale_factor")  # of exported networks
# PaddleDetection's DarkNet with freeze_at 0 stops the gradient after its first stage; the parameters stay trainable
CUT_OFF = {"ttfnet/ttfnet_darknet53_1x_coco": ("backbone.conv0.", "backbone.downsample0.", "backbone.stage.0.")}
# With the formula's weights, the scores of these are below the published threshold; all boxes are compared instead
FAINT = ("yolof/table5c_no_shortcut_1_1_1_1_1x_coco", "yolof/yolof_x101_64x4d_c5_1x_coco")
FAINT_OVERRIDES = ["YOLOFHead.nms.score_threshold=0.001", "YOLOFHead.nms.keep_top_k=-1"]
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
SURROUNDINGS = (
    "TrainReader", "EvalReader", "TestReader", "TrainDataset", "EvalDataset", "TestDataset", "LearningRate",
    "OptimizerBuilder", "TrainPhases",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with a COCO dataset of small images, and a label list."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 4)
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    return folder


def shrunk(path, folder, *more):
    """The config with tiny inputs, two images per batch, and the tiny dataset."""
    overrides = ["use_gpu=false", "worker_num=0", f"num_classes={CLASSES}", *small_inputs(load_config(path))]
    overrides += ["TrainReader.batch_size=2", "EvalReader.batch_size=2", "TestReader.fuse_normalize=false"]
    for name in ("TrainDataset", "EvalDataset"):
        overrides += [f"{name}.name=COCODataSet", f"{name}.dataset_dir={folder}", f"{name}.image_dir=images"]
        overrides += [f"{name}.anno_path=truth.json", f"{name}.data_fields=[image,gt_bbox,gt_class,is_crowd,gt_poly]"]
    overrides += ["TestDataset.name=ImageFolder", f"TestDataset.anno_path={folder}/labels.txt"]
    overrides += FAINT_OVERRIDES if identify(path) in FAINT else []
    return load_config(path, [*overrides, *more])


def shallow(path):
    """The overrides with which a ResNet of 101 layers has 50, which are of the same kinds."""
    tree = TREES[path]
    (backbone, *_) = plans(tree[tree["architecture"].value].value.settings["backbone"].value)
    deep = backbone.component.name == "ResNet" and backbone.settings["depth"].value == 101
    return ["ResNet.depth=50"] if deep else []


def signature(value):
    """The values of a part of a resolved config, without the lines where they are written."""
    if isinstance(value, Setting):
        return signature(value.value)
    if isinstance(value, Plan):
        return value.component.name, signature(value.settings)
    if isinstance(value, dict):
        return tuple((key, signature(item)) for key, item in sorted(value.items()))
    return tuple(signature(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def kind(value):
    """The structure of a signature. Numbers (sizes, anchors, thresholds) and how many there are do not count."""
    if isinstance(value, tuple):
        kinds = [kind(item) for item in value]
        return tuple(item for i, item in enumerate(kinds) if item != "number" or kinds[i - 1 : i] != ["number"])
    return "number" if NUMBER.fullmatch(value) else value


def plans(value):
    """All components in the value of a setting, outer ones before inner ones."""
    found = [value] if isinstance(value, Plan) else []
    inner = value.settings if isinstance(value, Plan) else value
    items = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, (list, tuple)) else ()
    return sum((plans(item.value) for item in items), found)


def pieces(tree):
    """What a network consists of: the combination of its classes, and the kind of each part without its own parts."""
    parts = plans(tree[tree["architecture"].value].value)
    own = [{name: item for name, item in part.settings.items() if not item.has_parts()} for part in parts]
    return {tuple(part.component.name for part in parts)} | {
        (part.component.name, kind(signature(settings))) for part, settings in zip(parts, own)
    }


def network(tree):
    return {signature(tree[tree["architecture"].value])}


def surroundings(tree):
    return {signature({name: tree[name] for name in SURROUNDINGS if name in tree})}


TREES = {path: load_config(path).tree() for path in CONFIGS}


def firsts(content):
    """The first configs that together have everything that `content` finds in any config's tree."""
    seen, chosen = set(), []
    for path, tree in TREES.items():
        if content(tree) - seen:
            chosen.append(path)
            seen |= content(tree)
    return chosen


def identify(path):
    return f"{path.parent.name}/{path.stem}"


def one_batch(cfg, reader, dataset):
    source = build(cfg, dataset)
    source.load()
    return next(iter(build(cfg, reader).batches(source, epoch=0, epochs_total=1, seed=0, workers=0)))


@pytest.mark.parametrize("path", firsts(surroundings), ids=identify)
def test_every_config_builds_what_a_run_needs(path, images):
    cfg = shrunk(path, images)
    schedule = build(cfg, "LearningRate").schedule(10, 1.0)
    layer = paddle.nn.Linear(1, 1)
    build(cfg, "OptimizerBuilder").build(schedule, layer)
    assert 0 <= schedule.last_lr < 1
    batch = one_batch(cfg, "TrainReader", "TrainDataset")
    assert batch["image"].shape[:2] == [2, 3]
    assert one_batch(cfg, "EvalReader", "EvalDataset")["im_shape"].shape == [2, 2]


@pytest.fixture(scope="module")
def last_backbone():
    """The backbone that was built last, by its signature."""
    return {}


@pytest.mark.parametrize("path", firsts(network), ids=identify)
def test_every_network_builds(path, last_backbone):
    cfg = load_config(path)
    plan = TREES[path][cfg.run.architecture].value.settings["backbone"].value
    key = signature(plan)
    if key not in last_backbone:
        last_backbone.clear()
        last_backbone[key] = build(cfg, plan.component.name)
    model = build(cfg, cfg.run.architecture, backbone=last_backbone[key])
    assert any(not parameter.stop_gradient for parameter in model.parameters())


@pytest.mark.parametrize("path", firsts(pieces), ids=identify)
def test_every_kind_of_network_trains_evaluates_and_exports(path, images, tmp_path):
    cfg = shrunk(path, images, *shallow(path))
    model = build_model(cfg)
    weights = filled_state(model)
    model.set_state_dict(weights)

    model.train()
    losses = model(one_batch(cfg, "TrainReader", "TrainDataset"))
    for name, loss in losses.items():
        assert np.isfinite(float(loss)), name
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient and not name.startswith(CUT_OFF.get(identify(path), ("nothing",))):
            assert parameter.grad is not None, f"{name} has no gradient"
            assert np.isfinite(parameter.grad.numpy()).all(), f"the gradient of {name} is not finite"

    model.set_state_dict(weights)  # the running statistics have moved
    model.eval()
    batch = one_batch(cfg, "EvalReader", "EvalDataset")
    with paddle.no_grad():
        eager = model(batch)
    assert int(eager["bbox_num"].sum()) == len(eager["bbox"]) > 0

    folder = export_model(model, cfg, tmp_path)
    rows, counts = run_exported(folder, batch)
    difference = compare_detections(eager["bbox"].numpy(), eager["bbox_num"].numpy(), rows, counts, 1e-4, 0.01)
    assert difference.unmatched == 0, difference


def run_exported(folder, batch):
    network = PaddleNetwork(network_file(folder, "paddle"))
    outputs = []
    for i in range(len(batch["image"])):  # one at a time: exports with a fixed size take one image
        outputs.append(network.run({name: batch[name][i : i + 1].numpy() for name in INPUTS}))
    return np.concatenate([rows for rows, _ in outputs]), np.concatenate([count for _, count in outputs])
