"""Evaluation: a detector's average precision on the data set of the config.

Over several processes each takes its share of the images; the detections are gathered and judged once, so the
result is that of one process.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Union

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from tqdm import tqdm

from ppdet_repro.core.config import Config, RunSettings, build
from ppdet_repro.data.source.base import Source
from ppdet_repro.engine.analysis.report import Evaluated, coco_document, detections_of, write_report
from ppdet_repro.engine.analysis.tide import tide_errors, tidecv
from ppdet_repro.engine.evaluation.multi_scale import ManyViews, grouped, reader_of, views
from ppdet_repro.metrics.coco import COCOScores, evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, coco_rows, merge_ranks, split_batch
from ppdet_repro.metrics.voc import Objects, VOCScores, evaluate_voc
from ppdet_repro.metrics.voc_files import write_voc_files
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

RESULT_FILE = "bbox.json"


def evaluate(model: nn.Layer, cfg: Config, dataset: Optional[Source] = None) -> Dict[str, float]:
    """The scores of a detector on EvalDataset by name (`bbox_mAP`, ...), the same on every process.

    `dataset`: EvalDataset where the caller has built it already. The config's `metric`, `map_type`,
    `classwise`, `bias`, `test_scales`, `test_flip`, `tide`, `report`, `output_eval` and `save_prediction_only`
    count; with the last the detections are written to bbox.json and the result is empty. UserError if data
    set, metric and model do not belong together.
    """
    dataset = build(cfg, "EvalDataset") if dataset is None else dataset
    dataset.load()
    check_evaluation(dataset, cfg)
    reader = build(cfg, "EvalReader")
    rank, world = dist.get_rank(), dist.get_world_size()

    def batches_of(reader: Any) -> Iterable[Dict[str, Any]]:
        return reader.batches(
            dataset, epoch=0, epochs_total=1, seed=0, workers=cfg.run.worker_num, rank=rank, world=world
        )

    batches, seen = batches_of(reader), views(cfg.run.test_scales or [], cfg.run.test_flip)
    if seen:
        batches = grouped([batches_of(reader_of(reader, view)) for view in seen])
        model = ManyViews(model, seen)
    start = time.perf_counter()
    parts = gather(list(detect(model, batches, len(dataset))))
    scores: Dict[str, float] = {}
    if rank == 0:
        detections = merge_ranks(parts, dataset.table.ids.tolist())
        seconds = time.perf_counter() - start
        get_logger().info(f"{len(detections)} images in {seconds:.1f} s, {len(detections) / seconds:.2f} img/s")
        scores = judge(detections, dataset, cfg.run)
    return gather(scores)[0]


def detect(model: nn.Layer, batches: Iterable[Dict[str, Any]], images: int) -> Iterator[ImageDetections]:
    """Run a detector in eval mode on batches and yield each image's detections; its mode is restored.

    `images` is their number over all processes, for the progress bar, which the first process shows on a
    terminal.
    """
    was_training = model.training
    model.eval()
    try:
        hidden = True if dist.get_rank() else None  # None: hidden unless on a terminal
        with tqdm(total=images, unit="img", desc="detecting", disable=hidden) as bar:
            for batch in batches:
                with paddle.no_grad():
                    found = model(batch)
                rows = split_batch(*(t.numpy() for t in (batch["im_id"], found["bbox"], found["bbox_num"])))
                yield from rows
                bar.update(min(len(rows) * dist.get_world_size(), images - bar.n))
    finally:
        if was_training:
            model.train()


def gather(value: Any) -> List[Any]:
    """The value of each process, in the order of their ranks."""
    if dist.get_world_size() == 1:
        return [value]
    values: List[Any] = []
    dist.all_gather_object(values, value)
    return values


def judge(detections: Sequence[ImageDetections], dataset: Source, run: RunSettings) -> Dict[str, float]:
    """Write the detections where the settings ask for it, log the scores and return them by name."""
    rows = coco_rows(detections, dataset.category_ids, run.bias)
    if run.output_eval is not None or run.save_prediction_only:
        write_rows(rows, run.output_eval or ".")
        if run.metric == "VOC":
            write_server_files(detections, dataset, run.output_eval or ".")
    if run.save_prediction_only:
        return {}
    scores: Union[COCOScores, VOCScores]
    if run.metric == "COCO":
        truth = load_coco_json(annotation_file(dataset))
        scores = evaluate_coco(truth, rows, [image.im_id for image in detections])
    else:
        objects = voc_truth(dataset)
        truth = coco_document(dataset, objects)
        scores = evaluate_voc(objects, detections, dataset.class_names, run.map_type)
    values = report(scores, f"evaluation of {len(detections)} images", run)
    inspect(truth, rows, detections, dataset, scores, run)
    return values


def inspect(
    truth: dict,
    rows: Sequence[dict],
    detections: Sequence[ImageDetections],
    dataset: Source,
    scores: Union[COCOScores, VOCScores],
    run: RunSettings,
) -> None:
    """Log TIDE's errors and write the report, where the settings ask for them."""
    errors = None
    if run.tide:
        errors = tide_errors(truth, rows, [image.im_id for image in detections])
        get_logger().info(f"errors, in AP50 that each costs\n{errors.table()}")
    if run.report is not None:
        files = dict(zip(dataset.table.ids.tolist(), dataset.table.files))
        tables = f"{scores.table()}\n\n{scores.class_table()}"
        done = Evaluated(truth, rows, detections, files, dataset.class_names, dataset.category_ids, tables)
        path = write_report(f"{run.architecture}: {len(detections)} images", done, errors, run.report)
        get_logger().info(f"report in {path}")


