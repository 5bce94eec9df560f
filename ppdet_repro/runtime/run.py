"""Detection over image files or over a video, as infer.py's flags say."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import List, Union

from tqdm import tqdm

from ppdet_repro.data.source.categories import COCO
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.runtime.background import BackgroundCalls
from ppdet_repro.runtime.faster import compare_engines
from ppdet_repro.runtime.pipeline import Detected, Pipeline, batched
from ppdet_repro.runtime.results import csv_writer, video_writer, write_json
from ppdet_repro.runtime.slicing import SlicedPipeline
from ppdet_repro.runtime.sources import ImageList, check_complete, coco_images, list_images, open_video, with_coco_ids
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import check_output_dir
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.visualize import draw_detections, left_out, output_names, write_image

AnyPipeline = Union[Pipeline, SlicedPipeline]


def run_images(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on image files. Write images with boxes, bbox.json and boxes.csv, and print the AP, as the flags say.

    UserError, after the results of the others are written, if images cannot be read; or before, if results would
    overwrite an input.
    """
    images = choose_images(flags, len(labels))
    batches = list(batched(range(len(images.files)), flags.batch_size))
    if flags.run_benchmark:
        for batch in batches:
            pipeline.benchmark([images.files[i] for i in batch])
        if isinstance(pipeline, Pipeline):
            inputs = pipeline.preprocess([images.files[i] for i in batches[0]])._asdict()
            compare_engines(pipeline.engine, flags, inputs)
        return
    folder, names = Path(flags.output_dir), output_names(images.files)
    if flags.save_images:
        check_output_dir(folder, names, images.files, None if flags.image_file else flags.image_dir)
    results: List[ImageDetections] = []
    done: List[str] = []  # their names
    failures: List[UserError] = []

    def save(name: str, found: Detected) -> None:
        write_image(folder / name, draw_detections(*found, labels, flags.threshold))

    stream = pipeline.outcomes([images.files[i] for i in batch] for batch in batches)
    with (
        BackgroundCalls() as later,
        csv_writer(folder if flags.save_csv else None, labels) as write_rows,
        tqdm(total=len(names), unit="img", desc="detecting", disable=None) as bar,
    ):
        for batch, outcomes in zip(batches, stream):
            for i, found in zip(batch, outcomes):
                if isinstance(found, UserError):
                    failures.append(found)
                    if len(names) > 1:
                        get_logger().error(found)
                    continue
                results.append(ImageDetections(images.ids[i], found.rows))
                done.append(names[i])
                write_rows(names[i], found.rows)
                if flags.save_images:
                    later(partial(save, names[i], found))
            bar.update(len(batch))
    if flags.save_images:
        print(f"{len(results)} images in {folder}")
    if flags.save_results:
        write_json(folder, results, done, images.category_ids)
    if flags.eval_json:
        rows = coco_rows(results, images.category_ids)
        print(evaluate_coco(load_coco_json(flags.eval_json), rows, images.ids).table())
    if failures:
        raise UserError(left_out(len(failures), len(names), str(failures[0])))


def choose_images(flags: Namespace, classes: int) -> ImageList:
    """The image files and the ids that the flags name."""
    if flags.eval_json:
        return coco_images(flags.eval_json, flags.image_dir, classes)
    images = list_images(flags.image_file or flags.image_dir, classes)
    return with_coco_ids(images, COCO.ids) if flags.use_coco_category else images


def run_video(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on a video or a camera, and write its frames with boxes. Ctrl-C stops it. UserError, after the results are
    written, if a video file has fewer frames than it announces."""
    frames = 0
    with open_video(flags.video_file, flags.camera_id) as video:
        folder = Path(flags.output_dir)
        target = folder / video.name
        check_output_dir(folder, [video.name], [flags.video_file] if flags.video_file else [])
        with (
            video_writer(target, video.rate) as write_frame,
            BackgroundCalls() as later,
            csv_writer(folder if flags.save_csv else None, labels) as write_rows,
        ):

            def save(found: Detected) -> None:
                write_frame(draw_detections(*found, labels, flags.threshold))

            try:
                for detected in pipeline.stream(batched(video.frames, flags.batch_size)):
                    for found in detected:
                        later(partial(save, found))
                        write_rows(str(frames), found.rows)
                        frames += 1
            except KeyboardInterrupt:
                print("stopped")
                video = video._replace(announced=0)
    print(f"{frames} frames in {target}")
    check_complete(str(flags.video_file), frames, video.announced)
