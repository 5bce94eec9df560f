"""Writes the files of `fixtures/paddle_versions`, one folder for each Paddle. Run it with the Paddle of the folder:

    PYTHONPATH=.:tests python -m compatibility.write_version_files tests/fixtures/paddle_versions/paddle_3.2

`epoch_0001` is the first checkpoint of two epochs of `small_config`; `expected.json` has digests of its arrays, taken
from the objects in memory, and the losses of the second epoch. The other files hold `values()`: `saved_N.pdparams` are
from `paddle.save`, and `pickled_N.pdparams` from `pickle.dump` with NumPy's arrays, both in the pickle protocol N.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, List, Mapping, Tuple

import numpy as np
from paths import FIXTURES

from ppdet_repro.core.config import Config, load_config
from ppdet_repro.engine import distributed
from ppdet_repro.engine.model_weights import weights_of
from ppdet_repro.engine.training.assembly import assemble
from ppdet_repro.engine.training.checkpoint import EMA, OPTIMIZER, RAW, Checkpointed, list_checkpoints
from ppdet_repro.engine.training.loop import TrainingLoop
from ppdet_repro.paddle_private.optimizer_state import optimizer_state

OLD = FIXTURES / "version_0_1_0"
SMALLER = [  # than the model of `version_0_1_0`
    "ResNet.width_mult=0.015625",
    "DilatedEncoder.out_channels=[8]",
    "DilatedEncoder.block_mid_channels=4",
    *(f"YOLOFHead.conv_feat.{name}=8" for name in ("feat_in", "feat_out")),
    "TrainReader.batch_size=1",
    "log_iter=1",
]
SPLIT = "UnpackBigParamInfor@@"  # Paddle's entry about arrays over 1 GB, which it saves in pieces


def small_config(folder: Path, *overrides: str) -> Config:
    """A small YOLOF, Adam and a moving average, on six images. `folder` receives a file and the runs."""
    path = folder / "small.yml"
    text = (OLD / "tiny.yml").read_text(encoding="utf-8").replace("DATA", str(OLD / "data"))
    path.write_text(text.replace("type: Momentum, momentum: 0.9", "type: Adam"), encoding="utf-8")
    return load_config(path, [*SMALLER, f"save_dir={folder}/output", *overrides])


def values() -> Dict[str, np.ndarray]:
    """Arrays of the types and shapes that state dicts have."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "norm._mean": rng.normal(size=4),
        "half": rng.normal(size=3).astype(np.float16),
        "count": np.array([1, -2, 1 << 40]),
        "byte": np.array([-128, 127], np.int8),
        "frozen": np.array([True, False]),
        "step": np.array(7, np.int32),
        "nothing": np.zeros((0, 4), np.float32),
        "transposed": np.asfortranarray(rng.normal(size=(2, 5)).astype(np.float32)),
    }


def brain_floats() -> Tuple[List[float], float]:
    """Numbers that bfloat16 can hold: an array's and a single one."""
    return [1.0, -2.5, 0.0078125], 3.0


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A checksum of names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        sha.update(f"{name} {value.dtype.str} {value.shape} ".encode() + value.tobytes())
    return sha.hexdigest()


def contents(objects: Checkpointed) -> Dict[str, Mapping[str, np.ndarray]]:
    """What a checkpoint's files should hold, by their names."""
    assert objects.ema is not None
    return {
        RAW: weights_of(objects.model),
        OPTIMIZER: optimizer_state(objects.optimizer, objects.model),
        EMA: objects.ema.state(),
    }


def write_checkpoint(folder: Path) -> None:
    """Train two epochs; keep the checkpoint of the first one and what is expected of it."""
    with TemporaryDirectory() as temporary:
        loop = TrainingLoop(assemble(small_config(Path(temporary)), distributed.start(False), None, True))
        with loop.open_log() as log:
            loop.one_epoch(log)
            loop.snapshot(log)
        digests = {name: digest(arrays) for name, arrays in contents(loop.checkpointed).items()}
        loop.train()
        lines = [json.loads(line) for line in (loop.run.folder / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["epoch"] == 2]
        shutil.copytree(list_checkpoints(loop.run.folder)[0], folder / "epoch_0001")
    (folder / "expected.json").write_text(json.dumps({"digests": digests, "losses": losses}, indent=1) + "\n")


def write_values(folder: Path) -> None:
    """Write `values()` with every writer and protocol."""
    import paddle  # after the package, which prepares the process for it

    tensors = {name: paddle.to_tensor(value) for name, value in values().items()}
    array, number = brain_floats()
    tensors["brain"] = paddle.to_tensor(array).astype("bfloat16")
    tensors["brain_number"] = paddle.to_tensor(number).astype("bfloat16")
    for protocol in (2, 3, 4):
        paddle.save(tensors, str(folder / f"saved_{protocol}.pdparams"), protocol=protocol)
    big = np.arange(6, dtype=np.float32)
    for protocol in range(6):
        pieces = {"big@@.0": big[:4], "big@@.1": big[4:]}
        table = {"big": {"OriginShape": (2, 3), "slices": list(pieces)}}
        content = {**values(), **pieces, SPLIT: table, "number": np.float32(2.5), "pair": ("name", np.arange(3))}
        (folder / f"pickled_{protocol}.pdparams").write_bytes(pickle.dumps(content, protocol))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_checkpoint(target)
    write_values(target)
