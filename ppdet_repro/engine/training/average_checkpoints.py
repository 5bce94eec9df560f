"""One model from many checkpoints: stochastic weight averaging.

Weights are averaged. Batch norm's running statistics are not weights: those of the averaged network are what its
own activations have, so they are measured anew on training images.
Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.config import Config, build, build_model
from ppdet_repro.engine.training.checkpoint import MODEL, load_exact, weights_of
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import RUNNING_STATISTICS
from ppdet_repro.paddle_private.layers import is_frozen, momentum, set_momentum
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state, save_state

Weights = Dict[str, np.ndarray]


def average_checkpoints(paths: Sequence[str], output: str, cfg: Optional[Config] = None, batches: int = 200) -> Weights:
    """Write the average of checkpoints (folders or weight files) to `output`, and return it.

    cfg       the config that trained them: batch norms that learned get new running statistics from so many
              `batches` of TrainReader; frozen ones keep theirs, which all checkpoints share

    UserError: a file cannot be read, the files are not of one model, running statistics differ and there is no
    config to measure them with, or the output cannot be written.
    """
    files = [Path(path) / MODEL if Path(path).is_dir() else Path(path) for path in paths]
    if not output.endswith(".pdparams"):
        raise UserError(f"--output {output} must end with .pdparams")
    if len(files) < 2:
        raise UserError(f"averaging takes two checkpoints at least, {len(files)} given")
    weights, moved = average([read_state(file) for file in files], files)
    if moved and cfg is None:
        raise UserError(
            f"{len(moved)} running statistics of batch norms differ between the checkpoints ({moved[0]}, ...); the "
            "average of the weights needs its own: give the config with -c, whose training images measure them"
        )
    if moved:
        weights = with_new_statistics(cfg, files[0], weights, batches)
    try:
        save_state(Path(output), weights)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    get_logger().info(f"{len(files)} checkpoints averaged in {output}; {len(moved)} running statistics measured anew")
    return weights


def average(states: Sequence[Mapping[str, np.ndarray]], files: Sequence[Path]) -> Tuple[Weights, List[str]]:
    """The mean of the states, summed in double precision, and the names of running statistics that differ.

    UserError: names or shapes differ.
    """
    first = states[0]
    for state, file in zip(states, files):
        other = [n for n in first if n not in state or state[n].shape != first[n].shape]
        other += [n for n in state if n not in first]
        if other:
            raise UserError(f"{file} is not of the model of {files[0]}: they differ in {', '.join(other[:4])}")
    weights, moved = {}, []
    for name, value in first.items():
        values = np.stack([state[name] for state in states])
        if name.endswith(RUNNING_STATISTICS) and not (values == values[0]).all():
            moved.append(name)
        if np.issubdtype(value.dtype, np.floating):
            weights[name] = values.mean(axis=0, dtype=np.float64).astype(value.dtype)
        else:
            weights[name] = values[-1]
    return weights, moved


def with_new_statistics(cfg: Config, file: Path, weights: Weights, batches: int) -> Weights:
    """The weights with running statistics measured on the config's training images; `file` is one of the averaged.

    UserError: the file is not of the config's model.
    """
    model = build_model(cfg)
    load_exact(model, file)
    model.set_state_dict(weights)
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    reader = build(cfg, "TrainReader")
    epoch = max(cfg.run.epoch - 1, 0)  # what the last epoch saw
    images = reader.batches(
        dataset, epoch=epoch, epochs_total=max(cfg.run.epoch, 1), seed=cfg.run.seed, workers=cfg.run.worker_num
    )
    measure_statistics(model, islice(images, batches))
    return weights_of(model)


@paddle.no_grad()
def measure_statistics(model: Detector, batches: Iterable[Mapping[str, Any]]) -> None:
    """Give every batch norm that normalises by the batch the mean of the batches' means and variances.

    After batch i of the running ones, momentum i / (i + 1) makes the running value the mean of i + 1 values.
    """
    norms = [
        layer
        for layer in model.sublayers()
        if isinstance(layer, (nn.BatchNorm2D, nn.SyncBatchNorm)) and not is_frozen(layer)
    ]
    momenta = [momentum(norm) for norm in norms]
    was_training = model.training
    model.train()
    try:
        for i, batch in enumerate(batches):
            for norm in norms:
                set_momentum(norm, i / (i + 1))
            model.raw(batch["image"])
    finally:
        for norm, value in zip(norms, momenta):
            set_momentum(norm, value)
        if not was_training:
            model.eval()
