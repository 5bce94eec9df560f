"""What Paddle 2.6 (NumPy 1) wrote is read by Paddle 3.2 (NumPy 2), and the other way round.

Each folder in `fixtures/paddle_versions` was written by one Paddle, with `write_version_files.py`, which says what is
in it. Every test reads the files of both.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from compatibility.write_version_files import brain_floats, contents, digest, small_config, values
from paths import FIXTURES

from ppdet_repro.core.config import build_model
from ppdet_repro.engine import distributed
from ppdet_repro.engine.model_weights import load_exact, weights_of
from ppdet_repro.engine.training.assembly import assemble
from ppdet_repro.engine.training.average_checkpoints import average_checkpoints
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.loop import TrainingLoop
from ppdet_repro.engine.training.train import train
from ppdet_repro.utils.weights import read_state

FOLDERS = [FIXTURES / "paddle_versions" / name for name in ("paddle_2.6", "paddle_3.2")]


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def written(request):
    """The folder of files that one Paddle wrote."""
    return request.param


def expected(folder):
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))


def assert_same(found, wanted):
    """The same array: type, shape and values."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", [f"saved_{n}" for n in (2, 3, 4)] + [f"pickled_{n}" for n in range(6)])
def test_arrays_of_every_writer_and_protocol(written, name):
    state = read_state(written / f"{name}.pdparams")
    for key, value in values().items():
        assert_same(state.pop(key), value)
    array, number = (np.array(value, np.float32) for value in brain_floats())
    others = {"big": np.arange(6, dtype=np.float32).reshape(2, 3), "number": np.array(2.5, np.float32)}
    others["pair"] = np.arange(3)
    wanted = {"brain": array, "brain_number": number} if name.startswith("saved") else others
    assert set(state) == set(wanted)
    for key, value in wanted.items():
        assert_same(state[key], value)


def test_arrays_that_were_read_can_be_changed(written):
    for array in read_state(written / "pickled_5.pdparams").values():
        array[...] = 0


def test_a_checkpoint_has_the_arrays_that_were_in_memory(written):
    digests = expected(written)["digests"]
    assert {name: digest(read_state(written / "epoch_0001" / name)) for name in digests} == digests


def test_a_restored_run_has_the_arrays_of_the_checkpoint(written, tmp_path):
    loop = TrainingLoop(assemble(small_config(tmp_path), distributed.start(False), None, True))
    loop.resume(written / "epoch_0001")
    restored = {name: digest(arrays) for name, arrays in contents(loop.checkpointed).items()}
    assert restored == expected(written)["digests"]
    assert (loop.state.epoch, loop.state.step, loop.checkpointed.ema.step) == (1, 6, 6)


def test_weights_in_a_model_are_those_of_the_file(written, tmp_path):
    model = build_model(small_config(tmp_path))
    load_exact(model, written / "epoch_0001" / "model.pdparams")
    assert digest(weights_of(model)) == digest(read_state(written / "epoch_0001" / "model.pdparams"))


def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(written, tmp_path):
    cfg = small_config(tmp_path)
    run = tmp_path / "output" / "small"
    shutil.copytree(written / "epoch_0001", run / "checkpoints" / "epoch_0001")
    train(cfg, resume="auto")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 8, 9, 10, 11, 12]
    assert [line["loss"] for line in lines] == pytest.approx(expected(written)["losses"], rel=1e-4)
    assert [path.name for path in list_checkpoints(run)] == ["epoch_0001", "epoch_0002"]


def test_checkpoints_of_both_are_averaged(tmp_path):
    """Batch norms are measured again, because their statistics differ in the last digits."""
    cfg = small_config(tmp_path)
    paths = [str(folder / "epoch_0001") for folder in FOLDERS]
    mean = average_checkpoints(paths, str(tmp_path / "mean.pdparams"), cfg, batches=1)
    first, second = (read_state(folder / "epoch_0001" / "model.pdparams") for folder in FOLDERS)
    name = "neck.lateral_conv.weight"
    np.testing.assert_allclose(mean[name], (first[name] + second[name]) / 2, rtol=1e-6)
