"""Average the weights of several checkpoints: stochastic weight averaging.

The running statistics of batch norms are not weights. They must describe the activations of the averaged network, so
they are measured again on training images.
Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from ppdet_repro.core.config import Config, build, build_model
from ppdet_repro.core.contract import Batch
from ppdet_repro.engine.model_weights import Weights, load_exact, weights_of
from ppdet_repro.engine.models import mode
from ppdet_repro.engine.training.checkpoint import MODEL
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.optimizer.ema import RUNNING_STATISTICS
from ppdet_repro.paddle_private.layers import is_frozen, momentum, set_momentum
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.weights import read_state, save_state


def average_checkpoints(paths: Sequence[str], output: str, cfg: Optional[Config] = None, batches: int = 200) -> Weights:
    """Write the average of checkpoints to a file, and return it. Raises UserError if a file cannot be read or written,
    the checkpoints belong to different models, or a config is needed.

    Args:
        paths: Two or more checkpoint folders or weight files of the same model.
        output: The file to write, ending in `.pdparams`.
        cfg: The config that trained the checkpoints. It is needed if their running statistics differ, to measure those
            of the average. Frozen batch norms keep their statistics, which all checkpoints share.
        batches: How many batches of TrainReader to measure on.
    """
    files = [Path(path) / MODEL if Path(path).is_dir() else Path(path) for path in paths]
    if not output.endswith(".pdparams"):
        raise UserError(f"--output {output} must end with .pdparams")
    if len(files) < 2:
        raise UserError(f"averaging needs at least two checkpoints, {len(files)} given")
    weights, moved = average([read_state(file) for file in files], files)
    if moved:
        if cfg is None:
            raise UserError(
                f"{len(moved)} running statistics of batch norms differ between the checkpoints ({moved[0]}, ...); "
                "those of the average must be measured on training images: give the config with -c"
            )
        weights = with_new_statistics(cfg, files[0], weights, batches)
    try:
        save_state(Path(output), weights)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    get_logger().info(f"{len(files)} checkpoints averaged in {output}; {len(moved)} running statistics measured again")
    return weights


def average(states: Sequence[Mapping[str, np.ndarray]], files: Sequence[Path]) -> Tuple[Weights, List[str]]:
    """The mean of several states, computed in double precision, and the names of running statistics that differ.
    Integers are not averaged: those of the last state are kept. UserError: names or shapes differ."""
    first = states[0]
    for state, file in zip(states, files):
        other = [n for n in first if n not in state or state[n].shape != first[n].shape]
        other += [n for n in state if n not in first]
        if other:
            differences = ", ".join(other[:4])
            raise UserError(f"{file} is not a file of the same model as {files[0]}: they differ in {differences}")
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
    """The weights with running statistics measured on the config's training images.
    `file` is one of the averaged files. Raises UserError if it does not belong to the config's model."""
    model = build_model(cfg)
    load_exact(model, file)
    model.set_state_dict(weights)
    dataset = build(cfg, "TrainDataset")
    dataset.load()
    reader = build(cfg, "TrainReader")
    run, total = cfg.run, max(cfg.run.epoch, 1)
    images = reader.batches(  # with the transforms of the last epoch
        dataset, epoch=total - 1, epochs_total=total, seed=run.seed, workers=run.worker_num
    )
    measure_statistics(model, islice(images, batches))
    return weights_of(model)


@paddle.no_grad()
def measure_statistics(model: Detector, batches: Iterable[Batch]) -> None:
    """Set the running statistics of all batch norms to the means over batches; frozen batch norms keep theirs.

    With momentum i / (i + 1) at batch i, counted from 0, the running value is the mean of i + 1 values.
    """
    kinds = (nn.BatchNorm2D, nn.SyncBatchNorm)
    norms = [layer for layer in model.sublayers() if isinstance(layer, kinds) and not is_frozen(layer)]
    momenta = [momentum(norm) for norm in norms]
    with mode(model, training=True):
        for i, batch in enumerate(batches):
            for norm in norms:
                set_momentum(norm, i / (i + 1))
            model.raw(batch["image"])
    for norm, value in zip(norms, momenta):
        set_momentum(norm, value)
