"""--auto_batch: what is measured, and what is chosen from it."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from tiny_yolof import write_training_config

from ppdet_repro.cli import train as command
from ppdet_repro.data.transform.resize import BatchRandomResize, RandomResize, RandomShortSideResize
from ppdet_repro.engine.training import train as training
from ppdet_repro.engine.tuning import auto_batch, batch_memory
from ppdet_repro.engine.tuning.auto_batch import Choice, choose
from ppdet_repro.engine.tuning.batch_memory import CpuMemory, GpuMemory, Images, Measured, largest_images
from ppdet_repro.utils.errors import UserError

MB = 1 << 20


def machine(base=400, per_image=100, available=10_000, images=100_000, own=8, breaks_at=None):
    """A function that measures batches, as on a machine with these sizes in MB, and the batch sizes that it was given.

    From `breaks_at` images on, the process ends because there is no memory.
    """
    tried = []

    def measured(size):
        tried.append(size)
        if breaks_at is not None and size >= breaks_at:
            return None
        return Measured((base + per_image * size) * MB, available * MB, images, own)

    return measured, tried


class TestChoice:
    def test_the_line_through_two_measurements_gives_the_largest_batch_which_is_measured(self):
        measured, tried = machine()
        choice, reason = choose(measured, 1)
        assert choice == Choice(76, 8)  # 400 MB + 76 x 100 MB = 8,000 MB, which is 80 % of 10,000 MB
        assert tried == [2, 8, 76]
        assert reason == (
            "measured 600 MB with 2, 1,200 MB with 8, 8,000 MB with 76; 8,000 MB may be used, 80% of what is free"
        )

    def test_processes_share_the_memory(self):
        measured, _ = machine()
        assert choose(measured, 2)[0].batch_size == 36  # 400 + 36 x 100 = 4,000

    def test_small_differences_are_measured_with_larger_batches(self):
        measured, tried = machine(base=400, per_image=5, available=1000)
        assert choose(measured, 1)[0].batch_size == 80  # 400 + 80 x 5 = 800
        assert tried == [2, 8, 32, 80]  # 440 MB are less than 10 % more than 410 MB, 560 MB are more

    def test_if_the_last_measurement_is_above_the_line_the_batch_is_smaller(self):
        def measured(size):  # 400 + 100 b, and from 50 on 50 more per image
            return Measured((400 + 100 * size + 50 * max(size - 50, 0)) * MB, 10_000 * MB, 100_000, 8)

        # 76: 400 + 7,600 + 1,300 = 9,300. The line from 600 at 2 to 9,300 at 76 has 117.57 per image:
        # 364.9 + 64 x 117.57 = 7,889, and 65 would be 8,007
        assert choose(measured, 1)[0].batch_size == 64

    def test_a_last_measurement_that_breaks_halves_the_batch(self):
        measured, tried = machine(breaks_at=70)
        assert (choose(measured, 1)[0].batch_size, tried) == (38, [2, 8, 76])

    def test_an_epoch_keeps_some_updates(self):
        measured, tried = machine(images=160, own=4)
        choice, reason = choose(measured, 1)
        assert (choice.batch_size, tried) == (10, [2, 8, 10])
        assert reason.endswith("but an epoch keeps 16 updates")
        measured, _ = machine(images=40, own=4)
        assert choose(measured, 1)[0].batch_size == 4  # the config has fewer updates already

    def test_little_memory(self):
        measured, tried = machine(per_image=1000, available=10_000, breaks_at=8)
        assert (choose(measured, 1)[0].batch_size, tried) == (7, [2, 8, 4, 7])
        measured, _ = machine(base=400, per_image=300, available=1000)
        assert choose(measured, 1)[0].batch_size == 1  # 700 of 800 MB
        measured, _ = machine(base=400, per_image=500, available=1000)
        with pytest.raises(UserError, match="one image needs 900 MB, and 800 MB may be used: make the images"):
            choose(measured, 1)

    @pytest.mark.parametrize("breaks_at, words", [(2, "of 2 images does not fit"), (4, "of 4 images does not fit")])
    def test_no_memory(self, breaks_at, words):
        measured, _ = machine(breaks_at=breaks_at)
        with pytest.raises(UserError, match=words):
            choose(measured, 1)


class TestMemory:
    def test_free_memory_is_that_of_the_machine_or_of_the_container(self, tmp_path):
        (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
        memory = CpuMemory(0, tmp_path, tmp_path)
        assert memory.available() == 8000 * 1024
        (tmp_path / "memory.max").write_text("max\n")
        (tmp_path / "memory.current").write_text("1000\n")
        assert memory.available() == 8000 * 1024
        (tmp_path / "memory.max").write_text("5000\n")
        (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 300\n")
        assert memory.available() == 4300  # 5000 - 1000 + 300 that can be freed

    def test_data_workers_count_with_what_they_do_not_share(self, tmp_path, monkeypatch):
        (tmp_path / "self").mkdir()
        status = tmp_path / "self" / "status"
        memory = CpuMemory(3, tmp_path)
        status.write_text("VmRSS: 100 kB\nVmHWM: 120 kB\n")
        memory.before_workers()
        status.write_text("VmRSS: 100 kB\nVmHWM: 500 kB\n")
        monkeypatch.setattr(batch_memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=130))
        assert memory.peak() == (500 + 3 * 30) * 1024

    def test_a_system_that_does_not_say(self, tmp_path):
        with pytest.raises(UserError, match="no MemAvailable; choose the batch size with -o TrainReader.batch_size"):
            CpuMemory(0, tmp_path).available()

    def test_gpu(self, monkeypatch):
        """Not run on a GPU: Paddle's functions are replaced."""
        cuda = paddle.device.cuda
        monkeypatch.setattr(cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=1000))
        monkeypatch.setattr(cuda, "max_memory_reserved", lambda: 600)
        memory = GpuMemory()
        memory.before_workers()
        assert (memory.available(), memory.peak()) == (1000, 600)


