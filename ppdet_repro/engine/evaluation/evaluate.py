"""Evaluates a detector on the dataset of a config.

With several processes, each detects on its share of the images. The first process gathers all detections and computes
the metric, so the result is that of a single process.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Union

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from tqdm import tqdm

from ppdet_repro.core.config import Config, RunSettings, build
from ppdet_repro.core.contract import Batch
from ppdet_repro.data.reader.readers import EvalReader
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.source.coco import SlicedCOCODataSet
from ppdet_repro.data.source.text import is_json
from ppdet_repro.engine.analysis.report import EvaluationResult, write_report
from ppdet_repro.engine.analysis.tide import import_tidecv, tide_errors
from ppdet_repro.engine.distributed import gather_results
from ppdet_repro.engine.evaluation import multi_scale
from ppdet_repro.engine.evaluation.result_files import RESULT_FILE, write_rows, write_scores, write_server_files
from ppdet_repro.engine.models import mode
from ppdet_repro.engine.sliced import detect_sliced, sliced_pipeline
from ppdet_repro.metrics.coco import COCOScores, evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import (
    Document,
    ImageDetections,
    Objects,
    Rows,
    coco_document,
    coco_rows,
    from_coco_document,
    from_coco_rows,
    merge_ranks,
    read_rows,
    split_batch,
)
from ppdet_repro.metrics.f1 import best_f1
from ppdet_repro.metrics.voc import VOCScores, evaluate_voc
from ppdet_repro.runtime.slicing import SliceOptions
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

Scores = Union[COCOScores, VOCScores]
AnyBatch = Union[Batch, multi_scale.ViewBatches]
Examine = Callable[[EvaluationResult], None]


def evaluate(
    model: nn.Layer,
    cfg: Config,
    dataset: Optional[Source] = None,
    slices: Optional[SliceOptions] = None,
    examine: Optional[Examine] = None,
) -> Dict[str, float]:
    """Evaluate a detector on a config's EvalDataset.

    The config also says which metric to compute, which files to write and whether to test at several sizes; see
    "evaluation" in `RunSettings`. The model is in eval mode while it runs. Returns the scores by name, such as
    `bbox_mAP`, on every process; none with `save_prediction_only`. Raises UserError if the dataset, the metric and the
    model do not fit together, or a file cannot be written. The first process gives the result to `examine`.
    With `slices`, or if the dataset is a `SlicedCOCODataSet`, the detector sees overlapping slices of each image. The
    dataset's size and overlap of slices beat those of `slices`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ppdet_repro import build_model, load_config
        >>> from ppdet_repro.data.source.synthetic import generate
        >>> with TemporaryDirectory() as folder:
        ...     data = generate(f"{folder}/data", train=1, val=2, size=(64, 64))
        ...     cfg = load_config("demo/yolof_demo.yml", [f"EvalDataset.dataset_dir={data}", "worker_num=0"])
        ...     scores = evaluate(build_model(cfg), cfg)
        >>> round(scores["bbox_mAP"], 1)  # the weights are random
        0.0
    """
    run, reader = cfg.run, build(cfg, "EvalReader")
    dataset = build(cfg, "EvalDataset") if dataset is None else dataset
    check_evaluation(dataset, cfg)
    rank, world = dist.get_rank(), dist.get_world_size()

    def batches_of(reader: EvalReader) -> Iterable[Batch]:
        return reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=run.worker_num, rank=rank, world=world)

    views = multi_scale.list_views(run.test_scales or [], run.test_flip)
    slices = slices_of(dataset, slices, len(views))
    batches = view_batches(reader, views, batches_of) if views else batches_of(reader)
    if views:
        model = multi_scale.MultiViewDetector(model, views)
    start = time.perf_counter()

    def detect_all() -> List[ImageDetections]:
        if slices is None:
            return list(detect(model, batches, len(dataset)))
        pipeline = sliced_pipeline(model, reader.preprocess, slices, reader.batch_size)
        table = dataset.table
        return list(detect_sliced(pipeline, table.files[rank::world], table.ids[rank::world].tolist()))

    parts = gather_results(detect_all)

    def scores_of_all() -> Dict[str, float]:
        if rank > 0:
            return {}
        detections = merge_ranks(parts, dataset.table.ids.tolist())
        seconds = time.perf_counter() - start
        get_logger().info(f"{len(detections)} images in {seconds:.1f} s, {len(detections) / seconds:.2f} img/s")
        return evaluate_detections(detections, dataset, run, examine)

    return gather_results(scores_of_all)[0]


def view_batches(
    reader: EvalReader, views: Sequence[multi_scale.View], batches_of: Callable[[EvalReader], Iterable[Batch]]
) -> Iterable[AnyBatch]:
    """The batches of a dataset in several views of each image."""
    readers = [multi_scale.reader_of_view(reader, view) for view in views]
    groups = zip(*(batches_of(reader) for reader in readers))  # the same images in the same order
    return (multi_scale.ViewBatches(im_id=group[0]["im_id"], views=group) for group in groups)


def slices_of(dataset: Source, slices: Optional[SliceOptions], views: int) -> Optional[SliceOptions]:
    """How to slice the images of a dataset, if `slices` is what the user asked for; None for whole images. Raises
    UserError if each image has several `views`."""
    if isinstance(dataset, SlicedCOCODataSet):
        slices = slices or SliceOptions()
        slices = slices._replace(slice_size=dataset.sliced_size, overlap_ratio=dataset.overlap_ratio)
    if slices and views:
        raise UserError("slices cannot be combined with the settings test_scales and test_flip; remove one of them")
    return slices


def detect(model: nn.Layer, batches: Iterable[AnyBatch], images: int) -> Iterator[ImageDetections]:
    """Run a detector on batches and yield the detections of each image. The model is in eval mode meanwhile.
    `images` is the number of images on all processes, for the progress bar of the first process."""
    hidden = True if dist.get_rank() else None  # None: hidden unless on a terminal
    with mode(model, training=False), tqdm(total=images, unit="img", desc="detecting", disable=hidden) as bar:
        for batch in batches:
            with paddle.no_grad():
                found = model(batch)
            rows = split_batch(*(t.numpy() for t in (batch["im_id"], found["bbox"], found["bbox_num"])))
            yield from rows
            bar.update(min(len(rows) * dist.get_world_size(), images - bar.n))


def evaluate_detections(
    detections: Sequence[ImageDetections], dataset: Source, run: RunSettings, examine: Optional[Examine] = None
) -> Dict[str, float]:
    """Write the detections if the settings ask for it, then compute and log the scores and return them by name.

    If a COCO file has no ground truth, as that of test-dev, the detections are written in any case, for COCO's
    evaluation server; the scores are -1.
    """
    rows = coco_rows(detections, dataset.category_ids, run.bias)
    evaluates_coco = run.metric == "COCO" and not run.save_prediction_only
    truth = load_coco_json(annotation_file(dataset)) if evaluates_coco else None
    is_blind = truth is not None and not truth["annotations"]
    if run.output_eval is not None or run.save_prediction_only or is_blind:
        write_rows(rows, run.output_eval or ".")
        if run.metric == "VOC":
            write_server_files(detections, dataset, run.output_eval or ".")
    if run.save_prediction_only:
        return {}
    scores: Scores
    if truth is not None:
        scores = evaluate_coco(truth, rows, [image.im_id for image in detections])
    else:
        objects = voc_truth(dataset)
        truth = coco_document(objects, dataset.category_ids, dataset.class_names)
        scores = evaluate_voc(objects, detections, dataset.class_names, run.map_type)
    return finish(f"evaluation of {len(detections)} images", truth, rows, detections, dataset, scores, run, examine)


def evaluate_file(cfg: Config) -> Dict[str, float]:
    """Compute the scores of the detections that an evaluation wrote to `output_eval`/bbox.json. Raises UserError if the
    file is missing or not in COCO's format, or the metric is not COCO."""
    run = cfg.run
    if run.metric != "COCO":
        raise UserError(f"{cfg.path}: metric is {run.metric}; only COCO result files can be evaluated")
    path = Path(run.output_eval or ".") / RESULT_FILE
    rows = read_rows(path)
    dataset = build(cfg, "EvalDataset")
    truth, ids = load_coco_json(annotation_file(dataset)), dataset.table.ids.tolist()
    scores = evaluate_coco(truth, rows, ids)
    detections = from_coco_rows(rows, dataset.category_ids, ids, run.bias)
    return finish(f"evaluation of {path}", truth, rows, detections, dataset, scores, run)


