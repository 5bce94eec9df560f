"""Multi-scale testing: the views, merging them by hand, and an evaluation."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import build, load_config
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.evaluation.multi_scale import MultiViewDetector, View, list_views, merge, mirror, reader_of_view
from ppdet_repro.modeling.nms import MultiClassNMS
from ppdet_repro.utils.errors import UserError


class Recorded:
    """A detector that finds the boxes [1, 1, 4] (input pixels) and scores [1, 1, 1] that are given as the image."""

    def raw(self, image):
        return image

    def decode(self, raw, im_shape, scale_factor):
        scale = paddle.concat([scale_factor[:, ::-1]] * 2, axis=-1).unsqueeze(1)
        return raw[..., :4] / scale, raw[..., 4:].transpose([0, 2, 1])

    def suppress(self, boxes, scores):
        return MultiClassNMS(score_threshold=0.1, nms_threshold=0.6)(boxes, scores)


def batch(box, score, scale, size=(100, 200)):
    height, width = size
    return {
        "image": paddle.to_tensor([[[*box, score]]], "float32"),
        "im_shape": paddle.to_tensor([[height * scale, width * scale]], "float32"),
        "scale_factor": paddle.to_tensor([[scale, scale]], "float32"),
    }


def detect(parts, views):
    holder = type("Holder", (), {"model": Recorded(), "views": views})()
    return MultiViewDetector.forward(holder, {"views": parts})["bbox"].numpy().round(4).tolist()


def test_the_best_view_of_an_object_wins():
    # an image of 100 x 200; at half the size 5, 10, 25, 30 is 10, 20, 50, 60 in it; at twice the size 24, 40, 104,
    # 120 is 12, 20, 52, 60: intersection 38 * 40, union 2 * 1600 - 1520: IoU .905 > .6, so the better score stays
    parts = [batch((5, 10, 25, 30), 0.5, 0.5), batch((24, 40, 104, 120), 0.75, 2.0)]
    views = [View((50, 100), False), View((200, 400), False)]
    assert detect(parts, views) == [[0, 0.75, 12, 20, 52, 60]]


def test_objects_of_different_views_are_joined():
    parts = [batch((5, 10, 25, 30), 0.5, 0.5), batch((200, 40, 280, 120), 0.75, 2.0)]
    views = [View((50, 100), False), View((200, 400), False)]
    assert detect(parts, views) == [[0, 0.75, 100, 20, 140, 60], [0, 0.5, 10, 20, 50, 60]]


def test_a_mirrored_view_is_mirrored_back():
    # at twice the size the mirrored image has the box at 296..376 of 400: 148..188 of 200, so 12..52 unmirrored
    parts = [batch((5, 10, 25, 30), 0.5, 0.5), batch((296, 40, 376, 120), 0.75, 2.0)]
    views = [View((50, 100), False), View((200, 400), True)]
    assert detect(parts, views) == [[0, 0.75, 12, 20, 52, 60]]


def test_mirroring_twice_changes_nothing():
    boxes, widths = paddle.to_tensor([[[1.0, 2, 30, 40]], [[0.0, 0, 9, 9]]]), paddle.to_tensor([[100.0], [50.0]])
    assert mirror(boxes, widths).tolist() == [[[70, 2, 99, 40]], [[41, 0, 50, 9]]]
    assert mirror(mirror(boxes, widths), widths).tolist() == boxes.tolist()


def test_the_merge_keeps_every_candidate_with_its_scores():
    one, two = (paddle.zeros([1, 2, 4]), paddle.ones([1, 3, 2])), (paddle.ones([1, 4, 4]), paddle.zeros([1, 3, 4]))
    boxes, scores = merge([one, two])
    assert boxes.shape == [1, 6, 4] and scores.shape == [1, 3, 6]
    assert boxes[0, :, 0].tolist() == [0, 0, 1, 1, 1, 1] and scores[0, 0].tolist() == [1, 1, 0, 0, 0, 0]


def test_views_are_every_size_and_its_mirror_image():
    assert list_views([[600, 900], [1200, 800]], True) == [
        ((600, 900), False), ((600, 900), True), ((800, 1200), False), ((800, 1200), True),
    ]  # fmt: skip
    assert list_views([[600, 900]], False) == [((600, 900), False)] and list_views([], True) == []
    with pytest.raises(UserError, match="test_scales"):
        list_views([[600]], False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(folder, write_images(folder / "data", count=4))


def test_a_view_resizes_and_mirrors_the_image(tiny):
    cfg = load_config(tiny)
    dataset, reader = build(cfg, "EvalDataset"), build(cfg, "EvalReader")
    dataset.load()
    plain, mirrored = (
        next(
            iter(
                reader_of_view(reader, View((64, 200), on)).batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)
            )
        )
        for on in (False, True)
    )
    height, width = (int(side) for side in plain["im_shape"][0])
    assert min(height, width) == 64
    np.testing.assert_array_equal(
        plain["image"][0, :, :height, :width].numpy(), mirrored["image"][0, :, :height, :width].numpy()[..., ::-1]
    )
    assert len(reader.sample_transforms) == 4  # the reader itself is unchanged
    reader.sample_transforms = []
    with pytest.raises(UserError, match="there are 0"):
        reader_of_view(reader, View((64, 200), False))


def test_the_same_size_again_changes_no_score_and_more_sizes_do(tiny):
    model = tiny_model(tiny)
    alone = evaluate(model, load_config(tiny))
    again = evaluate(model, load_config(tiny, ["test_scales=[[96,128]]"]))
    assert again["bbox_mAP"] == pytest.approx(alone["bbox_mAP"], abs=1e-6) and alone["bbox_mAP"] > 0
    several = evaluate(model, load_config(tiny, ["test_scales=[[96,128],[128,192]]", "test_flip=true"]))
    assert several["bbox_mAP"] != alone["bbox_mAP"] and not model.training
