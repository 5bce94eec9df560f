"""One run of infer.py: over image files, or over a video."""
from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import List, Union

from ppdet_repro.data.source.categories import COCO
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.pictures import draw_detections, output_names, write_picture
from runtime.pipeline import Pipeline, batched
from runtime.slicing import SlicedPipeline
from runtime.sources import ImageList, VideoWriter, coco_images, list_images, open_video, with_coco_ids

AnyPipeline = Union[Pipeline, SlicedPipeline]


def run_images(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on image files: pictures, bbox.json and AP as the flags ask."""
    images = choose_images(flags, len(labels))
    output_dir = Path(flags.output_dir)
    names = output_names(images.files)
    results: List[ImageDetections] = []
    for batch in batched(range(len(images.files)), flags.batch_size):
        files = [images.files[i] for i in batch]
        if flags.run_benchmark:
            pipeline.benchmark(files)
            continue
        for i, found in zip(batch, pipeline(files)):
            results.append(ImageDetections(images.ids[i], found.rows))
            if flags.save_images:
                write_picture(output_dir / names[i], draw_detections(*found, labels, flags.threshold))
    if flags.run_benchmark:
        return
    if flags.save_images:
        print(f"{len(results)} pictures in {output_dir}")
    if flags.save_results:
        write_results(output_dir, results, names, images.category_ids)
    if flags.eval_json:
        scores = evaluate_coco(
            load_coco_json(flags.eval_json), coco_rows(results, images.category_ids), images.ids
        )
        print(scores.table())


def choose_images(flags: Namespace, classes: int) -> ImageList:
    """The image files that the flags name, with the ids that they ask for."""
    if flags.eval_json:
        return coco_images(flags.eval_json, flags.image_dir, classes)
    images = list_images(flags.image_file, flags.image_dir, classes)
    return with_coco_ids(images, COCO.ids) if flags.use_coco_category else images


def write_results(
    folder: Path, results: List[ImageDetections], names: List[str], category_ids: List[int]
) -> None:
    """Write bbox.json: COCO result rows with the file names. UserError if the disk refuses."""
    rows = [
        {**row, "file_name": name}
        for found, name in zip(results, names)
        for row in coco_rows([found], category_ids)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bbox.json").write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder / 'bbox.json'}: {error.strerror}") from error
    print(f"{len(rows)} detections in {folder / 'bbox.json'}")


def run_video(pipeline: AnyPipeline, labels: List[str], flags: Namespace) -> None:
    """Detect on a video or camera and write it with boxes; Ctrl-C ends a camera's."""
    with open_video(flags.video_file, flags.camera_id) as video:
        target = Path(flags.output_dir) / video.name
        with VideoWriter(target, video.rate) as writer:
            try:
                for frames in batched(video.frames, flags.batch_size):
                    for found in pipeline(frames):
                        writer.write(draw_detections(*found, labels, flags.threshold))
            except KeyboardInterrupt:
                print("stopped")
    print(f"{pipeline.timer.images} frames in {target}")