def report(scores: Union[COCOScores, VOCScores], title: str, run: RunSettings) -> Dict[str, float]:
    """Log the scores as tables and return them by name."""
    get_logger().info(f"{title}\n{scores.table()}")
    if run.classwise:
        get_logger().info(f"by class\n{scores.class_table()}")
    return scores.values()


def evaluate_file(cfg: Config) -> Dict[str, float]:
    """The scores of the detections that an evaluation wrote to `output_eval`/bbox.json, without a model.

    UserError if the file is missing or broken, or the metric is not COCO.
    """
    if cfg.run.metric != "COCO":
        raise UserError(f"{cfg.path}: metric is {cfg.run.metric}; only COCO result files can be evaluated")
    path = Path(cfg.run.output_eval or ".") / RESULT_FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = [{key: row[key] for key in ("image_id", "category_id", "bbox", "score")} for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; --output_eval names its folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a COCO result file ({type(error).__name__}: {error})") from error
    dataset = build(cfg, "EvalDataset")
    truth, ids = load_coco_json(annotation_file(dataset)), dataset.table.ids.tolist()
    scores = evaluate_coco(truth, rows, ids)
    values = report(scores, f"evaluation of {path}", cfg.run)
    if cfg.run.tide or cfg.run.report is not None:
        inspect(truth, rows, detections_of(rows, dataset.category_ids, ids, cfg.run.bias), dataset, scores, cfg.run)
    return values


def write_rows(rows: List[dict], folder: Union[str, Path]) -> Path:
    """Write COCO result rows to `folder`/bbox.json. UserError if the disk refuses."""
    path = Path(folder) / RESULT_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(rows).encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    get_logger().info(f"{len(rows)} detections written to {path}")
    return path


def write_server_files(detections: Sequence[ImageDetections], dataset: Source, folder: Union[str, Path]) -> None:
    """Write the files that the VOC server takes to `folder`, named for the data set's split. UserError if the disk
    refuses."""
    names = {int(im_id): Path(file).stem for im_id, file in zip(dataset.table.ids, dataset.table.files)}
    split = Path(dataset.anno_path or "set").stem
    try:
        paths = write_voc_files(detections, dataset.class_names, names, split, folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    get_logger().info(f"for the VOC server: {paths[0]} and {len(paths) - 1} more")


def check_classes(dataset: Source, cfg: Config, name: str = "EvalDataset") -> None:
    """UserError if the data set has another number of classes than the model."""
    classes = len(dataset.class_names)
    if classes != cfg.run.num_classes:
        raise UserError(
            f"{cfg.path}: {name} has {classes} classes, but num_classes of the model is "
            f"{cfg.run.num_classes}; make them agree"
        )


def check_evaluation(dataset: Source, cfg: Config) -> None:
    """UserError for what would end an evaluation on this data set; a training asks before its first epoch, which would
    be lost with it."""
    check_classes(dataset, cfg)
    check_metric(dataset, cfg.run)
    for view in views(cfg.run.test_scales or [], cfg.run.test_flip):
        reader_of(build(cfg, "EvalReader"), view)


def check_metric(dataset: Source, run: RunSettings) -> None:
    """UserError if the metric needs what the data set or the machine does not have; found before a model runs for
    hours."""
    if run.tide:
        tidecv()
    if run.save_prediction_only:
        return
    if run.metric == "COCO":
        annotation_file(dataset)
    elif not {"gt_bbox", "gt_class"} <= set(dataset.record(0)):
        raise UserError("metric VOC needs gt_bbox and gt_class in EvalDataset.data_fields")


def annotation_file(dataset: Source) -> Path:
    """The COCO file of a data set. UserError if it has none."""
    path = Path(dataset.dataset_dir, dataset.anno_path or "")
    if path.suffix != ".json":
        raise UserError(f"metric COCO needs a COCO json, EvalDataset.anno_path is {path}; or set metric: VOC")
    return path


def voc_truth(dataset: Source) -> Dict[int, Objects]:
    """The objects of each image id; none is difficult if the data set does not say."""
    truth = {}
    for i in range(len(dataset)):
        record = dataset.record(i)
        classes = record["gt_class"].reshape(-1)
        difficult = record.get("difficult", np.zeros_like(classes)).reshape(-1).astype(bool)
        truth[int(record["im_id"][0])] = Objects(record["gt_bbox"], classes, difficult)
    return truth
