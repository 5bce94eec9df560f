"""Distillation: the losses, values recorded from PaddleDetection, training and resuming, and wrong settings."""

from __future__ import annotations

import json
from math import log

import cv2
import numpy as np
import paddle
import pytest
from small_detectors import small_config
from tiny_yolof import tiny_model, write_training_config

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.models import distilled, load_trained, with_teacher
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.train import train
from ppdet_repro.slim import distill_losses
from ppdet_repro.slim.distill_losses import CWDFeatureLoss, FGDFeatureLoss, attention, cells
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state, save_state

# (class, channels of the student, `normalize`) -> loss, and the sum of gradient * cos(map) over the student's map;
# recorded from PaddleDetection's ppdet/slim/distill_loss.py (2024-10) with Paddle 2.6.2 and the weights of `fill`
THEIRS = {
    ("CWD", 6, False): (1.079793095588684, -0.12909913063049316),
    ("FGD", 6, False): (0.0774434357881546, 0.010340593755245209),
    ("CWD", 6, True): (1.0700761079788208, -0.15824666619300842),
    ("FGD", 6, True): (0.07908283174037933, 0.0031907481607049704),
    ("CWD", 4, False): (1.0425068140029907, -0.013070648536086082),
    ("FGD", 4, False): (0.06667891144752502, 0.0041167545132339),
    ("CWD", 4, True): (1.5968551635742188, -0.05236641317605972),
    ("FGD", 4, True): (0.09356054663658142, -0.005816773045808077),
}
BOXES = [[[8.0, 3, 20, 30], [30, 10, 50, 39]], [], [[0, 0, 55, 12]]]


def fill(layer):
    """Give every parameter random values whose seed depends on its shape."""
    for parameter in layer.parameters():
        rng = np.random.default_rng(len(parameter.shape) * 100 + parameter.size)
        parameter.set_value(paddle.to_tensor(rng.uniform(-0.5, 0.5, parameter.shape).astype("float32")))


def batch_of(boxes=BOXES, size=(40, 56)):
    return {
        "gt_bbox": [paddle.to_tensor(np.array(one, np.float32).reshape(-1, 4)) for one in boxes],
        "image": paddle.zeros([len(boxes), 3, *size]),
    }


def maps(channels):
    """A map of the student, [3, channels, 5, 7], and one of the teacher, [3, 6, 5, 7]."""
    teacher = np.random.default_rng(0).normal(size=(3, 6, 5, 7)).astype("float32")
    student = np.random.default_rng(channels).normal(size=(3, channels, 5, 7)).astype("float32")
    return paddle.to_tensor(student, stop_gradient=False), paddle.to_tensor(teacher)


# Losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, channels, normalize", THEIRS)
def test_losses_and_gradients_are_those_of_paddledetection(name, channels, normalize):
    if name == "CWD":
        loss = CWDFeatureLoss(channels, 6, normalize, tau=2.0, weight=5.0)
    else:
        loss = FGDFeatureLoss(channels, 6, normalize, loss_weight=2.0)
    fill(loss)
    student, teacher = maps(channels)
    value = loss(student, teacher, batch_of())
    value.backward()
    along = (student.grad * student.cos()).sum().item()
    assert (value.item(), along) == pytest.approx(THEIRS[name, channels, normalize], rel=2e-5, abs=2e-7)


def test_the_divergence_of_two_distributions():
    teacher = paddle.to_tensor([0.0, log(3)]).reshape([1, 1, 1, 2])  # probabilities 1/4 and 3/4
    student = paddle.zeros([1, 1, 1, 2])  # 1/2 and 1/2
    expected = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    assert CWDFeatureLoss(1, 1)(student, teacher, {}).item() == pytest.approx(expected, abs=1e-5)
    assert CWDFeatureLoss(1, 1)(teacher + 7, teacher, {}).item() == pytest.approx(0, abs=1e-6)


def test_cells_that_lie_in_boxes():
    # An image of 40 x 60 on a map of 4 x 6: a cell has 10 pixels. The box covers columns 1 to 3 and rows 0 to 2 (ends
    # rounded outwards, both counted): 9 cells. The one inside it covers 2 x 2.
    boxes = paddle.to_tensor([[12.0, 0, 25, 20], [30, 10, 40, 20]])
    expected = np.zeros((4, 6))
    expected[0:3, 1:4] = 1 / 9
    expected[1:3, 3:5] = 1 / 4  # the smaller box counts more
    assert cells(boxes, [40, 60], (4, 6)).numpy() == pytest.approx(expected)


def test_attention_is_one_on_average():
    locations, channels = attention(maps(4)[0], 0.5)
    assert locations.shape == [3, 1, 5, 7] and locations.mean().item() == pytest.approx(1)
    assert channels.shape == [3, 4, 1, 1] and channels.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("boxes", [[[], [], []], [[[0.0, 0, 0, 0]]] * 3])
