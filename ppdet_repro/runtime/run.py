"""One run of infer.py: over image files, or over a video."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import List, Union

from ppdet_repro.data.source.categories import COCO
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.runtime.overlap import Behind
from ppdet_repro.runtime.pipeline import Detected, Pipeline, batched
from ppdet_repro.runtime.results import CsvWriter, write_json
from ppdet_repro.runtime.slicing import SlicedPipeline
from ppdet_repro.runtime.sources import (
    ImageList,
    VideoWriter,
    check_complete,
    coco_images,
    list_images,
    open_video,
    with_coco_ids,
)
from ppdet_repro.utils.pictures import draw_detections, output_names, write_picture

AnyPipeline = Union[Pipeline, SlicedPipeline]


def run_images(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on image files: pictures, bbox.json, boxes.csv and AP as the flags ask."""
    images = choose_images(flags, len(labels))
    batches = list(batched(range(len(images.files)), flags.batch_size))
    if flags.run_benchmark:
        for batch in batches:
            pipeline.benchmark([images.files[i] for i in batch])
        return
    folder, names = Path(flags.output_dir), output_names(images.files)
    results: List[ImageDetections] = []
    stream = pipeline.stream([images.files[i] for i in batch] for batch in batches)
    with Behind() as later, CsvWriter(folder if flags.save_csv else None, labels) as table:
        for batch, detected in zip(batches, stream):
            for i, found in zip(batch, detected):
                results.append(ImageDetections(images.ids[i], found.rows))
                table.write(names[i], found.rows)
                if flags.save_images:
                    later(partial(save_picture, folder / names[i], found, labels, flags.threshold))
    if flags.save_images:
        print(f"{len(results)} pictures in {folder}")
    if flags.save_results:
        write_json(folder, results, names, images.category_ids)
    if flags.eval_json:
        rows = coco_rows(results, images.category_ids)
        print(evaluate_coco(load_coco_json(flags.eval_json), rows, images.ids).table())


def choose_images(flags: Namespace, classes: int) -> ImageList:
    """The image files that the flags name, with the ids that they ask for."""
    if flags.eval_json:
        return coco_images(flags.eval_json, flags.image_dir, classes)
    images = list_images(flags.image_file, flags.image_dir, classes)
    return with_coco_ids(images, COCO.ids) if flags.use_coco_category else images


def save_picture(path: Path, found: Detected, labels: List[str], threshold: float) -> None:
    """Write the image with its boxes."""
    write_picture(path, draw_detections(*found, labels, threshold))


def run_video(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on a video or camera and write it with boxes; Ctrl-C ends a camera's. UserError if a video file ends
    before the frames that it announces; what was found until then is written."""
    frames = 0
    with open_video(flags.video_file, flags.camera_id) as video:
        folder = Path(flags.output_dir)
        target = folder / video.name
        with (
            VideoWriter(target, video.rate) as writer,
            Behind() as later,
            CsvWriter(folder if flags.save_csv else None, labels) as table,
        ):
            try:
                for detected in pipeline.stream(batched(video.frames, flags.batch_size)):
                    for found in detected:
                        later(partial(save_frame, writer, found, labels, flags.threshold))
                        table.write(str(frames), found.rows)
                        frames += 1
            except KeyboardInterrupt:
                print("stopped")
                video = video._replace(announced=0)
    print(f"{frames} frames in {target}")
    check_complete(flags.video_file, frames, video.announced)


def save_frame(writer: VideoWriter, found: Detected, labels: List[str], threshold: float) -> None:
    """Append the frame with its boxes to the video."""
    writer.write(draw_detections(*found, labels, threshold))