def finish(
    title: str,
    truth: Document,
    rows: Rows,
    detections: Sequence[ImageDetections],
    dataset: Source,
    scores: Scores,
    run: RunSettings,
    examine: Optional[Examine] = None,
) -> Dict[str, float]:
    """Add precision, recall and F1 to the scores, log them as tables, and return all of them by name. Also log TIDE's
    errors, and write the scores and the HTML report, if the settings ask for them. Without ground truth, log only that
    there are no scores."""
    objects = from_coco_document(truth, dataset.category_ids, [image.im_id for image in detections])
    f1 = best_f1(objects, detections, dataset.class_names)
    values = {**scores.values(), **f1.values()}
    if not truth["annotations"]:
        get_logger().warning(f"{title}: no scores, because the annotations have no ground truth")
        return values
    get_logger().info(f"{title}\n{scores.table()}\n\n{f1.line()}")
    if run.classwise:
        get_logger().info(f"per class\n{scores.class_table()}\n\n{f1.table()}")
    if run.output_eval is not None:
        write_scores(values, run.output_eval)
    errors = None
    if run.tide:
        errors = tide_errors(truth, rows, [image.im_id for image in detections])
        get_logger().info(f"AP50 lost per kind of error\n{errors.table()}")
    files = dict(zip(dataset.table.ids.tolist(), dataset.table.files))
    tables = f"{scores.table()}\n\n{f1.line()}\n\n{scores.class_table()}"
    result = EvaluationResult(
        truth, rows, objects, detections, files, dataset.class_names, dataset.category_ids, tables, f1
    )
    if run.report is not None:
        path = write_report(f"{run.architecture}: {len(detections)} images", result, errors, run.report)
        get_logger().info(f"report in {path}")
    if examine is not None:
        examine(result)
    return values


