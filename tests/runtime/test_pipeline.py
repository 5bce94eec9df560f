"""Batches, slices and the measurement of time, with an engine that needs no model."""

from __future__ import annotations

import numpy as np
import pytest

from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.pipeline import Pipeline, batched
from ppdet_repro.runtime.slicing import SlicedPipeline, SliceOptions, combine, merge
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.slices import starts


class Fake:
    """An engine that finds one box per image, whose score is the mean of the pixels, and a row of filler."""

    def __init__(self):
        self.shapes = []

    def run(self, inputs):
        self.shapes.append(inputs["image"].shape)
        rows = [[row for row in ([0, image.mean(), 1, 2, 3, 4], [-1, 1, 0, 0, 0, 0])] for image in inputs["image"]]
        return np.array(rows, np.float32).reshape(-1, 6), np.full(len(rows), 2, np.int32)


def test_images_of_different_sizes_make_one_padded_batch_and_the_first_run_is_not_measured():
    engine = Fake()
    pipeline = Pipeline(from_list([{"type": "Permute"}, {"type": "PadStride", "stride": 32}]), engine)
    images = [np.full((40, 60, 3), 9, np.uint8), np.full((64, 20, 3), 5, np.uint8)]
    found = pipeline(images)
    assert engine.shapes == [(2, 3, 64, 64)] * 2  # the warm-up, then the run that is measured
    assert [len(image.rows) for image in found] == [1, 1]
    np.testing.assert_allclose(found[0].rows[0, 1], 9 * 40 * 60 / 64**2)
    pipeline(images[:1])
    assert len(engine.shapes) == 3 and pipeline.timer.images == 3
    assert [len(times) for times in pipeline.timer.seconds.values()] == [2, 2, 2]


def test_a_benchmark_measures_a_hundred_runs_after_fifty_for_warm_up():
    engine = Fake()
    pipeline = Pipeline(from_list([{"type": "Permute"}]), engine)
    pipeline.benchmark([np.zeros((8, 8, 3), np.uint8)] * 2)
    assert len(engine.shapes) == 150 and pipeline.timer.images == 200
    assert {len(times) for times in pipeline.timer.seconds.values()} == {100}


def test_batched():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_slices_cover_a_side_with_overlap_and_end_with_the_side():
    assert starts(100, 40, 0.25) == [0, 30, 60]  # 30 apart, the last one ends at 100
    assert starts(105, 40, 0.25) == [0, 30, 60, 65]
    assert starts(30, 40, 0.25) == [0]


@pytest.mark.parametrize("metric, left", [("ios", 2), ("iou", 3)])
def test_of_two_boxes_that_match_the_better_stays(metric, left):
    rows = np.array(
        [
            [0, 0.9, 0, 0, 19, 19],  # 20 x 20
            [0, 0.8, 0, 0, 19, 9],  # its upper half: intersection over the smaller 1, over the union 0.5
            [1, 0.7, 0, 0, 19, 19],  # another class
        ]
    )
    assert len(merge(rows, 0.6, metric)) == left
    assert len(merge(rows[:0], 0.6, metric)) == 0


def test_boxes_that_match_grow_together():
    rows = np.array(
        [
            [0, 0.7, 20, 0, 49, 9],  # 30 x 10
            [0, 0.9, 0, 0, 29, 9],  # 30 x 10; they share 10 columns, a third of each
            [0, 0.8, 0, 0, 9, 29],  # 10 x 30; it shares a third with the one above
            [0, 0.6, 0, 20, 49, 29],  # below the second, but a third of it is in the box around the second and third
            [1, 0.5, 0, 0, 29, 9],  # another class
        ]
    )
    grown = combine(rows.copy(), SliceOptions(combine_method="nmm", match_threshold=0.33, match_metric="ios"))
    assert grown.tolist() == [[0, 0.9, 0, 0, 49, 29], [1, 0.5, 0, 0, 29, 9]]
    mirrored = rows.copy()
    mirrored[:, 2:] = 99 - rows[:, [4, 5, 2, 3]]
    grown = combine(mirrored, SliceOptions(combine_method="nmm", match_threshold=0.33, match_metric="ios"))
    assert grown.tolist() == [[0, 0.9, 50, 70, 99, 99], [1, 0.5, 70, 90, 99, 99]]
    kept = combine(rows.copy(), SliceOptions(combine_method="nms", match_threshold=0.33))
    assert kept[:, 1].tolist() == [0.9, 0.6, 0.5]
    assert combine(rows, SliceOptions(combine_method="concat")) is rows
    assert combine(rows[:0], SliceOptions(combine_method="nmm")).shape == (0, 6)


def test_boxes_of_slices_come_back_in_the_images_pixels():
    pipeline = SlicedPipeline(Pipeline(from_list([{"type": "Permute"}]), Fake()), SliceOptions((40, 40)), 3)
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 60:] = 80
    (found,) = pipeline([image])
    # Three slices, from x = 0, 30, 60; Fake finds [1, 2, 3, 4] on each, so [1, 31, 61] to [3, 33, 63]
    assert found.rows[:, 2].tolist() == [61, 31, 1] and found.rows[:, 3].tolist() == [2, 2, 2]
    assert found.image.shape == image.shape and pipeline.timer.images == 3


def test_timing_table_is_per_image():
    timer = StageTimer()
    timer.seconds = {"preprocess": [0.02, 0.02], "inference": [0.1, 0.3], "postprocess": [0.0, 0.0]}
    timer.images = 4  # two batches of two
    lines = timer.table().splitlines()
    assert lines[0].split() == ["ms", "per", "image", "mean", "median", "p95"]
    assert lines[3].split() == ["inference", "100.000", "100.000", "145.000"]  # 50 and 150 ms per image
    assert lines[5].split()[:2] == ["total", "110.000"]
    assert lines[6] == "4 images, 9.09 per second (warm-up not counted)"
