"""SAPD: the recorded cases (targets, weights, levels, losses, gradients), and properties of its parts.

The fixtures hold three cases of a loop-based float64 reference of the paper's equations: two images each, five levels
(24x32 to 2x2 cells), four classes, in four modes: FSAF, the first half of SAPD's training, the second, and that of its
BiFPN variant.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from parity_weights import FIXTURES
from paths import ROOT

from ppdet_repro import build_model, load_config
from ppdet_repro.engine.analysis.counting import RUNNING_STATISTICS, count_parameters
from ppdet_repro.engine.analysis.show_assignment import bar_panel
from ppdet_repro.engine.export.export_model import save_network
from ppdet_repro.engine.export.wrappers import FinalBoxes
from ppdet_repro.modeling.anchor_points import make_grid, make_points, rows
from ppdet_repro.modeling.assigners.anchor_point_assigner import (
    Objects,
    choose_levels,
    ranks,
    smallest_owner,
    valid_points,
)
from ppdet_repro.modeling.assignment_drawing import LevelBars
from ppdet_repro.modeling.backbones.resnet import ResNet
from ppdet_repro.modeling.boxes import centerness, distances_from_xyxy, iou_of_distances, xyxy_from_distances
from ppdet_repro.modeling.heads.sapd_head import SAPDFeat, SAPDOutputs
from ppdet_repro.modeling.level_selection import LevelShares, OneLevel, SoftLevels, crop
from ppdet_repro.modeling.losses.anchor_point_loss import AnchorPointLoss, PointPredictions, box_loss, positive_weights
from ppdet_repro.modeling.losses.focal import FocalLoss
from ppdet_repro.modeling.necks.bfp import BFP, shrink_last
from ppdet_repro.modeling.necks.fpn import FPN
from ppdet_repro.utils.errors import UserError

CONFIGS = ROOT / "configs" / "sapd"
STRIDES = [8, 16, 32, 64, 128]
ALL_BOXES = slice(None)
MODES = {"fsaf": (0.0, 1, False), "warmup": (1.0, 1, False), "soft": (1.0, 3, True), "bifpn": (0.5, 3, True)}
LAMBDA = 0.1


class Case:
    """One recorded case in one mode: predictions with gradients, and the targets and losses computed from them."""

    def __init__(self, name, mode, boxes_kept=ALL_BOXES):
        eta, top_k, soft = MODES[mode]
        with np.load(FIXTURES / f"sapd_{name}.npz") as arrays:
            self.recorded = {key: arrays[key] for key in arrays.files}
        self.mode = mode
        self.maps = [
            [paddle.to_tensor(self.recorded[f"{kind}{level}"], stop_gradient=False) for level in range(5)]
            for kind in ("cls", "reg")
        ]
        logits, distances = (paddle.concat([rows(level) for level in maps], axis=1) for maps in self.maps)
        self.predictions = PointPredictions(logits, distances, make_points(self.maps[0], STRIDES, 4.0))
        self.selection, self.objects = [], []
        for image in range(2):
            boxes, labels, logits = (self.recorded[f"{key}_b{image}"][boxes_kept] for key in ("boxes", "labels", "sel"))
            self.selection.append(paddle.to_tensor(logits, stop_gradient=False))
            shares = paddle.nn.functional.softmax(self.selection[-1]).detach() if soft else paddle.ones(logits.shape)
            self.objects.append(Objects(paddle.to_tensor(boxes), paddle.to_tensor(labels.astype("int64")), shares))
        self.loss = AnchorPointLoss(FocalLoss(), eta, 0.2)
        self.targets = self.loss.targets(self.predictions, self.objects, top_k)
        self.losses = self.losses_of(self.objects, self.targets)

    def losses_of(self, objects, targets):
        normalizer = positive_weights(targets).sum().clip(min=1.0)
        return self.loss.losses(self.predictions, objects, targets, normalizer)

    def expected(self, key):
        return self.recorded[f"{self.mode}.{key}"]

    def levels(self, key):
        """The recorded maps [B, (C,) H, W], one per level, as [B, N(, C)]."""
        maps = [self.expected(f"{key}{level}") for level in range(5)]
        return np.concatenate([np.moveaxis(m.reshape(2, -1, m.shape[-2] * m.shape[-1]), 1, 2) for m in maps], axis=1)


@pytest.fixture(scope="module", params=[(c, m) for c in ("s0", "s1", "s2") for m in MODES], ids="-".join)
def case(request):
    return Case(*request.param)


def close(actual, expected, rtol=1e-5, atol=1e-7):
    np.testing.assert_allclose(actual.numpy(), expected, rtol=rtol, atol=atol)


def test_recorded_levels(case):
    for image, target in enumerate(case.targets):
        close(target.levels.losses, case.expected(f"inst_loss_b{image}"))
        np.testing.assert_array_equal(target.levels.best.numpy(), case.expected(f"min_level_b{image}"))
        np.testing.assert_array_equal(target.levels.chosen.numpy(), case.expected(f"chosen_b{image}"))


def test_recorded_targets_and_weights(case):
    owners, labels, sides, weights = (case.levels(key) for key in ("owner", "label", "loc", "weight"))
    for image, (target, objects) in enumerate(zip(case.targets, case.objects)):
        owner = target.owners.numpy()
        np.testing.assert_array_equal(owner, owners[image, :, 0])
        classes = np.append(objects.classes.numpy(), -1)
        np.testing.assert_array_equal(classes[owner], labels[image, :, 0])
        close(target.distances, sides[image])
        close(target.weights, weights[image, :, 0])


def test_recorded_losses(case):
    assert float(case.losses["loss_cls"]) == pytest.approx(float(case.expected("cls")), rel=1e-5)
    assert float(case.losses["loss_reg"]) == pytest.approx(float(case.expected("loc")), rel=1e-5)


def test_recorded_selection(case):
    """The cross entropy of the levels, its gradient, and the sum of all losses."""
    soft = SoftLevels(STRIDES, net=paddle.nn.Identity(), loss_weight=LAMBDA)
    shares = LevelShares(3, [], [], paddle.concat(case.selection))
    best = [target.levels.best for target in case.targets]
    loss = soft.losses(shares, best)["loss_select"]
    assert float(loss) == pytest.approx(LAMBDA * float(case.expected("select")), rel=1e-5)
    total = case.losses["loss_cls"] + case.losses["loss_reg"] + loss
    assert float(total) == pytest.approx(float(case.expected("total")), rel=1e-5)
    gradients = paddle.grad(loss, case.selection)
    for image, gradient in enumerate(gradients):
        close(gradient, case.expected(f"grad_sel_b{image}"))


def test_recorded_gradients(case):
    (case.losses["loss_cls"] + case.losses["loss_reg"]).backward(retain_graph=True)
    for kind, maps in zip(("cls", "reg"), case.maps):
        for level, predicted in enumerate(maps):
            expected = case.expected(f"grad_{kind}{level}")
            close(predicted.grad, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert all(logits.grad is None for logits in case.selection)  # weights are constants


@pytest.mark.parametrize("name", ["s0", "s1", "s2"])
def test_a_case_without_boxes(name):
    """All points are background. Their focal loss is divided by 1, the minimum of the normalizer."""
    empty = Case(name, "soft", slice(0))
    probabilities = np.concatenate([1 / (1 + np.exp(-m.numpy().ravel())) for m in empty.maps[0]])
    background = (-0.75 * probabilities**2 * np.log(1 - probabilities)).sum()
    assert float(empty.losses["loss_cls"]) == pytest.approx(background, rel=1e-5)
    assert float(empty.losses["loss_reg"]) == 0
    (empty.losses["loss_cls"] + empty.losses["loss_reg"]).backward()
    assert all(np.isfinite(m.grad.numpy()).all() for maps in empty.maps for m in maps)
    assert [t.levels.best.shape for t in empty.targets] == [[0], [0]]


@pytest.mark.parametrize("name", ["s0", "s1", "s2"])
def test_a_case_whose_boxes_lie_between_the_points(name):
    """Points are at multiples of 4, so boxes from 9 to 11 contain none, and the losses are those without boxes."""
    small = Case(name, "soft")
    objects = []
    for image in small.objects:
        corners = 16 * np.arange(len(image.boxes))[:, None] + [9, 9, 11, 11]
        objects.append(image._replace(boxes=paddle.to_tensor(corners, "float32")))
    targets = small.loss.targets(small.predictions, objects, 3)
    assert all((t.levels.best == -1).all() and not t.levels.chosen.any() for t in targets)
    losses = small.losses_of(objects, targets)
    assert float(losses["loss_cls"]) == float(Case(name, "soft", slice(0)).losses["loss_cls"])
    assert float(losses["loss_reg"]) == 0


def test_padded_and_permuted_boxes():
    """Boxes without area change nothing. The order of the boxes changes only the indices of the owners."""
    case = Case("s0", "soft")
    objects = case.objects[1]
    order = paddle.to_tensor([3, 0, 4, 2, 1])
    padded = [paddle.concat([t.gather(order), paddle.zeros([2, *t.shape[1:]], t.dtype)]) for t in objects]
    (target,) = case.loss.targets(
        PointPredictions(case.predictions.logits[1:], case.predictions.distances[1:], case.predictions.points),
        [Objects(*padded)],
        3,
    )
    permuted = np.append(order.numpy(), -1)[target.owners.numpy()]
    np.testing.assert_array_equal(permuted, case.targets[1].owners.numpy())
    close(target.weights, case.targets[1].weights.numpy())
    assert target.levels.best[5:].tolist() == [-1, -1]


def mask(boxes, stride=8, size=(4, 6), epsilon=0.2):
    """Valid points of boxes on one level, as sets of (column, row)."""
    grid = make_grid(paddle.zeros([1, 1, *size]), stride)
    valid = valid_points(paddle.to_tensor(boxes, "float32"), grid, epsilon).reshape([-1, *size])
    return [{(int(x), int(y)) for y, x in np.argwhere(v)} for v in valid.numpy()]


def test_valid_points_by_hand():
    # Points at 4, 12, 20, 28, 36, 44 across and 4, 12, 20, 28 down.
    # Center (20, 12), 80 x 40: the valid box is 16 x 8, x 12..28 with its border, y 8..16.
    assert mask([[-20, -8, 60, 32]]) == [{(1, 1), (2, 1), (3, 1)}]
    # Center (17, 13), 20 x 20, valid 15..19 x 11..15: no column, though a row; the nearest point (20, 12) is inside.
    assert mask([[7, 3, 27, 23]]) == [{(2, 1)}]
    # Center (24, 16), 10 x 10: four points are equally near, the first is (20, 12).
    assert mask([[19, 11, 29, 21]]) == [{(2, 1)}]
    # 6 x 6 around (24, 16): the nearest point (20, 12) lies outside 21..27 x 13..19.
    assert mask([[21, 13, 27, 19]]) == [set()]
    # No area: the side through the points (4, 12) holds them, yet there is no box.
    assert mask([[4, 4, 4, 20], [0, 0, 0, 0]]) == [set(), set()]
    # Beyond the map: the nearest point is its last, and not inside.
    assert mask([[60, 40, 80, 60]]) == [set()]


def test_distances_by_hand():
    # Stride 8, unit 32: the point (20, 12) in the box (4, 4, 36, 28).
    point, box, unit = (paddle.to_tensor(v, "float32") for v in ([20, 12], [4, 4, 36, 28], [32]))
    distances = distances_from_xyxy(point, box) / unit
    assert distances.tolist() == [0.5, 0.25, 0.5, 0.5]
    assert xyxy_from_distances(point, distances * unit).tolist() == [4, 4, 36, 28]
    # min / max: (0.5 / 0.5) * (0.25 / 0.5) = 0.5
    assert [float(centerness(distances, eta)) for eta in (0.0, 1.0, 2.0)] == [1.0, 0.5, 0.25]


def test_box_loss_by_hand():
    # Boxes of 2 x 2 and 2 x 1 units (half covered): IoU 1/2. Predicted without extent: the floor, without gradient.
    predicted = paddle.to_tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]], stop_gradient=False)
    target = paddle.to_tensor([[1.0, 0, 1, 1], [1, 1, 1, 1]])
    assert iou_of_distances(predicted, target).tolist() == [0.5, 0]
    loss = box_loss(predicted, target)
    np.testing.assert_allclose(loss.numpy(), [np.log(2), np.log(1e6)], rtol=1e-6)
    loss.sum().backward()
    assert np.isfinite(predicted.grad.numpy()).all()


def test_levels_by_hand():
    inf = float("inf")
    losses = paddle.to_tensor([[3.0, 1, 2, 1, 5], [inf, inf, 7, inf, 6], [inf] * 5])
    assert ranks(losses)[0].tolist() == [3, 0, 2, 1, 4]
    choice = choose_levels(losses, 3)
    assert choice.chosen.tolist() == [[False, True, True, True, False], [False, False, True, False, True], [False] * 5]
    assert choice.best.tolist() == [1, 4, -1]
    assert choose_levels(losses, 1).chosen.astype("int64").sum(axis=1).tolist() == [1, 1, 0]


def test_numbers_that_are_almost_equal_have_different_ranks():
    assert ranks(paddle.to_tensor([5e-9, 0.0, 1e-9])).tolist() == [2, 0, 1]


def test_the_smallest_object_owns_a_point():
    claims = paddle.to_tensor([[True, True, False, False], [True, True, True, False], [False, True, False, False]])
    assert smallest_owner(claims, paddle.to_tensor([4.0, 9.0, 4.0])).tolist() == [0, 0, 1, -1]


TINY = [
    "ResNet.width_mult=0.25",
    "FPN.out_channel=16",
    "SAPDHead.conv_feat.feat_out=16",
    "SAPDHead.conv_feat.num_convs=1",
    "num_classes=3",
]


def tiny(*overrides, config="sapd_r18vd_256_synthetic.yml"):
    """A small detector, and two images of 96 x 64 pixels with three objects."""
    paddle.seed(0)
    model = build_model(load_config(CONFIGS / config, [*TINY, *overrides]))
    return model, training_batch()


def training_batch(progress=0.75):
    rng = np.random.default_rng(0)
    return {
        "image": paddle.to_tensor(rng.standard_normal((2, 3, 64, 96)), "float32"),
        "im_shape": paddle.to_tensor([[64, 96], [60, 90]], "float32"),
        "scale_factor": paddle.to_tensor([[1, 1], [0.5, 0.5]], "float32"),
        "gt_bbox": [
            paddle.to_tensor([[8, 8, 60, 50], [30, 20, 52, 44]], "float32"),
            paddle.to_tensor([[10, 4, 80, 58]], "float32"),
        ],
        "gt_class": [paddle.to_tensor([[0], [2]], "int32"), paddle.to_tensor([[1]], "int32")],
        "progress": paddle.to_tensor([progress], "float32"),
    }


@pytest.fixture(scope="module")
def soft():
    return tiny()


def test_every_parameter_learns_the_selection_network_too(soft):
    model, batch = soft
    model.train()
    losses = model(batch)
    assert set(losses) == {"loss", "loss_cls", "loss_reg", "loss_select"}
    assert float(losses["loss"]) == pytest.approx(sum(float(v) for k, v in losses.items() if k != "loss"))
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name
    assert float(model.head.levels.net.fc.weight.grad.abs().sum()) > 0
    model.clear_gradients()


def test_the_selection_network_learns_from_its_cross_entropy_alone(soft):
    """The cross entropy also trains the pyramid. The losses of the points do not reach the selection network."""
    model, batch = soft
    losses = model.head.losses(model.raw(batch["image"]), batch)
    (losses["loss_cls"] + losses["loss_reg"]).backward(retain_graph=True)
    assert all(p.grad is None or float(p.grad.abs().sum()) == 0 for p in model.head.levels.parameters())
    model.clear_gradients()
    losses["loss_select"].backward()
    assert float(model.neck.fpn_res3_sum.weight.grad.abs().sum()) > 0
    assert float(model.head.cls_score.weight.grad.abs().sum()) == 0
    model.clear_gradients()


def test_levels_are_soft_from_half_of_the_training_on(soft):
    model, batch = soft
    pyramid = model.raw(batch["image"]).pyramid
    early, late = (model.head.levels(pyramid, batch["gt_bbox"], paddle.to_tensor([p])) for p in (0.499, 0.5))
    assert early.top_k == 1 and all((w == 1).all() for w in early.weights) and early.logits is not None
    assert late.top_k == 3 and [w.shape for w in late.weights] == [[2, 5], [1, 5]]
    np.testing.assert_allclose(paddle.concat(late.weights).sum(axis=1).numpy(), 1, rtol=1e-5)
    np.testing.assert_array_equal(late.predicted[0].numpy(), early.predicted[0].numpy())
    assert all(w.stop_gradient for w in late.weights)


def test_an_image_without_objects_keeps_its_place(soft):
    model, batch = soft
    pyramid = model.raw(batch["image"]).pyramid
    boxes = [paddle.zeros([0, 4]), batch["gt_bbox"][0]]
    shares = model.head.levels(pyramid, boxes, paddle.ones([1]))
    assert [w.shape for w in shares.weights] == [[0, 5], [2, 5]]
    alone = model.head.levels([level[1:] for level in pyramid], boxes[1:], paddle.ones([1]))
    np.testing.assert_allclose(shares.weights[1].numpy(), alone.weights[0].numpy(), rtol=1e-5)


def test_a_batch_without_objects_has_a_finite_loss_with_gradients(soft):
    model, batch = soft
    batch = {**batch, "gt_bbox": [paddle.zeros([2, 4])] * 2, "gt_class": [paddle.zeros([2, 1], "int32")] * 2}
    losses = model.head.losses(model.raw(batch["image"]), batch)
    assert float(losses["loss_reg"]) == float(losses["loss_select"]) == 0
    losses["loss"].backward()
    assert np.isfinite(model.head.cls_score.weight.grad.numpy()).all()
    assert all(p.grad is None or float(p.grad.abs().sum()) == 0 for p in model.head.levels.parameters())
    model.clear_gradients()


def test_fsaf_is_sapd_without_its_three_parts():
    model, batch = tiny(config="fsaf_r18vd_256_synthetic.yml")
    assert isinstance(model.head.levels, OneLevel) and not model.head.levels.parameters()
    model.train()
    losses = model(batch)
    assert set(losses) == {"loss", "loss_cls", "loss_reg"}
    targets = model.head.assign(model.raw(batch["image"]), batch)[2]
    assert all((t.weights == 1).all() for t in targets)
    assert [t.levels.chosen.astype("int64").sum(axis=1).tolist() for t in targets] == [[1, 1], [1]]


def test_crops_show_the_same_place_of_every_level():
    """If a map contains the x and y of its cells' centers, a crop contains the centers of the box's 7 x 7 parts."""
    pyramid = []
    for stride in (8, 16):
        grid = make_grid(paddle.zeros([1, 1, 128 // stride, 128 // stride]), stride)
        pyramid.append(grid.centers.T.reshape([1, 2, 128 // stride, 128 // stride]))
    crops = crop(pyramid, [paddle.to_tensor([[30.0, 40, 72, 96]])], [8, 16])
    across, down = 30 + 6 * (np.arange(7) + 0.5), 40 + 8 * (np.arange(7) + 0.5)
    assert crops.shape == [1, 4, 7, 7]
    for level in (0, 2):
        np.testing.assert_allclose(crops[0, level].numpy(), np.tile(across, (7, 1)), rtol=1e-5)
        np.testing.assert_allclose(crops[0, level + 1].numpy().T, np.tile(down, (7, 1)), rtol=1e-5)


def test_before_training_every_point_gives_the_prior_score_and_box():
    model, _ = tiny("SAPDHead.prior_prob=0.2", "SAPDHead.prior_distance=0.5")
    head = model.head
    for conv in (head.cls_score, head.distance_pred):
        conv.weight.set_value(paddle.zeros_like(conv.weight))
    raw = head([paddle.ones([1, model.neck.out_shape[0].channels, 1, 1])] * 5)
    np.testing.assert_allclose(paddle.nn.functional.sigmoid(raw.logits[0]).numpy(), 0.2, rtol=1e-5)
    boxes, _ = head.decode(raw, paddle.to_tensor([[512.0, 512.0]]), paddle.ones([1, 2]))
    # the points are (s/2, s/2), each side is half of 4 strides away, and the image ends at 0
    assert boxes[0].tolist() == [[0, 0, 2.5 * s, 2.5 * s] for s in (8, 16, 32, 64, 128)]


def test_decoding_by_hand(soft):
    """One point of P3 predicts a box. All others predict no extent and a score near 0."""
    head = soft[0].head
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    logits = [paddle.full([1, 3, *size], -20.0) for size in sizes]
    distances = [paddle.zeros([1, 4, *size]) for size in sizes]
    logits[0][0, 1, 2, 3] = 3.0  # point (8 * 3.5, 8 * 2.5) = (28, 20), unit 4 * 8 = 32
    distances[0][0, :, 2, 3] = paddle.to_tensor([0.5, 0.25, 1.0, 2.0])  # 16, 8, 32, 64 pixels
    raw = SAPDOutputs(logits, distances, [])
    boxes, scores = head.decode(raw, paddle.to_tensor([[64.0, 96.0]]), paddle.to_tensor([[0.5, 2.0]]))
    rows_found = head.suppress(boxes, scores).bbox
    assert rows_found.shape == [1, 6]
    # x 12..60, y 12..84, cut at 64; the image had been made half as high and twice as wide
    np.testing.assert_allclose(rows_found[0].numpy(), [1, 1 / (1 + np.exp(-3)), 6, 24, 30, 128], rtol=1e-5)


@pytest.mark.parametrize("neck", ["FPN", "BFP"])
def test_the_exported_model_is_the_eager_one_without_the_selection_network(tmp_path, neck):
    """The export has free sizes, and levels need not divide evenly: 96 x 160 has levels of 6 x 10 and 2 x 3."""
    model, _ = tiny(f"SAPD.neck={neck}")
    model.eval()
    model.head.cls_score.bias.set_value(paddle.full([3], -1.0))
    save_network(FinalBoxes(model), [None, 3, None, None], tmp_path / "model")
    exported = paddle.jit.load(str(tmp_path / "model"))
    own = count_parameters(model).total - count_parameters(model.head.levels).total
    assert count_parameters(model.head.levels).total > 0
    statistics = sum(v.size for k, v in model.state_dict().items() if k.endswith(RUNNING_STATISTICS))
    assert sum(p.size for p in exported.parameters()) == own + statistics
    rng = np.random.default_rng(1)
    for size in ([64, 96], [96, 160]):
        inputs = {
            "image": paddle.to_tensor(rng.standard_normal((1, 3, *size)), "float32"),
            "im_shape": paddle.to_tensor([size], "float32"),
            "scale_factor": paddle.ones([1, 2]),
        }
        with paddle.no_grad():
            expected = model(inputs)
            found, number = exported(inputs["im_shape"], inputs["image"], inputs["scale_factor"])
        assert int(number) == int(expected["bbox_num"]) > 0
        np.testing.assert_allclose(found.numpy(), expected["bbox"].numpy(), rtol=1e-4, atol=1e-4)


def test_pooling_by_windows_is_adaptive_max_pooling():
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 50)), "float32")
    for size in (50, 25, 13, 7, 1):
        expected = paddle.nn.functional.adaptive_max_pool2d(x, [4, size])
        np.testing.assert_array_equal(shrink_last(x, size).numpy(), expected.numpy())


def test_the_pyramid_beyond_the_backbone():
    """P6 from C5 or P5, P7 with or without a ReLU before it; or both by taking every second location."""
    feats = [paddle.randn([1, c, s, s]) for c, s in ((4, 16), (6, 8), (8, 4))]
    paper = FPN([4, 6, 8], 5, extra_stage=2, has_extra_convs=True, relu_before_extra_convs=False)
    levels = paper(feats)
    assert [tuple(spec) for spec in paper.out_shape] == [(5, s) for s in (8, 16, 32, 64, 128)]
    assert [level.shape[2] for level in levels] == [16, 8, 4, 2, 1]
    np.testing.assert_array_equal(levels[3].numpy(), paper.fpn_6(feats[2]).numpy())
    np.testing.assert_array_equal(levels[4].numpy(), paper.fpn_7(levels[3]).numpy())
    retina = FPN([4, 6, 8], 5, extra_stage=2, has_extra_convs=True, use_c5=False)
    levels = retina(feats)
    np.testing.assert_array_equal(levels[3].numpy(), retina.fpn_6(levels[2]).numpy())
    np.testing.assert_array_equal(levels[4].numpy(), retina.fpn_7(levels[3].clip(min=0)).numpy())
    pooled = FPN([4, 6, 8], 5)(feats)
    np.testing.assert_array_equal(pooled[3].numpy(), pooled[2][:, :, ::2, ::2].numpy())


def test_what_the_parts_refuse():
    with pytest.raises(UserError, match="top_k 6 .* 5"):
        SoftLevels(STRIDES, paddle.nn.Identity(), top_k=6)
    with pytest.raises(UserError, match="must be equal"):
        SAPDFeat([8, 16])
    with pytest.raises(UserError, match="norm_type 'ln'"):
        SAPDFeat([8, 8], norm_type="ln")
    with pytest.raises(UserError, match="has_extra_convs"):
        FPN([4, 6, 8], 5, extra_stage=2)
    with pytest.raises(UserError, match="refine_level 4 is not one of 4"):
        BFP(FPN([4, 6, 8], 5), refine_level=4)


def test_a_balanced_pyramid_adds_the_refined_mean_to_each_level():
    model, batch = tiny("SAPD.neck=BFP")
    feats = model.backbone(batch["image"])
    levels = model.neck.pyramid(feats)
    balanced = model.neck(feats)
    assert [b.shape for b in balanced] == [level.shape for level in levels]
    up = [paddle.nn.functional.interpolate(level, size=[4, 6], mode="nearest") for level in levels[1:]]
    mean = (paddle.nn.functional.max_pool2d(levels[0], 2) + sum(up)) / 5
    added = model.neck.refine(mean)
    np.testing.assert_allclose((balanced[1] - levels[1]).numpy(), added.numpy(), rtol=1e-3, atol=1e-5)
    finest = paddle.nn.functional.interpolate(added, scale_factor=2.0, mode="nearest")
    np.testing.assert_allclose((balanced[0] - levels[0]).numpy(), finest.numpy(), rtol=1e-3, atol=1e-5)


def test_what_is_drawn(soft):
    model, batch = soft
    with paddle.no_grad():
        first, second = model.head.assignment(model.raw(batch["image"]), batch)
    assert first.objects.shape == (2, 4) and first.bars[0].values.shape == (2, 5)
    assert [layer.name for layer in first.maps] == [f"weights on P{i}" for i in range(3, 8)]
    assert first.boxes[0].boxes.shape == (sum((layer.values > 0).sum() for layer in first.maps), 4)
    assert set(second.boxes[0].owners) == {0}
    np.testing.assert_allclose(second.bars[0].values.sum(), 1, rtol=1e-5)


def test_bars_are_filled_as_far_as_the_number_says():
    """One object at (60, 30). Its bars are 4 pixels high and 16 wide. The second level has a share of 0.75."""
    grey = np.full((120, 160, 3), 100, np.uint8)
    panel = bar_panel(grey, LevelBars("shares", np.array([[0.0, 0.75]])), np.array([[60.0, 30, 140, 110]]))
    first, second = (panel[28 + 30 + 4 * level + 2, 61:76] for level in (0, 1))  # 28 rows of caption
    assert (first == 255).all()
    assert (second[:11] == [220, 30, 30]).all() and (second[12:] == 255).all()


def test_deformable_stages_of_the_first_version_have_no_mask():
    """18 offsets for a 3 x 3 kernel, in every block of the stage. The number of groups does not change."""
    model = ResNet(50, groups=32, base_width=4, dcn_v1_stages=[3], num_stages=4, width_mult=0.25, freeze_at=-1)
    offsets = [k for k, v in model.state_dict().items() if k.endswith("conv_offset.weight") and v.shape[0] == 18]
    assert offsets == [f"res5.res5{block}.branch2b.conv_offset.weight" for block in "abc"]
    assert model.res5.res5a.branch2b.conv._groups == 32
    assert model(paddle.zeros([1, 3, 32, 32]))[-1].shape == [1, 512, 1, 1]
