"""The readers: order of samples, independence of the number of workers, and behavior when something fails."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from ppdet_repro.data.reader import batches as batches_module
from ppdet_repro.data.reader import readers, sampling
from ppdet_repro.data.reader.batches import collate, skip_limit
from ppdet_repro.data.reader.sampling import batch_positions, epoch_order
from ppdet_repro.data.reader.workers import ordered_map
from ppdet_repro.data.transform.boxes import PadBox
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.geometry import RandomFlip, RandomShift
from ppdet_repro.data.transform.mix import Cutmix, Mixup
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import PadBatch
from ppdet_repro.data.transform.resize import BatchRandomResize, Resize
from ppdet_repro.data.transform.targets_yolo import Gt2YoloTarget
from ppdet_repro.utils.errors import UserError

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

# ---------------------------------------------------------------- order of samples


def test_positions_of_one_process():
    assert batch_positions(7, 3, 0, 1, wrap=True, drop_last=True) == [range(0, 3), range(3, 6)]
    assert batch_positions(7, 3, 0, 1, wrap=True, drop_last=False)[2:] == [range(6, 7)]


def test_training_positions_of_two_processes_wrap_around():
    # 9 images are extended to 10: two steps of 2 x 2, then 1 + 1, where the last image is the first one again
    ranks = [batch_positions(9, 2, rank, 2, wrap=True, drop_last=False) for rank in (0, 1)]
    assert ranks[0] == [range(0, 2), range(4, 6), range(8, 9)]
    assert ranks[1] == [range(2, 4), range(6, 8), range(9, 10)]


def test_evaluation_positions_of_three_processes_are_one_processs_batches():
    # 14 images, 3 per batch: 0-2, 3-5, 6-8, 9-11, 12-13, distributed in turn
    ranks = [batch_positions(14, 3, rank, 3, wrap=False, drop_last=False) for rank in range(3)]
    assert ranks == [[range(0, 3), range(9, 12)], [range(3, 6), range(12, 14)], [range(6, 9)]]


@pytest.mark.parametrize("count", [1, 5, 12, 31])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_positions_in_general(count, world, drop_last):
    def positions(wrap):
        ranks = range(world)
        return [batch_positions(count, 2, rank, world, wrap=wrap, drop_last=drop_last) for rank in ranks]

    training, evaluation = positions(True), positions(False)
    assert len({len(rank) for rank in training}) == 1  # equally many steps
    assert len(evaluation[0]) == max(len(rank) for rank in evaluation)
    taken = sorted(p for rank in evaluation for batch in rank for p in batch)
    assert taken == list(range(count if not drop_last else count // 2 * 2))
    if not drop_last:
        assert {p % count for rank in training for batch in rank for p in batch} == set(range(count))
    # the processes of a step together are one process with a batch `world` times as large
    whole = batch_positions(count, 2 * world, 0, 1, wrap=True, drop_last=drop_last)
    for step in range(count // (2 * world)):
        assert [p for rank in training for p in rank[step]] == list(whole[step])


def test_the_order_depends_on_seed_and_epoch_and_is_a_permutation():
    orders = [epoch_order(50, True, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert (epoch_order(50, True, 1, 1) == orders[3]).all()
    assert (epoch_order(4, False, 1, 1) == [0, 1, 2, 3]).all()


# ---------------------------------------------------------------- batches


class Images:
    """A dataset of `count` images of 24 x 32 pixels with one or two boxes each."""

    def __init__(self, folder, count=10):
        self.files = [str(folder / f"{i}.png") for i in range(count)]
        for i, file in enumerate(self.files):
            cv2.imwrite(file, np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8))

    def __len__(self):
        return len(self.files)

    def record(self, index):
        boxes = np.array([[2, 3, 20, 15], [8, 6, 30, 22]], np.float32)[: 1 + index % 2]
        return {
            "im_file": self.files[index],
            "im_id": np.array([index]),
            "h": 24.0,
            "w": 32.0,
            "gt_bbox": boxes,
            "gt_class": np.zeros((len(boxes), 1), np.int32),
        }


@pytest.fixture
def images(tmp_path):
    return Images(tmp_path)


class Note:
    """Records the progress that a transform is given, and the number of threads that OpenCV would use."""

    def __call__(self, sample, ctx):
        sample["noted"] = np.array([ctx.progress])
        sample["threads"] = np.array([cv2.getNumThreads()])
        return sample


class Fail:
    """Calls `how` for the image with id `im_id`."""

    def __init__(self, how, im_id=5):
        self.how, self.im_id = how, im_id

    def __call__(self, sample, ctx):
        if sample["im_id"][0] == self.im_id:
            self.how()
        return sample


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error():
    os.kill(os.getpid(), signal.SIGBUS)


def train_reader(*extra, **options):
    transforms = [Decode(), Mixup(), RandomShift(), NormalizeImage(), RandomFlip(), Permute(), *extra]
    settings = {"batch_size": 3, "collate_batch": False, "mixup_epoch": 0, **options}
    return readers.TrainReader(transforms, [PadBatch(32)], **settings)


def epoch_of(reader, dataset, epoch=1, workers=0, **options):
    """Returns all batches of an epoch as NumPy arrays."""
    run = {"epoch": epoch, "epochs_total": 4, "seed": 7, "workers": workers, **options}
    loader = reader.batches(dataset, **run)
    out = []
    for batch in loader:
        out.append({k: [t.numpy() for t in v] if isinstance(v, list) else v.numpy() for k, v in batch.items()})
    assert len(out) == len(loader)
    return out


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        for key in a:
            for x, y in zip(a[key], b[key]):
                np.testing.assert_array_equal(x, y)


def ids(batches):
    return [i for batch in batches for i in batch["im_id"][:, 0].tolist()]


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


def break_image(images, index):
    with open(images.files[index], "wb") as file:
        file.write(b"not a picture")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_steps_over_a_broken_image_and_says_so_once(images, workers, monkeypatch):
    reader = readers.TrainReader([Decode(), Permute()], batch_size=2, shuffle=False, collate_batch=False)
    break_image(images, 3)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_an_error_in_evaluation(images, workers):
    os.remove(images.files[3])
    with pytest.raises(UserError, match=r"3.png \(im_id 3\): cannot be read"):
        epoch_of(readers.EvalReader([Decode(), Permute()], batch_size=2), images, workers=workers)


# ---------------------------------------------------------------- failures of workers


def fails_within(seconds, match, reader, images, workers=2):
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as error:
        epoch_of(reader, images, workers=workers)
    assert time.monotonic() - start < seconds
    assert multiprocessing.active_children() == []
    return error.value


@linux
def test_a_killed_worker_is_one_clear_error(images):
    message = (
        r"data worker \d of 2 \(pid \d+\) was killed by SIGKILL, most likely because the machine ran out of "
        "memory: lower worker_num or the reader's batch_size"
    )
    fails_within(10, message, train_reader(Fail(kill)), images)


@linux
def test_a_bus_error_means_that_shared_memory_ran_out(images):
    message = "SIGBUS.*use_shared_memory: false"
    fails_within(10, message, train_reader(Fail(bus_error)), images)


@linux
@pytest.mark.parametrize("shared", [True, False])
def test_workers_killed_from_outside_never_leave_the_parent_waiting(images, shared):
    """They may be idle, at work, or sending a result."""
    for delay in (0.0, 0.002, 0.02):
        reader = train_reader(use_shared_memory=shared, batch_size=1)
        loader = iter(reader.batches(images, epoch=0, epochs_total=1, seed=0, workers=2))
        next(loader)
        victim = multiprocessing.active_children()[0]
        time.sleep(delay)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        with pytest.raises(UserError, match="killed by SIGKILL"):
            for _ in range(20):
                next(loader)
        assert multiprocessing.active_children() == []


@linux
def test_a_worker_that_exits_is_an_error(images):
    fails_within(10, "ended with exit code 3", train_reader(Fail(lambda: os._exit(3))), images)


@linux
def test_a_failure_in_a_worker_names_transform_image_and_worker(images):
    def divide():
        return 1 // 0

    match = r"data worker \d of 2 failed: .*Fail failed on image .*5.png \(im_id 5\): ZeroDivision"
    error = fails_within(10, match, train_reader(Fail(divide)), images)
    assert "in divide" in str(error.__cause__)  # the worker's traceback


@linux
def test_a_users_mistake_in_a_worker_reads_as_in_the_main_process(images):
    def mistake():
        raise UserError("the moon is full")

    for workers in (0, 2):
        with pytest.raises(UserError, match="^the moon is full$"):
            epoch_of(train_reader(Fail(mistake)), images, workers=workers)


@linux
def test_too_little_memory_to_share_is_one_clear_error(images):
    """This process and its children get a real limit: files and shared memory of at most 4 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        fails_within(10, "MB of shared memory .*use_shared_memory: false", train_reader(), images)
        epoch_of(train_reader(use_shared_memory=False), images, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TINY_SHM = """
mount -t tmpfs -o size=16k tmpfs /dev/shm || exit 77
exec "$0" -c "
from ppdet_repro.data.reader.workers import ordered_map
print(sum(map(len, ordered_map(__import__('numpy').zeros, [10**6] * 8, 2))))
"
"""


@linux
def test_a_tiny_dev_shm_is_no_obstacle():
    """Containers often have 64 MB, in which PaddleDetection's workers end with a bus error."""
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", TINY_SHM, sys.executable]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if run.returncode == 77 or run.stderr.startswith("unshare:"):
        pytest.skip("a small /dev/shm of our own is not allowed here")
    assert run.stdout == f"{8 * 10**6}\n", run.stderr


@linux
def test_leaving_the_loop_ends_the_workers(images):
    for _ in train_reader().batches(images, epoch=0, epochs_total=1, seed=0, workers=2):
        assert len(multiprocessing.active_children()) == 2
        break
    assert multiprocessing.active_children() == []


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


ORPHANS = """
import multiprocessing, os, signal, sys
from ppdet_repro.data.reader.workers import ordered_map
results = ordered_map(bytes, [10] * 100, 3)
next(results)
with open(sys.argv[1], "w") as file:
    print(*(child.pid for child in multiprocessing.active_children()), file=file)
os.kill(os.getpid(), signal.SIGKILL)
"""


@linux
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    note = tmp_path / "pids"
    subprocess.run([sys.executable, "-c", ORPHANS, str(note)], timeout=60)
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = list(filter(alive, pids))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def nap(seconds):
    time.sleep(seconds)
    return seconds


@linux
def test_the_death_of_an_idle_worker_is_noticed_while_another_works():
    start = time.monotonic()
    results = ordered_map(nap, [0, 0, 30, 0, 30, 0], 2)
    assert [next(results), next(results)] == [0, 0]
    idle = max(multiprocessing.active_children(), key=lambda child: child.name)
    assert "2 of 2" in idle.name
    os.kill(idle.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="data worker 2 of 2 .* was killed"):
        next(results)
    assert time.monotonic() - start < 10


def arrays_of(size):
    return {"a": np.full(size, size % 251, np.uint8), "b": [np.arange(size % 7)], "c": "text", "n": None}


@linux
@pytest.mark.parametrize("shared", [True, False])
def test_results_come_in_order_and_grow_and_shrink(shared):
    sizes = [10, 100_000, 0, 5_000_000, 3, 200_000, 1, 2, 3]
    for size, result in zip(sizes, ordered_map(arrays_of, sizes, 2, shared)):
        expected = arrays_of(size)
        np.testing.assert_array_equal(result["a"], expected["a"])
        np.testing.assert_array_equal(result["b"][0], expected["b"][0])
        assert (result["c"], result["n"]) == ("text", None)


def test_batches_stay_what_they_are_when_the_next_has_come(images):
    reader = train_reader()
    kept = list(reader.batches(images, epoch=1, epochs_total=4, seed=7, workers=2))
    for batch, again in zip(kept, epoch_of(reader, images)):
        np.testing.assert_array_equal(batch["image"].numpy(), again["image"])


def test_no_two_random_streams_are_the_same():
    """Samples, retried samples, batches and the order use different random generators for all seeds and positions."""
    seeds = {
        "sample": [3, 0, 0],
        "retried": [3, 0, 0, 1],
        "batch": [3, 0, 0, *batches_module.BATCH],
        "order": [3, 0, *sampling.SHUFFLE],
    }
    first = {name: np.random.default_rng(seed).integers(2**60) for name, seed in seeds.items()}
    assert len(set(first.values())) == 4
