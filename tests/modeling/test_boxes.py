"""Box arithmetic, by hand-computed numbers and properties."""

from __future__ import annotations

import ast
import math

import numpy as np
import paddle
import pytest
from paths import ROOT

from ppdet_repro.modeling import boxes as B
from ppdet_repro.modeling.anchors import AnchorGenerator
from ppdet_repro.utils.errors import UserError

MODULES = [path for path in (ROOT / "ppdet_repro" / "modeling").rglob("*.py") if path.name != "boxes.py"]


def tensor(values):
    return paddle.to_tensor(values, "float32")


def random_boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 80, (count, 2))
    return tensor(np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], 1))


def test_center_size_and_corners():
    assert B.cxcywh_from_xyxy(tensor([[10, 20, 30, 60]])).tolist() == [[20, 40, 20, 40]]
    assert B.xyxy_from_cxcywh(tensor([[20, 40, 20, 40]])).tolist() == [[10, 20, 30, 60]]
    boxes = random_boxes(50)
    np.testing.assert_allclose(B.xyxy_from_cxcywh(B.cxcywh_from_xyxy(boxes)), boxes, atol=1e-5)


def test_iou_by_hand():
    # 10x10 and 10x10 shifted by (5, 5): overlap 25, union 175; apart: 0; equal: 1; without area: 0
    a = tensor([[0, 0, 10, 10]])
    b = tensor([[5, 5, 15, 15], [20, 20, 30, 30], [0, 0, 10, 10], [5, 5, 5, 5]])
    np.testing.assert_allclose(B.pairwise_iou(a, b), [[25 / 175, 0, 1, 0]], rtol=1e-6)
    assert B.pairwise_iou(tensor([[5, 5, 5, 5]]), tensor([[5, 5, 5, 5]])).tolist() == [[0]]


