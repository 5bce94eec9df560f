"""Inference on pictures with a trained model: drawn boxes and result files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence, Union

from paddle import nn

from ppdet_repro.core.config import Config, build
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.evaluation.evaluate import detect, write_rows
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.pictures import draw_detections, output_names, write_picture


def infer(
    model: nn.Layer,
    cfg: Config,
    files: Sequence[str],
    output_dir: Union[str, Path] = "output",
    draw_threshold: float = 0.5,
    visualize: bool = True,
    save_results: bool = False,
    save_threshold: float = 0.5,
) -> List[ImageDetections]:
    """Detect on image files with TestReader's transforms; the ids of the result count the files from 0.

    `visualize`: draw the boxes that score at least `draw_threshold`, one picture a file below `output_dir`.
    `save_results`: write `output_dir`/bbox.json, COCO result rows with the file names, of the boxes that
    score at least `save_threshold`. UserError if a file is not an image or the results cannot be written.
    """
    dataset = build(cfg, "TestDataset")
    dataset.set_images(files)
    reader = build(cfg, "TestReader")
    batches = reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=min(cfg.run.worker_num, len(files)))
    files, names = dataset.table.files, dataset.class_names
    pictures = output_names(files)
    results = []
    for found in detect(model, batches, len(files)):
        results.append(found)
        if visualize:
            drawn = draw_detections(read_image(files[found.im_id]), found.rows, names, draw_threshold)
            write_picture(Path(output_dir) / pictures[found.im_id], drawn)
    if visualize:
        get_logger().info(f"{len(files)} pictures in {output_dir}")
    if save_results:
        rows = []
        for found in results:
            kept = ImageDetections(found.im_id, found.rows[found.rows[:, 1] >= save_threshold])
            named = {"file_name": pictures[found.im_id]}
            rows += [{**row, **named} for row in coco_rows([kept], dataset.category_ids, cfg.run.bias)]
        write_rows(rows, output_dir)
    return results


def choose_images(image: Optional[str], folder: Optional[str], list_file: Optional[str]) -> List[str]:
    """The files to run on: the image if it is given, else those that `list_file` names (one a line, relative
    to `folder`), else all of the folder. UserError if nothing is given or something does not exist."""
    if image is not None:
        return find_images(image)
    if folder is None:
        raise UserError("give --infer_img FILE or --infer_dir FOLDER")
    if list_file is None:
        files = find_images(folder)
    else:
        try:
            with open(list_file, encoding="utf-8") as lines:
                names = [line.strip() for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--infer_list {list_file} cannot be read: {error}") from error
        files = [file for name in names for file in find_images(os.path.join(folder, name))]
    if not files:
        raise UserError(f"there is no image in {list_file or folder}")
    return files