def check_classes(dataset: Source, cfg: Config, name: str = "EvalDataset") -> None:
    """Raise a `UserError` unless the dataset and the model have the same number of classes."""
    found, wanted = len(dataset.class_names), cfg.run.num_classes
    if found != wanted:
        raise UserError(
            f"{cfg.path}: {name} has {found} classes, but num_classes of the model is {wanted}; make them agree"
        )


def check_evaluation(dataset: Source, cfg: Config) -> None:
    """Check, before hours of detection or training, that a detector of this config can be evaluated on a dataset.
    Raises UserError if the dataset, metric, model and `test_scales` do not fit together, or tidecv is missing."""
    run = cfg.run
    check_classes(dataset, cfg)
    if run.tide:
        import_tidecv()
    if run.metric == "COCO" and not run.save_prediction_only:
        annotation_file(dataset)
    elif not run.save_prediction_only:
        dataset.require_boxes("EvalDataset", "metric VOC")
    for view in multi_scale.list_views(run.test_scales or [], run.test_flip):
        multi_scale.reader_of_view(build(cfg, "EvalReader"), view)


def annotation_file(dataset: Source) -> Path:
    """The path of a dataset's COCO annotation file, else a `UserError`."""
    path = Path(dataset.dataset_dir, dataset.anno_path or "")
    if not is_json(path):
        raise UserError(f"metric COCO needs a COCO JSON file, but EvalDataset.anno_path is {path}; or set metric: VOC")
    return path


def voc_truth(dataset: Source) -> Dict[int, Objects]:
    """The objects of a dataset by image id. Without the field `difficult`, none is difficult."""
    truth: Dict[int, Objects] = {}
    for i in range(len(dataset)):
        record = dataset.record(i)
        classes = record["gt_class"].reshape(-1)
        difficult = record.get("difficult", np.zeros_like(classes)).reshape(-1).astype(bool)
        truth[int(record["im_id"][0])] = Objects(record["gt_bbox"], classes, difficult)
    return truth