def test_without_boxes_the_loss_is_zero(boxes):
    student, teacher = maps(6)
    loss = FGDFeatureLoss(6, 6)(student, teacher, batch_of(boxes))
    loss.backward()
    assert loss.item() == 0 and not student.grad.numpy().any()


def test_an_image_without_boxes_does_not_change_the_loss():
    student, teacher = maps(6)
    loss = FGDFeatureLoss(6, 6)
    with_empty = loss(student, teacher, batch_of())
    chosen = paddle.to_tensor([0, 2])
    alone = loss(student.index_select(chosen), teacher.index_select(chosen), batch_of([BOXES[0], BOXES[2]]))
    assert with_empty.item() == pytest.approx(alone.item(), rel=1e-6)


BOX = [96, 32, 64, 128]  # x, y, width, height in an image of 256 x 256


def test_boxes_are_pixels_also_where_the_student_is_ppyolov2(tmp_path, monkeypatch):
    """The reader of PP-YOLOv2 pads boxes and adds relative ones; FGD needs pixels and ignores the padding."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((256, 256, 3), np.uint8))
    truth = {
        "images": [{"id": i, "file_name": f"{n}.png", "height": 256, "width": 256} for i, n in enumerate("ab")],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": BOX, "area": 64 * 128, "iscrowd": 0} for i in (0, 1)
        ],
        "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": "other"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    decode = "TrainReader.sample_transforms=[Decode: {}]"
    resize = "TrainReader.batch_transforms.0.BatchRandomResize.target_size=[256]"
    cfg = small_config("ppyolov2", tmp_path, decode, resize, "TrainReader.batch_size=2")
    batch = next(
        iter(build(cfg, "TrainReader").batches(build(cfg, "TrainDataset"), epoch=0, epochs_total=1, seed=0, workers=0))
    )
    student = build_model(cfg)
    marked = []

    def remember(*args):
        marked.append(cells(*args))
        return marked[-1]

    monkeypatch.setattr(distill_losses, "cells", remember)
    for feature, shape in zip(student.neck(student.backbone(batch["image"])), student.neck.out_shape):
        FGDFeatureLoss(shape.channels, shape.channels)(feature, feature * 2, batch)
    # Strides 32, 16 and 8. Columns 96 / 32 = 3 to 160 / 32 = 5 and rows 1 to 5, ends included: 3 x 5 = 15 cells.
    # Then 6 to 10 and 2 to 10: 5 x 9 = 45, and 12 to 20 and 4 to 20: 9 x 17 = 153. Two images each.
    counts = [int((one > 0).sum()) for one in marked]
    assert counts == [15, 15, 45, 45, 153, 153]
    assert [one.max().item() for one in marked[::2]] == pytest.approx([1 / 15, 1 / 45, 1 / 153])


# Training -----------------------------------------------------------------------------------------------------

TEACHER = """
_BASE_: [tiny.yml]
pretrain_weights: WEIGHTS
slim: Distill
slim_method: CWD
distill_loss: CWDFeatureLoss
distill_loss_name: ['neck_f_0']
CWDFeatureLoss: {student_channels: 256, teacher_channels: 256, tau: 1.0, weight: 5.0}
DilatedEncoder: {out_channels: [48]}
YOLOFHead: {conv_feat: {feat_in: 48, feat_out: 48}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `data`, tiny.yml (the student) and wide.yml (a teacher of more channels) with its weights."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_training_config(folder)
    config.write_text(config.read_text() + "use_ema: true\n")
    (folder / "wide.yml").write_text(TEACHER.replace("WEIGHTS", str(folder / "teacher.pdparams")))
    save_state(folder / "teacher.pdparams", weights_of(tiny_model(folder / "wide.yml")))
    return folder


SEVERAL = """
_BASE_: [wide.yml]
distill_loss: [FGDFeatureLoss, CWDFeatureLoss, DistillDenseLoss, PaddleSlimLoss]
distill_loss_name: null
DistillDenseLoss: {min_score: 0.0}
PaddleSlimLoss:
  configs:
  - loss_function: L1Loss
    weight: 0.1
    align_params: {align_type: 1x1conv+bn, in_channel: 32, out_channel: 48}
    layers:
    - layers_name: [neck.lateral_conv, neck.lateral_conv]
"""


def config(folder, *overrides, teacher="wide.yml"):
    return load_config(folder / "tiny.yml", overrides, folder / teacher)


@pytest.fixture(scope="module")
def trained(folder):
    """The folder of a training run of two epochs."""
    train(config(folder, f"save_dir={folder / 'output'}"), evaluate=False)
    return folder / "output" / "wide"


def test_the_slim_config_only_describes_the_teacher(folder):
    cfg = config(folder, "epoch=9")
    assert cfg.name == "wide" and cfg.run.epoch == 9 and cfg.run.slim is None
    assert cfg.teacher.run.distill_loss == "CWDFeatureLoss" and cfg.teacher.run.epoch == 2
    student = build_model(cfg)
    model = with_teacher(student, cfg.teacher)
    assert student.neck.out_shape[0].channels == 32 and model.teacher.neck.out_shape[0].channels == 48


def test_an_override_of_the_teacher(folder):
    cfg = config(folder, "teacher.CWDFeatureLoss.weight=7", "epoch=9", " teacher.pretrain_weights=other.pdparams")
    assert cfg.run.epoch == 9 and cfg.teacher.run.epoch == 2 and cfg.run.pretrain_weights is None
    assert cfg.teacher.run.pretrain_weights == "other.pdparams"
    assert build(cfg.teacher, "CWDFeatureLoss", student_channels=1, teacher_channels=1).weight == 7
    with pytest.raises(UserError, match="command line: unknown key 'teacher'"):
        load_config(folder / "tiny.yml", ["teacher.epoch=3"])


def test_the_teachers_config_must_be_the_slim_config(folder):
    with pytest.raises(UserError, match="wide.yml: slim: Distill makes this the teacher's config; give it as --slim"):
        train(load_config(folder / "wide.yml"))


def test_losses_of_a_batch(folder):
    cfg = config(folder)
    model = with_teacher(build_model(cfg), cfg.teacher)
    before = {name: value.numpy().copy() for name, value in model.teacher.state_dict().items()}
    model.train()
    image = paddle.rand([2, 3, 96, 96])
    batch = {
        "image": image,
        "im_shape": paddle.full([2, 2], 96.0),
        "scale_factor": paddle.ones([2, 2]),
        "gt_bbox": [paddle.to_tensor([[8.0, 8, 60, 60]])] * 2,
        "gt_class": [paddle.to_tensor([[1]], "int32")] * 2,
    }
    losses = model(batch)
    assert list(losses) == ["loss_cls", "loss_reg", "neck_f_0", "loss"]
    parts = sum(value.item() for name, value in losses.items() if name != "loss")
    assert losses["loss"].item() == pytest.approx(parts, rel=1e-5) and losses["neck_f_0"].item() > 0
    losses["neck_f_0"].backward()
    assert model.student.backbone.parameters()[0].grad is not None
    assert model.distillation["neck_f_0"].align.align.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    after = model.teacher.state_dict()
    assert not model.teacher.training and all(np.array_equal(after[name].numpy(), before[name]) for name in before)
    assert not any("teacher" in name for name in model.state_dict()) and len(model.parameters()) < 200
    model.eval()
    assert set(model(batch)) == {"bbox", "bbox_num"}


def test_the_final_weights_are_those_of_the_student(folder, trained):
    final = trained / "model_final.pdparams"
    model = load_trained(load_config(folder / "tiny.yml", [f"weights={final}"]))  # exact
    assert model.neck.out_shape[0].channels == 32
    assert not any("distill" in name or "student" in name for name in read_state(final))


def test_a_resumed_run_ends_with_the_same_weights(folder, trained):
    first = list_checkpoints(trained)[0]
    train(config(folder, f"save_dir={folder / 'again'}"), resume=str(first), evaluate=False)
    whole, resumed = (
        [read_state(run / file) for file in ("model_final.pdparams", "checkpoints/epoch_0002/raw.pdparams")]
        for run in (trained, folder / "again" / "wide")
    )
    for one, other in zip(whole, resumed):
        assert sorted(one) == sorted(other) and all(np.array_equal(one[name], other[name]) for name in one)
    learned = next(name for name in whole[1] if name.endswith("align.weight"))
    early = read_state(first / "raw.pdparams")
    assert not np.array_equal(whole[1][learned], early[learned])  # the convolution that adapts channels is trained, too


def test_several_losses_are_logged_apart_and_resumed_exactly(folder):
    (folder / "several.yml").write_text(SEVERAL)
    for name, resume in (("one", None), ("two", folder / "one/several/checkpoints/epoch_0001")):
        cfg = config(folder, f"save_dir={folder / name}", "log_iter=1", teacher="several.yml")
        train(cfg, resume=resume and str(resume), evaluate=False)
    names = "FGDFeatureLoss_neck_f_0", "CWDFeatureLoss_neck_f_0", "distill_cls", "distill_box", "distill_L1Loss"
    lines = [json.loads(line) for line in (folder / "one/several/log.jsonl").read_text().splitlines()]
    assert all(name in json.dumps(lines[0]) for name in names)
    runs = [read_state(folder / name / "several/checkpoints/epoch_0002/raw.pdparams") for name in ("one", "two")]
    assert sorted(runs[0]) == sorted(runs[1])
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    aligned = "distillation.PaddleSlimLoss.losses.distill_L1Loss.distill_loss.loss_func.0.align_func.align_op"
    assert f"{aligned}.0.weight" in runs[0] and f"{aligned}.1._mean" in runs[0]
    assert not any("distill" in name for name in read_state(folder / "one/several/model_final.pdparams"))


PRUNED = """
_BASE_: [wide.yml]
slim: DistillPrune
pruner: Pruner
Pruner: {criterion: l1_norm, pruned_flops: 0.3}
"""


def test_a_pruned_student_with_a_teacher_that_is_not(folder):
    (folder / "pruned.yml").write_text(PRUNED)
    save_state(folder / "student.pdparams", weights_of(tiny_model(folder / "tiny.yml")))
    changes = f"save_dir={folder / 'narrow'}", f"pretrain_weights={folder / 'student.pdparams'}", "epoch=1"
    cfg = config(folder, *changes, "Pruner.pruned_flops=0.4", teacher="pruned.yml")
    assert cfg.run.slim == "Pruner" and build(cfg, "Pruner").pruned_flops == 0.4
    assert cfg.teacher.run.slim == "DistillPrune" and cfg.teacher.run.distill_loss == "CWDFeatureLoss"
    train(cfg, evaluate=False)
    before, after = (read_state(folder / name) for name in ("student.pdparams", "narrow/pruned/model_final.pdparams"))
    assert sorted(after) == sorted(before)
    assert sum(value.size for value in after.values()) < 0.8 * sum(value.size for value in before.values())


def test_feature_maps_of_a_teacher_of_another_architecture_and_stride(folder, tmp_path):
    """A PAFNet, whose map has the stride 4, teaches a YOLOF, whose map has the stride 32."""
    student = build_model(config(folder))
    teacher_cfg = small_config("pafnet", folder / "data", "distill_loss=FGDFeatureLoss")
    model = distilled(student, build_model(teacher_cfg), teacher_cfg)
    assert [list(pair) for pair in model.levels.values()] == [[0, 0]]
    assert model.teacher.neck.out_shape[0].stride == 4 and student.neck.out_shape[0].stride == 32
    model.train()
    truth = {"gt_bbox": [paddle.to_tensor([[8.0, 8, 60, 60]])] * 2, "gt_class": [paddle.to_tensor([[1]], "int32")] * 2}
    losses = model({"image": paddle.rand([2, 3, 96, 96]), **truth})
    losses["neck_f_0"].backward()
    assert losses["neck_f_0"].item() > 0 and student.backbone.parameters()[0].grad is not None


def test_without_an_average_the_checkpoint_also_holds_the_weights_of_the_losses(folder):
    cfg = config(folder, f"save_dir={folder / 'plain'}", "use_ema=false", "epoch=1")
    train(cfg, evaluate=False)
    (path,) = list_checkpoints(folder / "plain" / "wide")
    assert any("align" in name for name in read_state(path / "raw.pdparams"))
    assert not any("align" in name for name in read_state(path / "model.pdparams"))


# Wrong settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        ("distill_loss: null", "slim: Distill wants a distill_loss, and the teacher's weights"),
        ("pretrain_weights: null", "slim: Distill wants a distill_loss, and the teacher's weights"),
        ("distill_loss_name: [a, b]", "distill_loss_name has 2 different names, but there are 1 pairs of feature maps"),
        ("distill_loss: FocalLoss", "FocalLoss is not a distillation loss; take one of CWDFeatureLoss, F"),
        ("distill_loss: [CWDFeatureLoss, CWDFeatureLoss]", "distill_loss names a loss twice"),
        ("distill_loss: DistillDenseLoss", "distill_loss_name names feature maps, but no loss in distill_loss"),
        ("distill_loss: DistillYOLOv3Loss", "does not fit YOLOFHead; take DistillDenseLoss"),
        ("distill_loss: CWDFeaturesLoss", "no component 'CWDFeaturesLoss'; did you mean 'CWDFeatureLoss'"),
        ("ResNet: {depth: 18, dcn_v2_stages: [9]}", "dcn_v2_stages"),
        ("DilatedEncoder: {out_channels: [40]}\nYOLOFHead: {conv_feat: {feat_in: 40}}", "not this model's"),
    ],
)
def test_a_teacher_that_does_not_fit(folder, line, message):
    # A repeated key is an error, so the change is in a config that inherits from the teacher's.
    (folder / "other.yml").write_text(f"_BASE_: [wide.yml]\n{line}\n")
    with pytest.raises(UserError, match=message):
        cfg = config(folder, teacher="other.yml")
        with_teacher(build_model(cfg), cfg.teacher)