class TestLargestInputs:
    def test_several_sizes(self):
        batch = BatchRandomResize([[320, 224], [256, 256], [288, 288]], keep_ratio=False)
        short = RandomShortSideResize([640, 800, 672], 1333)
        drawn = RandomResize([[640, 1333], [800, 1333]], random_range=True)
        several = RandomResize([[512, 512], [768, 768], [640, 640]])
        nested = SimpleNamespace(first=[drawn], second=[several])
        batch_memory.use_largest_size([batch, short, nested])
        assert (batch.sizes, short.short_side_sizes, several.sizes) == ([(288, 288)], (800,), [(768, 768)])
        image = {"image": np.zeros((800, 1000, 3), np.uint8), "scale_factor": np.ones(2), "im_shape": np.ones(2)}
        rng = SimpleNamespace(rng=np.random.default_rng(0))
        assert {drawn(dict(image), rng)["image"].shape for _ in range(5)} == {(800, 1000, 3)}

    def test_images(self):
        sizes = np.array([[100.0, 100], [50, 200], [100, 100], [200, 90]])
        table = SimpleNamespace(sizes=sizes, starts=np.array([0, 1, 2, 9, 10]))
        dataset = SimpleNamespace(table=table, record=lambda index: index)
        assert largest_images(dataset) == [1, 3, 2]
        images = Images(dataset, largest_images(dataset), 5)
        assert [images.record(index) for index in range(len(images))] == [1, 3, 2, 1, 3]
        assert largest_images(SimpleNamespace(table=SimpleNamespace(sizes=None, starts=np.array([0, 1, 4])))) == [1]


def test_two_updates_are_made_and_no_file(tmp_path, monkeypatch):
    config = write_training_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = batch_memory.measure_here(str(config), ["TrainReader.batch_size=2"], None, False, batch_size=3)
    assert (found.images, found.batch_size) == (6, 2)
    assert found.peak > 100 * MB and found.available > 100 * MB
    assert sorted(tmp_path.rglob("*")) == before


def test_phases_with_their_own_batch_sizes(tmp_path):
    config = write_training_config(tmp_path)
    config.write_text(config.read_text() + "TrainPhases: {phases: [!Phase {batch_size: 2}]}\n")
    with pytest.raises(UserError, match="cannot choose where TrainPhases sets batch_size"):
        batch_memory.measure_here(str(config), [], None, False, batch_size=2)


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """A function that runs `train` with some flags. Returns the settings with which training would start."""
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(training, "train", lambda cfg, **values: started.append(cfg))

    def run(*words):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        command.run(parser.parse_args(["-c", "demo/yolof_demo.yml", *words]))
        return started.pop()

    return run


def batch_size_of(cfg):
    return cfg.tree()["TrainReader"].value.settings["batch_size"].plain()


def test_the_flag_sets_the_batch_size_and_scales_the_rate(flags, tmp_path, monkeypatch, logged):
    requests = []
    measured, _ = machine(own=4)
    monkeypatch.setattr(auto_batch, "measure", lambda request, size: requests.append(request) or measured(size))
    cfg = flags("--auto_batch", "-o", "base_batch_size=null", "TrainReader.batch_size=4", "accumulate_steps=2")
    assert (batch_size_of(cfg), cfg.run.base_batch_size) == (76, 8)  # the rate is for 4 images x 2 batches
    assert "batch_size 76 instead of 4" in logged.text and "scaled linearly, x 19" in logged.text
    assert requests[0].overrides[-1] == "accumulate_steps=2"
    assert flags("--auto_batch", "-o", "base_batch_size=16").run.base_batch_size == 16  # of the config: it stays
    assert json.loads((tmp_path / "output/yolof_demo/auto_batch.json").read_text())["batch_size"] == 76


def test_a_resumed_run_keeps_its_batch_size(flags, tmp_path, monkeypatch, logged):
    measured, _ = machine()
    monkeypatch.setattr(auto_batch, "measure", lambda request, size: measured(size))
    flags("--auto_batch")
    monkeypatch.setattr(auto_batch, "measure", None)  # not called again
    (tmp_path / "output/yolof_demo/checkpoints/epoch_0001").mkdir(parents=True)
    monkeypatch.setattr("ppdet_repro.engine.training.checkpoint.list_checkpoints", lambda folder: ["epoch_0001"])
    assert batch_size_of(flags("--auto_batch", "--resume")) == 76
    (tmp_path / "output/yolof_demo/auto_batch.json").write_text("{")
    with pytest.raises(UserError, match="auto_batch.json: damaged; delete it"):
        flags("--auto_batch", "--resume")


def test_the_launcher_of_several_gpus(flags, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with pytest.raises(UserError, match="--auto_batch measures one process"):
        flags("--auto_batch")


def test_a_process_that_fails(monkeypatch):
    """Out of memory is an answer, a user's mistake an error, and anything else a bug."""
    request = batch_memory.Request("CONFIG", [])

    def ends(returncode, stdout="", stderr=""):
        done = SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)
        monkeypatch.setattr(batch_memory.subprocess, "run", lambda *arguments, **options: done)
        return batch_memory.measure(request, 2)

    assert ends(-9) is None
    assert ends(1, stderr="ResourceExhaustedError: \n\nOut of memory error on GPU 0.") is None
    with pytest.raises(UserError, match="no such file"):
        ends(0, stdout='memory of a batch: {"error": "no such file"}')
    with pytest.raises(RuntimeError, match="segfault"):
        ends(-11, stderr="segfault")
