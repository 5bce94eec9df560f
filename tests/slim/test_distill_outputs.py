"""Distillation between the outputs of heads: values by hand and recorded from PaddleDetection, and what fits what."""

from __future__ import annotations

from math import log
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paths import CONFIGS
from small_detectors import SMALL, small_config
from tiny_yolof import write_images

from ppdet_repro.core.config import build, build_model, load_config
from ppdet_repro.modeling.heads.ttf_head import TTFOutputs
from ppdet_repro.modeling.heads.yolov3_head import YOLOv3Outputs, split_iou, split_nothing
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.slim import distill_output_losses
from ppdet_repro.slim.distill import Distilled, LevelPair, level_pairs
from ppdet_repro.slim.distill_output_losses import DistillDenseLoss, DistillYOLOv3Loss, quality_focal_loss
from ppdet_repro.slim.distill_outputs import DenseOutputs, dense_outputs, ttf_outputs
from ppdet_repro.slim.distill_pass import Pass, resized, run
from ppdet_repro.utils.errors import UserError

NINE = [[side, side] for side in range(10, 100, 10)]
YOLO = ("ppyolo", "ppyolov2", "yolov3")
DENSE = sorted(name for name in SMALL if name not in YOLO)

# IoU channels of the student, of the teacher -> loss, and the sum of gradient * cos(map) over the student's maps;
# recorded from PaddleDetection's YOLOv3Loss and DistillYOLOv3Loss (2024-10) with Paddle 2.6.2
THEIRS = {
    (False, False): (5817.00634765625, 17.52703102551734),
    (True, False): (5915.916015625, 75.82359252561278),
    (False, True): (6108.98388671875, 31.57480128905857),
    (True, True): (6086.171875, -26.23141018170363),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"))


def first_batch(cfg):
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    return next(iter(build(cfg, "TrainReader").batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)))


# YOLOv3 ---------------------------------------------------------------------------------------------------


