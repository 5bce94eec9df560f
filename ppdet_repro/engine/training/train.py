"""Train the model of a config. Everything that a run writes is in `save_dir`/NAME, where NAME is the config's name."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Optional, Sequence, Union

from ppdet_repro.core.config import Config, load_config
from ppdet_repro.engine import distributed
from ppdet_repro.engine.evaluation.evaluate import evaluate as evaluate_detector
from ppdet_repro.engine.model_weights import load_pretrained
from ppdet_repro.engine.pruning import pruner_of
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.assembly import Evaluation, assemble
from ppdet_repro.engine.training.checkpoint import RunState, find_checkpoint, is_paddledet, list_checkpoints
from ppdet_repro.engine.training.loop import Run, TrainingLoop
from ppdet_repro.utils.downloads import resolve
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger


def train(
    cfg: Union[Config, str, Path],
    overrides: Sequence[str] = (),
    *,
    resume: Optional[str] = None,
    evaluate: bool = False,
    offline: bool = False,
    evaluation: Optional[Evaluation] = None,
) -> RunState:
    """Train the model of a config on its TrainDataset.

    Returns the state at the end: epochs and updates done, and the best score. Raises UserError if the user must change
    the config, the data, the weights or the machine.

    Args:
        cfg: A config, or the path of its file or the name of a packaged one.
        overrides: With a path or name: values of the form `a.b.c=value`, which beat the file.
        resume: A checkpoint's folder to continue from, a checkpoint of PaddleDetection (`out/0` for `out/0.pdparams`),
            or `auto` for the newest checkpoint of this run, if any.
        evaluate: Evaluate every snapshot on EvalDataset, and keep the weights of the best one.
        offline: Take pretrained weights that are a URL from the cache only.
        evaluation: Computes scores by name, `bbox_mAP` among them; all processes call it. None: `evaluate`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ppdet_repro import train
        >>> from ppdet_repro.data.source.synthetic import generate
        >>> with TemporaryDirectory() as folder:
        ...     data = generate(f"{folder}/data", train=2, val=1, size=(64, 64))
        ...     overrides = [f"TrainDataset.dataset_dir={data}", "TrainReader.batch_size=1", "worker_num=0", "epoch=1"]
        ...     state = train("demo/yolof_demo.yml", [*overrides, f"save_dir={folder}/output"])
        >>> state.epoch, state.step
        (1, 2)
    """
    if not isinstance(cfg, Config):
        cfg = load_config(cfg, overrides)
    elif overrides:
        raise ValueError("overrides are for the path of a config; give them to load_config")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean")
    world = distributed.start(cfg.run.use_gpu)
    checkpoint = checkpoint_to_resume(resume, Path(cfg.run.save_dir) / cfg.name)
    if evaluation is None:
        save = partial(run_folder.save_details, Path(cfg.run.save_dir) / cfg.name)
        evaluation = partial(evaluate_detector, examine=save)
    run = assemble(cfg, world, evaluation if evaluate else None, offline, checkpoint)
    loop = TrainingLoop(run)
    if checkpoint is not None:
        loop.resume(checkpoint)
        if is_paddledet(checkpoint) and world.rank == 0:
            run_folder.set_aside(run.folder)
    else:
        start_new_run(run, None if pruner_of(cfg) else cfg.run.pretrain_weights, offline)
    try:
        return loop.train()
    except KeyboardInterrupt:
        if world.rank == 0:
            saved = list_checkpoints(run.folder)
            rest = f"--resume auto continues from {saved[-1]}" if saved else "there is no checkpoint yet"
            get_logger().warning(f"interrupted; {rest}")
        raise


def checkpoint_to_resume(resume: Optional[str], folder: Path) -> Optional[Path]:
    """The checkpoint to continue from, the same on every process. UserError: the processes find different ones."""
    path = None if resume is None else find_checkpoint(resume, folder)
    found = distributed.gather(str(path))
    if len(set(found)) > 1:
        raise UserError(
            f"--resume {resume}: the processes find different checkpoints ({', '.join(found)}); save_dir "
            "must be on a disk that all machines share"
        )
    if path is None and resume is not None:
        get_logger().info(f"--resume auto: {folder} has no checkpoint; starting at the beginning")
    return path


def start_new_run(run: Run, pretrain_weights: Optional[str], offline: bool) -> None:
    """Load pretrained weights, give all processes the same weights, and move an earlier run out of the folder."""
    if pretrain_weights:
        load_pretrained(run.detector, resolve(pretrain_weights, offline))
    if run.world.size > 1:
        distributed.copy_from_first(list(run.model.state_dict().values()))
    if run.world.rank == 0:
        run_folder.set_aside(run.folder)
