"""The batches of readers, which do not depend on the number of workers, and unreadable images."""

from __future__ import annotations

import gc
import multiprocessing
import os
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from png_bomb import png_bomb
from reader_images import Images, assert_equal, epoch_of, ids, linux, train_reader

from ppdet_repro.data.reader import readers
from ppdet_repro.data.reader.batches import collate, skip_limit
from ppdet_repro.data.transform.autoaugment import AutoAugment
from ppdet_repro.data.transform.boxes import PadBox
from ppdet_repro.data.transform.choose import RandomSelect
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.erase import RandomErasingImage
from ppdet_repro.data.transform.geometry import RandomFlip
from ppdet_repro.data.transform.hsv import AugmentHSV, PhotoMetricDistortion
from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.data.transform.mosaic import Mosaic
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.resize import BatchRandomResize, RandomShortSideResize, Resize
from ppdet_repro.data.transform.resize_crop import RandomResizeCrop, RandomSizeCrop
from ppdet_repro.data.transform.strong import (
    RandomColorJitter,
    RandomErasingCrop,
    RandomGaussianBlur,
    RandomGrayscale,
    StrongAugImage,
)
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.workers import ordered_map


class Note:
    """Records the progress that a transform is given, and the number of threads that OpenCV would use."""

    def __call__(self, sample, ctx):
        sample["noted"] = np.array([ctx.progress])
        sample["threads"] = np.array([cv2.getNumThreads()])
        return sample


def test_a_batch_has_what_the_model_needs_and_nothing_else(images):
    batch = epoch_of(train_reader(), images)[0]
    assert set(batch) == {
        "image", "im_id", "im_shape", "scale_factor", "gt_bbox", "gt_class", "gt_score", "progress"
    }  # fmt: skip
    assert batch["image"].shape == (3, 3, 32, 32) and batch["image"].dtype == np.float32
    assert batch["im_id"].shape == (3, 1) and batch["im_shape"].shape == (3, 2)
    assert [len(boxes) for boxes in batch["gt_bbox"]] == [len(classes) for classes in batch["gt_class"]]
    assert batch["gt_class"][0].dtype == np.int32


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(images, workers, shared):
    alone = epoch_of(train_reader(), images)
    assert_equal(alone, epoch_of(train_reader(use_shared_memory=shared), images, workers=workers))


def test_chains_of_augmentations_do_not_depend_on_the_workers(images):
    def reader():
        strong = [RandomColorJitter(), RandomGrayscale(), RandomGaussianBlur(), RandomErasingCrop()]
        transforms = [
            Decode(),
            Mosaic(input_dim=48, scale=[0.5, 1.5]),
            AutoAugment("v1"),
            AugmentHSV(),
            PhotoMetricDistortion(),
            RandomErasingImage(),
            RandomSelect(
                [RandomShortSideResize([24, 40], 60)], [RandomResizeCrop([40], [[16, 30]]), RandomSizeCrop(8, 20)]
            ),
            StrongAugImage(strong),
            Resize(32, False),
            NormalizeImage(),
            Permute(),
        ]
        return readers.TrainReader(transforms, batch_size=5, collate_batch=False, mosaic_epoch=0)

    alone = epoch_of(reader(), images)
    assert_equal(alone, epoch_of(reader(), images, workers=2))
    assert abs(alone[0]["image"] - epoch_of(reader(), images, 2)[0]["image"]).max() > 0
    for boxes in (boxes for batch in alone for boxes in batch["gt_bbox"]):
        assert boxes.dtype == np.float32 and (boxes[:, 2:] >= boxes[:, :2]).all() and boxes.min(initial=0) >= 0


def test_epochs_and_seeds_differ_and_are_repeatable(images):
    reader = train_reader(shuffle=False)  # so that only the random numbers of samples differ
    epochs = [epoch_of(reader, images, epoch) for epoch in (0, 1)]
    assert_equal(epochs[1], epoch_of(train_reader(shuffle=False), images, 1))  # as after an interruption
    assert abs(epochs[0][0]["image"] - epochs[1][0]["image"]).max() > 0
    assert abs(epochs[0][0]["image"] - epoch_of(reader, images, 0, seed=8)[0]["image"]).max() > 0


