"""Run a trained model on image files, draw the detections and write them to a file."""

from __future__ import annotations

import itertools
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Union

import numpy as np
from paddle import nn

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.base import Source
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.source.text import is_hidden, read_lines
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.evaluation.evaluate import detect
from ppdet_repro.engine.evaluation.result_files import write_rows
from ppdet_repro.engine.sliced import detect_sliced, sliced_pipeline
from ppdet_repro.engine.training.curves import open_visualdl
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.runtime.slicing import SliceOptions
from ppdet_repro.runtime.sources import ImageList, coco_images
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import check_output_dir
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.visualize import draw_detections, left_out, output_names, write_image

IMAGES_PER_FRAME = 10  # in VisualDL


def infer(
    model: nn.Layer,
    cfg: Config,
    files: Sequence[str],
    output_dir: Union[str, Path] = "output",
    draw_threshold: float = 0.5,
    visualize: bool = True,
    save_results: bool = False,
    save_threshold: float = 0.5,
    slices: Optional[SliceOptions] = None,
    vdl_dir: Optional[str] = None,
    ids: Optional[Sequence[int]] = None,
) -> List[ImageDetections]:
    """Detect objects in image files, which TestReader prepares.

    Returns all detections of each file; `im_id` is the position of the file, from 0. Raises UserError if the results
    cannot be written or would overwrite an input; and, after the results of the others are written, if files are not
    images.

    Args:
        output_dir: Folder for the results.
        draw_threshold: The lowest score of a box that is drawn.
        visualize: Draw the boxes into a copy of each image.
        save_results: Write the boxes as COCO result rows with file names to `output_dir`/bbox.json.
        save_threshold: The lowest score of a box that is written.
        slices: Detect on overlapping slices of each image.
        vdl_dir: Folder to which the images, with and without boxes, are written for VisualDL, too.
        ids: The ids of the files in bbox.json; by default their positions.
    """
    dataset = build(cfg, "TestDataset")
    dataset.set_images(files)
    files, names = dataset.table.files, dataset.class_names
    output_files = output_names(files)
    if visualize:
        check_output_dir(Path(output_dir), output_files, files)
    results = []
    with visualdl_images(vdl_dir if visualize else None) as show:
        for found in detections(model, cfg, dataset, slices):
            results.append(found)
            if visualize:
                image = read_image(files[found.im_id])
                drawn = draw_detections(image, found.rows, names, draw_threshold)
                write_image(Path(output_dir) / output_files[found.im_id], drawn)
                show(image, drawn)
    if visualize:
        get_logger().info(f"{len(results)} images with drawn boxes in {output_dir}")
    if save_results:
        rows = []
        for im_id, found in ((found.im_id if ids is None else ids[found.im_id], found) for found in results):
            kept = ImageDetections(im_id, found.rows[found.rows[:, 1] >= save_threshold])
            named = {"file_name": output_files[found.im_id]}
            rows += [{**row, **named} for row in coco_rows([kept], dataset.category_ids, cfg.run.bias)]
        write_rows(rows, output_dir)
    missing = sorted(set(range(len(files))) - {found.im_id for found in results})
    if missing:
        raise UserError(left_out(len(missing), len(files), f"{files[missing[0]]}; a warning says why"))
    return results


def detections(
    model: nn.Layer, cfg: Config, dataset: Source, slices: Optional[SliceOptions]
) -> Iterator[ImageDetections]:
    """The detections on the images of a dataset, which TestReader prepares, or on slices of them."""
    reader, count = build(cfg, "TestReader"), len(dataset)
    if slices is not None:
        pipeline = sliced_pipeline(model, reader.preprocess, slices, reader.batch_size)
        return detect_sliced(pipeline, dataset.table.files, range(count))
    batches = reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=min(cfg.run.worker_num, count))
    return detect(model, batches, count)


@contextmanager
def visualdl_images(folder: Optional[str]) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """A function that writes an RGB image, and the same image with boxes, for VisualDL; without a folder it does
    nothing. As in PaddleDetection, "original/frame_0" and "result/frame_0" have the first ten images, and so on."""
    if folder is None:
        yield lambda image, drawn: None
        return
    positions = itertools.count()
    with closing(open_visualdl(folder)) as writer:

        def show(image: np.ndarray, drawn: np.ndarray) -> None:
            frame, step = divmod(next(positions), IMAGES_PER_FRAME)
            writer.add_image(f"original/frame_{frame}", image, step)
            writer.add_image(f"result/frame_{frame}", drawn, step)

        yield show
    get_logger().info(f"images for VisualDL in {folder}")


def annotated_images(cfg: Config) -> ImageList:
    """All images of TestDataset's annotation file, with its ids. UserError: it is no COCO JSON file, or an image is
    missing."""
    dataset = build(cfg, "TestDataset")
    if not dataset.anno_path or len(dataset.images) != 1:
        raise UserError(f"{cfg.path}: --do_eval needs TestDataset.anno_path, a COCO JSON file, and its image_dir")
    return coco_images(str(Path(dataset.dataset_dir, dataset.anno_path)), dataset.images[0], cfg.run.num_classes)


def choose_images(image: Optional[str], folder: Optional[str], list_file: Optional[str]) -> List[str]:
    """The image files that the arguments of the command line name.

    That is one image if it is given; else the paths in `list_file`, one per line and relative to the folder; else all
    images in the folder. Raises UserError if neither an image nor a folder is given, or something does not exist.
    """
    if image is not None:
        return find_images(image)
    if folder is None:
        raise UserError("give --infer_img FILE or --infer_dir FOLDER")
    if list_file is None:
        files = find_images(folder)
    else:
        if not os.path.isfile(list_file):
            raise UserError(f"--infer_list {list_file} cannot be read: there is no such file")
        names = [line for _, line in read_lines(list_file) if not is_hidden(line)]
        files = [file for name in names for file in find_images(listed_path(folder, name))]
    if not files:
        raise UserError(f"there is no image in {list_file or folder}")
    return files


def listed_path(folder: str, name: str) -> str:
    """The path of a list's entry in a folder, which may be in quotes, or have back slashes for slashes."""
    path = os.path.join(folder, name)
    other = os.path.join(folder, name.strip("\"'").replace("\\", "/"))
    return other if os.path.exists(other) and not os.path.exists(path) else path