def test_giou_by_hand():
    # shifted by (5, 5): 1/7 - (225 - 175) / 225; apart by a gap: 0 - (900 - 200) / 900
    a = tensor([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    b = tensor([[5, 5, 15, 15], [20, 20, 30, 30], [0, 0, 10, 10]])
    np.testing.assert_allclose(B.giou(a, b), [1 / 7 - 50 / 225, -700 / 900, 1], rtol=1e-6)


def test_diou_by_hand():
    # shifted by (5, 5): 1/7, less 50 / 450 (squared distance of the centers, and diagonal of the enclosing box)
    a, b = tensor([[0, 0, 10, 10]]), tensor([[5, 5, 15, 15]])
    assert float(B.diou(a, b)) == pytest.approx(1 / 7 - 1 / 9, rel=1e-6)
    assert float(B.diou(a, b, complete=True)) == pytest.approx(1 / 7 - 1 / 9, rel=1e-6)  # both are square
    # same center, 4 x 2 and 2 x 4: IoU 4 / 12; v = 4 / pi^2 (atan 2 - atan 1/2)^2, weight v / (1 - 1/3 + v)
    a, b = tensor([[0, 1, 4, 3]]), tensor([[1, 0, 3, 4]])
    assert float(B.diou(a, b)) == pytest.approx(1 / 3, rel=1e-6)
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    assert float(B.diou(a, b, complete=True)) == pytest.approx(1 / 3 - v * v / (2 / 3 + v), rel=1e-6)


def gradients(function, a, b):
    a, b = (paddle.to_tensor(value, "float32", stop_gradient=False) for value in (a, b))
    function(a, b).sum().backward()
    return a.grad.tolist(), b.grad.tolist()


def test_where_numbers_are_equal_the_second_one_gets_the_gradient():
    """As in Paddle 2; `paddle.maximum` and `paddle.minimum` of Paddle 3 halve it."""
    assert gradients(B.larger, [0, 1, 2], [1, 1, 1]) == ([0, 0, 1], [1, 1, 0])
    assert gradients(B.smaller, [0, 1, 2], [1, 1, 1]) == ([1, 0, 0], [0, 1, 1])


def test_gradients_where_sides_of_boxes_coincide():
    # b covers the left half of a: the overlap's three common sides and its right one are b's, its size is 5 x 10
    assert gradients(B.intersection, [0, 0, 10, 10], [0, 0, 5, 10]) == ([0, 0, 0, 0], [-10, -5, 10, 5])
    # they touch: the overlap is 0, without a gradient
    assert gradients(B.intersection, [0, 0, 10, 10], [10, 2, 20, 8]) == ([0] * 4, [0] * 4)
    # equal boxes, of area 100: only their areas have a gradient for a. d(o / (A + B - o)) / dA = -1 / 100,
    # and A's derivatives by x1, y1, x2, y2 are -10, -10, 10, 10
    (x1, y1, x2, y2), _ = gradients(B.iou, [0, 0, 10, 10], [0, 0, 10, 10])
    assert [x1, y1, x2, y2] == pytest.approx([0.1, 0.1, -0.1, -0.1])
    # GIoU adds union / enclosing area; the latter's gradient goes to b, too: -1/10 cancels
    assert gradients(B.giou, [0, 0, 10, 10], [0, 0, 10, 10])[0] == pytest.approx([0] * 4, abs=1e-6)
    # distances (1, 1, 1, 1) twice: the union's derivative by each is 2, the IoU's -2 / 4
    assert gradients(B.iou_of_distances, [[1] * 4], [[1] * 4])[0] == [pytest.approx([-0.5] * 4)]


def test_l1_distance_is_of_center_and_size():
    # centers (5, 5), (10, 10); sizes (10, 10), (8, 12): 5 + 5 + 2 + 2
    assert B.l1_distance(tensor([[0, 0, 10, 10]]), tensor([[6, 4, 14, 16]])).tolist() == [[14]]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_other_module_computes_with_the_corners_of_boxes(path):
    """Nowhere else are both the minima and the maxima of tensors taken (as an IoU does), or two parts of one tensor
    subtracted or compared (as in a width)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {"paddle.minimum", "paddle.maximum"} <= called
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            left, right = node.left, node.right
        elif isinstance(node, ast.Compare):
            left, right = node.left, node.comparators[0]
        else:
            continue
        if isinstance(left, ast.Subscript) and isinstance(right, ast.Subscript):
            assert ast.unparse(left.value) != ast.unparse(right.value), f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_padding_has_no_area():
    # 10 x 20; no width; corners in the wrong order; padding
    boxes = tensor([[0, 0, 10, 20], [5, 0, 5, 20], [10, 10, 0, 0], [0, 0, 0, 0]])
    assert B.has_area(boxes).tolist() == [True, False, False, False]


class TestDecodeDeltas:
    anchor = tensor([[0, 0, 64, 64]])  # center (32, 32), size 64

    def test_zero_is_the_anchor(self):
        assert B.decode_deltas(tensor([[0, 0, 0, 0]]), self.anchor).tolist() == [[0, 0, 64, 64]]

    def test_shift_and_scale(self):
        # center + (16, -16), size * (2, 1/2)
        decoded = B.decode_deltas(tensor([[0.25, -0.25, math.log(2), -math.log(2)]]), self.anchor)
        np.testing.assert_allclose(decoded, [[48 - 64, 16 - 16, 48 + 64, 16 + 16]], rtol=1e-6)

    def test_center_clip_limits_pixels_and_stops_the_gradient(self):
        deltas = tensor([[1.0, -1.0, 0.0, 0.0]])  # a shift of +-64 px, clipped to +-32
        deltas.stop_gradient = False
        decoded = B.decode_deltas(deltas, self.anchor, center_clip=32.0)
        assert decoded.tolist() == [[32, -32, 96, 32]]
        (decoded * tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        assert deltas.grad[0, :2].tolist() == [0, 0]
        assert (deltas.grad[0, 2:].abs() > 0).all()

    @pytest.mark.parametrize("clip, smallest", [(32.0, 64 * math.exp(-10)), (None, 64 * 16 / 1000)])
    def test_log_size_is_clipped_above_always_and_below_only_without_center_clip(self, clip, smallest):
        decoded = B.decode_deltas(tensor([[0, 0, 10, -10]]), self.anchor, center_clip=clip)
        w, h = (decoded[0, 2:] - decoded[0, :2]).tolist()
        assert w == pytest.approx(64 * 1000 / 16)
        assert h == pytest.approx(smallest, rel=1e-2, abs=1e-5)


def test_clip_and_scale_back_use_y_x_order():
    boxes = tensor([[[-5, -5, 300, 300]]])
    clipped = B.clip_to_image(boxes, tensor([[100, 200]]))  # h 100, w 200
    assert clipped.tolist() == [[[0, 0, 200, 100]]]
    assert B.to_original_image(clipped, tensor([[0.5, 2.0]])).tolist() == [[[0, 0, 100, 200]]]


class TestAnchors:
    def test_first_anchor_is_centered_on_the_corner(self):
        """Offset 0, not half a stride: PaddleDetection's and YOLOF's choice."""
        (anchors,) = AnchorGenerator([[32, 64]], [1.0], [32])([paddle.zeros([1, 8, 2, 3])])
        assert anchors.shape == [2 * 3 * 2, 4]
        assert anchors[0].tolist() == [-16, -16, 16, 16]
        assert anchors[1].tolist() == [-32, -32, 32, 32]
        assert anchors[2].tolist() == [16, -16, 48, 16]  # next location in x
        assert anchors[-1].tolist() == [64 - 32, 32 - 32, 64 + 32, 32 + 32]  # y 1, x 2

    def test_half_a_stride(self):
        (anchors,) = AnchorGenerator([[16]], [1.0], [16], offset=0.5)([paddle.zeros([1, 8, 1, 1])])
        assert anchors.tolist() == [[0, 0, 16, 16]]

    def test_ratio_is_height_over_width_at_equal_area(self):
        (anchors,) = AnchorGenerator([[32]], [4.0], [32])([paddle.zeros([1, 8, 1, 1])])
        assert anchors.tolist() == [[-8, -32, 8, 32]]

    def test_lists_must_fit_the_levels(self):
        with pytest.raises(UserError, match="anchor_sizes has 2 lists for 3 levels"):
            AnchorGenerator([[8], [16]], [1.0], [8, 16, 32])