def test_two_processes_together_are_one_with_the_doubled_batch(images):
    def reader(batch_size):
        return readers.TrainReader(
            [Decode(), Mixup(), RandomFlip()],
            [BatchRandomResize([16, 32, 48], keep_ratio=False), NormalizeImage(), Permute()],
            batch_size=batch_size,
            collate_batch=False,
            mixup_epoch=0,
        )

    whole = epoch_of(reader(4), images)
    parts = [epoch_of(reader(2), images, rank=rank, world=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts):
        np.testing.assert_array_equal(one["image"], np.concatenate([first["image"], second["image"]]))


def test_evaluation_sees_every_image_once_with_its_boxes_as_lists(images):
    reader = readers.EvalReader([Decode(), Resize(16, False), NormalizeImage(), Permute()], batch_size=4)
    parts = [epoch_of(reader, images, rank=rank, world=3) for rank in range(3)]
    assert sorted(i for part in parts for i in ids(part)) == list(range(10))
    assert reader.steps_per_epoch(images, 3) == 1
    assert [len(boxes) for boxes in parts[0][0]["gt_bbox"]] == [1, 2, 1, 2]
    assert ids(epoch_of(reader, images)) == list(range(10))


def test_progress_is_that_of_training(images):
    batches = epoch_of(train_reader(Note()), images, epoch=1)  # 3 steps per epoch, 4 epochs
    expected = np.array([1, 1 + 1 / 3, 1 + 2 / 3]) / 4
    np.testing.assert_allclose([batch["noted"][:, 0] for batch in batches], np.tile(expected, [3, 1]).T)
    np.testing.assert_allclose([batch["progress"] for batch in batches], expected.reshape(3, 1), rtol=1e-6)
    evaluated = epoch_of(readers.EvalReader([Decode(), Permute()]), images)
    assert all("progress" not in batch for batch in evaluated)


@linux
def test_workers_use_one_thread_and_leave_the_parents_objects_alone(images):
    assert (epoch_of(train_reader(Note()), images, workers=1)[0]["threads"] <= 1).all()
    assert list(ordered_map(frozen_objects, [None], 1)) != [0]


def frozen_objects(_):
    return gc.get_freeze_count()


def test_mixing_stops_after_its_epochs_and_never_starts_when_not_asked():
    kinds = [Decode(), Mixup(), Cutmix()]

    def active(epoch, **until):
        reader = readers.TrainReader(kinds, **until)
        return [type(transform).__name__ for transform in reader._active_transforms(epoch)[1:]]

    assert active(0) == []
    assert active(9, mixup_epoch=10) == ["Mixup"]
    assert active(10, mixup_epoch=10) == []
    assert active(10, mixup_epoch=10, cutmix_epoch=0) == ["Cutmix"]


def test_yolox_mosaic_needs_its_epochs_and_yolov4s_does_not():
    def active(epoch, **until):
        reader = readers.TrainReader([Mosaic([32, 32]), Mosaic(input_dim=64)], **until)
        return [transform.scheduled for transform in reader._active_transforms(epoch)]

    assert active(0) == [False]
    assert active(9, mosaic_epoch=10) == [False, True]
    assert active(10, mosaic_epoch=10) == []
    assert active(999, mosaic_epoch=0) == [False, True]


def test_boxes_are_stacked_only_when_equally_many(images):
    transforms = [Decode(), PadBox(4), Permute()]
    batch = epoch_of(readers.TrainReader(transforms, batch_size=2), images)[0]
    assert batch["gt_bbox"].shape == (2, 4, 4)
    with pytest.raises(UserError, match="gt_bbox have different shapes .*collate_batch: false or add PadBox"):
        epoch_of(readers.TrainReader([Decode(), Permute()], batch_size=10), images)
    with pytest.raises(UserError, match="image have different shapes .*PadBatch"):
        collate([{"image": np.zeros((3, 2, 2))}, {"image": np.zeros((3, 2, 3))}], False)


def test_images_without_boxes_make_batches_too(images):
    images.record = lambda i: {**Images.record(images, i), "gt_bbox": np.zeros((0, 4), np.float32)}
    reader = readers.EvalReader([Decode(), Permute()])
    assert epoch_of(reader, images)[0]["gt_bbox"][0].shape == (0, 4)


def test_what_a_reader_refuses(images):
    with pytest.raises(UserError, match="10 images do not fill one batch of 6 x 2 processes"):
        train_reader(batch_size=6).steps_per_epoch(images, 2)
    for name, values in (("seed", {"seed": -1, "workers": 0}), ("worker_num", {"seed": 0, "workers": -1})):
        with pytest.raises(UserError, match=f"{name} -1 must not be negative"):
            train_reader().batches(images, epoch=0, epochs_total=1, **values)
    with pytest.raises(UserError, match="batch_size 0"):
        train_reader(batch_size=0)
    with pytest.raises(UserError, match=r"inputs_def: unknown keys \['shape'\]"):
        train_reader(inputs_def={"shape": [3, 8, 8]})
    target = Gt2YoloTarget([[8, 8]], [[0]], [8], num_classes=80)
    with pytest.raises(UserError, match="Gt2YoloTarget has num_classes 80, the model has 3"):
        readers.TrainReader([Decode()], [target], num_classes=3)


# ---------------------------------------------------------------- unreadable images


@contextmanager
def collected_warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(readers.get_logger(), "warning", messages.append)
    yield messages


def break_image(images, index, content=b"not an image"):
    with open(images.files[index], "wb") as file:
        file.write(content)


@pytest.mark.parametrize("content", [b"not an image", png_bomb(60_000, 60_000)], ids=["text", "bomb"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_steps_over_a_broken_image_and_says_so_once(images, workers, content, monkeypatch):
    reader = readers.TrainReader([Decode(), Permute()], batch_size=2, shuffle=False, collate_batch=False)
    break_image(images, 3, content)
    with collected_warnings(monkeypatch) as messages:
        for epoch in (0, 1):
            batches = epoch_of(reader, images, epoch, workers=workers)
            assert ids(batches) == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]  # the next one takes its place
    assert len(messages) == 1 and images.files[3] in messages[0] and "im_id 3" in messages[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_stop_training(images, workers):
    assert [skip_limit(count) for count in (1, 10, 60, 1000, 100000)] == [1, 1, 3, 50, 50]
    reader = readers.TrainReader([Decode(), Permute()], batch_size=2, shuffle=False, collate_batch=False)
    break_image(images, 3)
    break_image(images, 7)
    message = "2 unreadable images in one epoch, more than the 1 allowed.*7.png"
    with pytest.raises(UserError, match=message) as error:
        epoch_of(reader, images, workers=workers)
    assert multiprocessing.active_children() == []  # though the traceback still holds the loop
    assert error.value


def test_a_sample_steps_over_no_more_than_the_limit(images):
    reader = readers.TrainReader([Decode(), Permute()], batch_size=2, shuffle=False, collate_batch=False)
    break_image(images, 3)
    break_image(images, 4)
    with pytest.raises(UserError, match=r"4.png \(im_id 4\): is not an image.*repair or remove it"):
        epoch_of(reader, images)


def test_a_dataset_without_a_readable_image_is_an_error(tmp_path):
    images = Images(tmp_path, 1)
    break_image(images, 0)
    with pytest.raises(UserError, match="0.png.*no image of the dataset is readable"):
        epoch_of(readers.TrainReader([Decode(), Permute()]), images)


def test_a_broken_image_that_was_drawn_for_mixing_is_stepped_over_too(images):
    break_image(images, 3)
    for epoch in range(8):  # about 4 samples per epoch would blend with image 3 if the draw were not repeated
        epoch_of(train_reader(), images, epoch, epochs_total=8)


@pytest.mark.parametrize(
    "content, reason", [(None, "cannot be read"), (png_bomb(60_000, 60_000), "is 60000 x 60000 pixels, more than")]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_an_error_in_evaluation(images, workers, content, reason):
    os.remove(images.files[3]) if content is None else break_image(images, 3, content)
    with pytest.raises(UserError, match=rf"3.png \(im_id 3\): {reason}"):
        epoch_of(readers.EvalReader([Decode(), Permute()], batch_size=2), images, workers=workers)
