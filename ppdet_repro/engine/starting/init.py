"""Makes a config for the labelled pictures in a folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from shlex import quote
from typing import Dict, List, NamedTuple, Optional

import numpy as np
import paddle

from ppdet_repro.core.config import load_config
from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.files import files_checked, require_folder
from ppdet_repro.data.source.folder_files import MADE_BY_INIT, OWN
from ppdet_repro.data.source.labelled import Labelled, Picture
from ppdet_repro.data.source.write_labels import coco_document
from ppdet_repro.engine.analysis.anchor_cluster import cluster, fit
from ppdet_repro.engine.starting.config_text import Choices, config_text, next_commands
from ppdet_repro.engine.starting.recipes import DEFAULT, LONGEST, input_size, measured, object_side, recipe_for, run_for
from ppdet_repro.engine.starting.survey import Survey, survey
from ppdet_repro.utils.errors import UserError

GENERATIONS, SEED = 1000, 0  # of the clustering of anchors


class Started(NamedTuple):
    """What `init` has written."""

    config: str  # path
    lines: List[str]  # what was found and done, and the next commands


def init(
    folder: str,
    output: Optional[str] = None,
    base: Optional[str] = None,
    device: Optional[str] = None,
    form: Optional[str] = None,
    label_list: Optional[str] = None,
    force: bool = False,
) -> Started:
    """Find the dataset in a folder, check it, and write its labels as COCO files and a config.

    Nothing in the folder is changed; the same call again finds the same and writes nothing. UserError if the dataset
    cannot be used, or if a file that would be written exists with other content.

    Args:
        folder: The folder of the pictures and labels.
        output: The folder to write to, by default `ppdet_repro` in `folder`.
        base: The recipe: "pafnet", "ppyolov2" or "yolof". By default the one that fits the machine.
        device: "cpu" or "gpu". By default a GPU if Paddle finds one.
        form: The format of the labels, needed if there are several: "coco", "voc", "yolo" or "labelme".
        label_list: The class names, one per line, or YOLO's data.yaml. By default they are looked for in the folder.
        force: Overwrite files with other content.
    """
    require_folder(folder, "give the folder that contains the pictures and the labels (unpack archives first)")
    output = output or os.path.join(folder, OWN)
    _require_writable(output)
    found = survey(folder, form, label_list, passed_over=[output])
    choices = _choose(found, folder, output, base, device)
    config = os.path.join(output, f"{choices.name}.yml")
    files = {config: config_text(choices)}
    for split, pictures in found.splits.items():
        files[os.path.join(output, f"{split}.json")] = _coco_text(found.names, pictures, folder)
    written = _write(files, force)
    load_config(config)  # a mistake of ours shows here, and not in the training
    held_out = found.splits.get("test", found.splits["val"])
    commands = next_commands(quote(config), choices.run, quote(os.path.dirname(held_out[0].file)))
    return Started(config, [*found.lines, _chosen(choices), written, "next:", *(f"  {line}" for line in commands)])


def has_gpu() -> bool:
    """Whether Paddle can use a GPU here."""
    return paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0


def _require_writable(output: str) -> None:
    """Raise UserError unless the folder can be written or made; before the pictures are decoded."""
    if os.path.exists(output):
        require_folder(output, "choose another folder with --output")
    parent = os.path.abspath(output)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    nobody_may = not os.stat(parent).st_mode & 0o222  # root could, but the folder is meant to stay as it is
    if nobody_may or not os.access(parent, os.W_OK):
        raise UserError(f"{parent} cannot be written: choose a folder for the config and labels with --output")


def _choose(found: Survey, folder: str, output: str, base: Optional[str], device: Optional[str]) -> Choices:
    gpu = has_gpu() if device is None else device == "gpu"
    kind = base or DEFAULT[gpu]
    recipe = recipe_for(kind, gpu)
    train = [picture for picture in found.splits["train"] if picture.objects]
    sizes = measured(train)
    size = input_size(recipe, sizes, LONGEST[gpu])
    run = run_for(recipe, len(train), 1 if gpu or (os.cpu_count() or 1) < 2 else 2)
    here, there = os.path.abspath(folder), os.path.abspath(output)
    inside = there.startswith(here + os.sep)
    choices = Choices(
        name=_name_of(here),
        kind=kind,
        recipe=recipe,
        gpu=gpu,
        run=run,
        sizes=sizes,
        size=size,
        names=found.names,
        folder=here,
        anno_folder=Path(os.path.relpath(there, here)).as_posix() if inside else there,
        splits={split: len(pictures) for split, pictures in found.splits.items()},
    )
    return _with_anchors(choices, train) if recipe.anchors else choices


def _with_anchors(choices: Choices, train: List[Picture]) -> Choices:
    """Cluster anchors, if there are enough objects for that; otherwise the recipe's stay."""
    height, width = choices.size
    scaled = [
        ((x2 - x1) * width / picture.width, (y2 - y1) * height / picture.height)
        for picture in train
        for x1, y1, x2, y2 in (item.box for item in picture.objects)
    ]
    boxes = np.array(scaled, np.float64)
    if len(boxes) < choices.recipe.anchors:
        return choices
    anchors = cluster(boxes, choices.recipe.anchors, GENERATIONS, SEED)
    return choices._replace(anchors=anchors, anchor_iou=fit(boxes, anchors).iou)


def _name_of(folder: str) -> str:
    """The name of a config: that of the folder, with `_` in place of what would need quotes."""
    return re.sub(r"[^\w.-]+", "_", os.path.basename(folder)).strip("._-") or "dataset"


def _coco_text(names: List[str], pictures: List[Picture], folder: str) -> str:
    """A split as a COCO JSON file; the names of pictures are relative to the dataset's folder."""
    plain = Labelled(names, [picture._replace(id=None) for picture in pictures])
    document = {"info": {"description": MADE_BY_INIT}, **coco_document(plain, folder)}
    return json.dumps(document, ensure_ascii=False) + "\n"


def _write(files: Dict[str, str], force: bool) -> str:
    """Write the files that are not there yet. Returns a line about it."""
    new = [path for path, text in files.items() if not os.path.lexists(path)]
    changed = [path for path, text in files.items() if path not in new and not _has(path, text)]
    if changed and not force:
        fix = "overwrite it with --force, or write elsewhere with --output"
        raise UserError(f"{changed[0]} was changed, or the dataset was: {fix}")
    with files_checked(next(iter(files)), "written"):
        for path in (*new, *changed):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(files[path], encoding="utf-8")
    config = next(iter(files))
    if not new and not changed:
        return f"unchanged: {config} and the labels beside it"
    others = ", ".join(os.path.basename(path) for path in files if path != config)
    return f"written: {config}, {others}"


def _has(path: str, text: str) -> bool:
    with files_checked(path, "read"):
        return Path(path).read_bytes() == text.encode("utf-8")


def _chosen(choices: Choices) -> str:
    """The line that says what was chosen."""
    s, (height, width) = choices.sizes, choices.size
    device = "GPU" if choices.gpu else "CPU"
    objects = f"objects of {s.median:.0f} px become {object_side(s.median, s, choices.size)} px"
    run = f"{count(choices.run.epochs, 'epoch')} of {count(choices.run.updates, 'update')}"
    start = f", from {choices.recipe.weights}" if choices.recipe.weights else ""
    return f"chosen: {choices.recipe.base} ({device}), input {height} x {width} px ({objects}), {run}{start}"