def yolo_pass(seed, aware, trained):
    """Random maps of two levels with three anchors and three classes."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 3 * (8 + aware), *size) for size in ((2, 3), (4, 6))]
    maps = [paddle.to_tensor(rng.normal(size=s).astype("float32"), stop_gradient=not trained) for s in shapes]
    head = SimpleNamespace(split=split_iou if aware else split_nothing, anchors=[[0, 0, 0]] * 2)
    return Pass(SimpleNamespace(head=head), [], YOLOv3Outputs(maps), {})


@pytest.mark.parametrize("student_aware, teacher_aware", THEIRS)
def test_the_loss_of_yolov3_is_paddledetections(student_aware, teacher_aware):
    student, teacher = yolo_pass(1, student_aware, True), yolo_pass(2, teacher_aware, False)
    losses = DistillYOLOv3Loss()(student, teacher)
    total = sum(losses.values())
    total.backward()
    maps = [(m.numpy().astype("float64"), m.grad.numpy()) for m in student.raw.maps]
    along = sum((gradient * np.cos(values)).sum() for values, gradient in maps)
    assert list(losses) == ["distill_reg", "distill_obj", "distill_cls"]
    assert total.item() == pytest.approx(THEIRS[student_aware, teacher_aware][0], rel=1e-6)
    assert along == pytest.approx(THEIRS[student_aware, teacher_aware][1], abs=2e-4)


def test_the_loss_of_yolov3_by_hand():
    # The teacher's logits are 0, so its sigmoids are 1/2; the student's too, but its objectness is s(ln 3) = 3/4.
    # x and y: 2 ln 2, weighted by the teacher's objectness 1/2. Its logit of 0 is no object: -ln(1 - 3/4) = 2 ln 2.
    # Classes: ln 2, weighted by 1/2.
    head = SimpleNamespace(split=split_nothing, anchors=[[0]])
    maps = paddle.to_tensor([0, 0, 0, 0, log(3), 0, 0]).reshape([1, 7, 1, 1]), paddle.zeros([1, 7, 1, 1])
    student, teacher = (Pass(SimpleNamespace(head=head), [], YOLOv3Outputs([m]), {}) for m in maps)
    losses = DistillYOLOv3Loss(weight=10)(student, teacher)
    expected = {"distill_reg": 10 * log(2), "distill_obj": 20 * log(2), "distill_cls": 5 * log(2)}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)


# Dense outputs --------------------------------------------------------------------------------------------


def test_the_quality_focal_loss_by_hand():
    logits, targets = paddle.to_tensor([0.0, 0.0, log(4)]), paddle.to_tensor([0.8, 0.5, 0.8])
    # |1/2 - 0.8|^2 ln 2; at equal probabilities 0, although the cross entropy is not: s(ln 4) = 0.8
    assert quality_focal_loss(logits, targets, 2.0).numpy() == pytest.approx([0.09 * log(2), 0, 0], abs=1e-6)


def test_the_dense_loss_by_hand(monkeypatch):
    """Two locations, two classes. The second box of the teacher is too uncertain to count."""
    student = DenseOutputs(paddle.zeros([1, 2, 2]), paddle.to_tensor([[[0.0, 0, 2, 2], [0, 0, 1, 1]]]))
    probabilities = paddle.to_tensor([[[0.8, 0.2], [0.05, 0.05]]])
    teacher = DenseOutputs(
        (probabilities / (1 - probabilities)).log(), paddle.to_tensor([[[0.0, 0, 2, 4], [5, 5, 6, 6]]])
    )
    monkeypatch.setattr(distill_output_losses, "dense_outputs", lambda head, raw, size=None: raw)
    seen = [Pass(SimpleNamespace(head=None), [], outputs, {}) for outputs in (student, teacher)]
    losses = DistillDenseLoss(cls_weight=3.0, box_weight=7.0)(*seen)
    # Differences to 1/2: 0.3, 0.3, 0.45, 0.45; the cross entropy of 1/2 is ln 2. The sum of weights, 0.8, counts as 1.
    classes = (2 * 0.3**2 + 2 * 0.45**2) * log(2)
    boxes = 0.8 * (1 - 4 / 8)  # the student's box is the upper half of the teacher's
    assert losses["distill_cls"].item() == pytest.approx(3 * classes, rel=1e-5)
    assert losses["distill_box"].item() == pytest.approx(7 * boxes, rel=1e-5)


@pytest.mark.parametrize("name", DENSE)
def test_the_best_box_is_the_decoders_best(name, data):
    cfg = small_config(name, data)
    paddle.seed(1)
    model = build_model(cfg)
    model.eval()
    raw = model.raw(first_batch(cfg)["image"][:1])
    raw = paddle.utils.map_structure(lambda t: (t + paddle.randn(t.shape)).abs(), raw)  # a new head's logits are level
    logits, boxes = dense_outputs(model.head, raw)
    decoded, scores = model.decode(raw, paddle.full([1, 2], 64.0), paddle.ones([1, 2]))
    row = int(logits.max(axis=-1).argmax())
    best = int(scores.max(axis=1).argmax())
    assert paddle.nn.functional.sigmoid(logits.max()).item() == pytest.approx(scores.max().item(), rel=1e-5)
    inside = boxes[0, row].clip(0, 64).numpy()
    assert inside == pytest.approx(decoded[0, best].clip(0, 64).numpy(), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_batch_costs_one_pass_of_each_and_equal_networks_agree(name, data):
    cfg = small_config(name, data)
    student, teacher = build_model(cfg), build_model(cfg)
    loss = DistillYOLOv3Loss() if name in YOLO else DistillDenseLoss(min_score=0.0)
    loss.connect(student, teacher)
    model = Distilled(student, teacher, {}, {}, {"loss": loss})
    model.train()
    passes = []
    for detector in (student, teacher):
        detector.head.register_forward_post_hook(lambda layer, inputs, output: passes.append(layer))
    batch = first_batch(cfg)
    losses = model(batch)
    assert passes == [student.head, teacher.head]
    total = sum(value.item() for key, value in losses.items() if key != "loss")
    assert losses["loss"].item() == pytest.approx(total, rel=1e-5)
    sum(value for key, value in losses.items() if key.startswith("distill")).backward()
    assert all(p.grad is None for p in teacher.parameters())
    touched = [p for p in student.head.parameters() if p.grad is not None and p.grad.abs().sum().item() > 0]
    assert touched and np.isfinite([p.grad.abs().sum().item() for p in touched]).all()
    if name not in YOLO:
        student.eval()
        teacher.set_state_dict(student.state_dict())
        same = loss(run(student, batch["image"]), run(teacher, batch["image"]))
        assert same["distill_cls"].item() == pytest.approx(0, abs=1e-6)


def test_two_branches_and_detectors_that_differ_in_their_losses_alone():
    small = ["pretrain_weights=null", "ResNet.depth=18", "ResNet.width_mult=0.5", "num_classes=3"]
    names = "table5_ab_fsaf_r50_1x_coco", "fsaf_r50_1x_coco", "sapd_r50_1x_coco"
    both, fsaf, sapd = (build_model(load_config(CONFIGS / "sapd" / f"{name}.yml", small)) for name in names)
    DistillDenseLoss().connect(fsaf, sapd)
    image = paddle.rand([1, 3, 64, 64])
    cells = 64 + 16 + 4 + 1 + 1  # of strides 8 to 128; AB+FSAF has 9 anchors and a point in each
    assert dense_outputs(fsaf.head, fsaf.raw(image)).logits.shape == [1, cells, 3]
    assert dense_outputs(both.head, both.raw(image)).boxes.shape == [1, 10 * cells, 4]
    seen = run(both, image)
    DistillDenseLoss().connect(both, both)
    assert list(DistillDenseLoss()(seen, seen)) == ["distill_cls", "distill_box"]


def test_a_heat_map_of_another_stride():
    logits = paddle.arange(16, dtype="float32").reshape([1, 1, 4, 4])
    distances = paddle.ones([1, 4, 4, 4])
    finer = ttf_outputs(SimpleNamespace(down_ratio=2), TTFOutputs(logits, distances), [2, 2])
    assert finer.logits.flatten().tolist() == [5, 7, 13, 15]  # the maxima of 2 x 2 cells
    # A cell of stride 4 is at the place of the teacher's cells 0 and 2, 0 and 4 pixels from the side; one pixel around.
    assert finer.boxes[0].tolist() == [[-1, -1, 1, 1], [3, -1, 5, 1], [-1, 3, 1, 5], [3, 3, 5, 5]]
    coarser = ttf_outputs(
        SimpleNamespace(down_ratio=8), TTFOutputs(logits[:, :, :1, :2], distances[:, :, :1, :2]), [2, 4]
    )
    assert coarser.logits.shape == [1, 8, 1] and coarser.logits[0, 0].item() == 0
    assert coarser.boxes[0, :4].tolist() == [[-1, -1, 1, 1]] * 2 + [[7, -1, 9, 1]] * 2


# What fits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "student, teacher, changes, message",
    [
        ("yolof", "yolof", ["num_classes=3"], "the classes of the student and the teacher differ: 2 and 3"),
        ("yolof", "yolof", ["YOLOFHead.anchor_generator.anchor_sizes=[[8,16,32,64,99]]"], "the anchors of .* differ"),
        ("yolof", "sapd", [], "the strides of the student and the teacher differ"),
        ("yolof", "ppyolov2", [], "the strides of the student and the teacher differ"),
        ("ppyolov2", "yolof", [], "DistillDenseLoss does not fit YOLOv3Head; take DistillYOLOv3Loss"),
    ],
)
def test_outputs_that_do_not_fit(student, teacher, changes, message, data):
    own, theirs = build_model(small_config(student, data)), build_model(small_config(teacher, data, *changes))
    with pytest.raises(UserError, match=message):
        DistillDenseLoss().connect(own, theirs)


def test_yolov3s_loss_wants_yolov3_heads_of_the_same_anchors(data):
    own, theirs = build_model(small_config("ppyolov2", data)), build_model(small_config("ppyolo", data))
    with pytest.raises(UserError, match="the (strides|anchors) of the student and the teacher differ"):
        DistillYOLOv3Loss().connect(own, build_model(small_config("ppyolov2", data, f"anchors={NINE}")))
    with pytest.raises(UserError, match="DistillYOLOv3Loss does not fit YOLOFHead; take DistillDenseLoss"):
        DistillYOLOv3Loss().connect(theirs, build_model(small_config("yolof", data)))


# Feature maps of different strides -----------------------------------------------------------------------


def test_levels_are_paired_by_their_strides():
    def levels(*strides):
        return [ShapeSpec(8, stride) for stride in strides]

    assert level_pairs(levels(8, 16, 32), levels(32, 16, 8)) == [LevelPair(0, 2), LevelPair(1, 1), LevelPair(2, 0)]
    assert level_pairs(levels(8, 16, 32), levels(4, 16)) == [LevelPair(1, 1)]
    assert level_pairs(levels(8), levels(32)) == [LevelPair(0, 0)]
    assert level_pairs(levels(8, 16), levels(32, 64)) == [LevelPair(1, 0)]  # 16 and 32 are closest


def test_a_map_of_another_size():
    fine = paddle.arange(16, dtype="float32").reshape([1, 1, 4, 4])
    assert resized(fine, [4, 4]) is fine
    assert resized(fine, [2, 2]).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]  # means of 2 x 2 cells
    coarse = paddle.to_tensor([[[[0.0, 4.0]]]])
    assert resized(coarse, [1, 4]).flatten().tolist() == [0, 1, 3, 4]  # between the centers of the cells
