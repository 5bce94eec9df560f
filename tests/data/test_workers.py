"""Failures of worker processes, and what they leave behind."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from reader_images import epoch_of, linux, train_reader

from ppdet_repro.data.reader import batches as batches_module
from ppdet_repro.data.reader import sampling
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.workers import ordered_map


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
from ppdet_repro.utils.workers import ordered_map
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
from ppdet_repro.utils.workers import ordered_map
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
