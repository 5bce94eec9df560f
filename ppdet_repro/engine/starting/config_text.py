"""Writes the config of `init` as text, with the reason of every choice."""

from __future__ import annotations

import json
import os
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ppdet_repro.engine.starting.recipes import Measures, Recipe, Run, object_side

Size = Tuple[int, int]  # height and width of the network's input
STEP = 32  # pixels between the input sizes of a training
IMAGENET = "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}"
IMAGENET_255 = "{mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375], is_scale: false}"


class Choices(NamedTuple):
    """What `init` has found and chosen."""

    name: str  # of the config
    kind: str  # the key of the recipe: "pafnet", "ppyolov2" or "yolof"
    recipe: Recipe
    gpu: bool
    run: Run
    sizes: Measures
    size: Size
    names: List[str]  # of the classes
    folder: str  # the dataset's, absolute
    anno_folder: str  # that of the JSON files, relative to `folder` or absolute
    splits: Dict[str, int]  # numbers of pictures
    anchors: Optional[np.ndarray] = None  # [A, 2]
    anchor_iou: float = 0.0  # mean IoU of the objects with their best anchors


def config_text(c: Choices) -> str:
    """Return the config."""
    parts = [_head(c), _training(c), _schedule(c), _data(c)]
    if c.anchors is not None:
        parts.insert(1, _anchors(c.anchors, c.anchor_iou, c.size))
    parts.append(_gpu_reader(c) if c.gpu else _SMALL_READERS[c.kind](c))
    return "\n\n".join(parts) + "\n"


def _head(c: Choices) -> str:
    shown = ", ".join(c.names[:8]) + (f" and {len(c.names) - 8} more" if len(c.names) > 8 else "")
    machine = "Paddle finds a GPU" if c.gpu else "training on the CPU"
    return f"""\
# Written by `ppdet-repro init`, which keeps this file once you have changed it.
# {c.recipe.what}.
_BASE_: [{c.recipe.base}, datasets/coco_detection.yml]  # the recipe, then the format of the labels
num_classes: {len(c.names)}  # {_comment(shown)}
use_gpu: {"true" if c.gpu else "false"}  # {machine}
weights: output/{c.name}/best_model  # what eval, infer and export read if no other weights are given"""


def _training(c: Choices) -> str:
    run, number = c.run, c.splits["train"]
    if c.recipe.weights:
        start = f"pretrain_weights: {c.recipe.weights}  # weights that come with the package; null: from scratch"
    elif c.gpu:
        start = (
            "# pretrain_weights: the recipe's, for the backbone; PaddleDetection's weights of this detector load, too"
        )
    else:
        start = "pretrain_weights: null  # from scratch; a file or a URL of weights of this network starts from them"
    return f"""\
{start}
epoch: {run.epochs}  # {number * run.epochs:,} views of {number} pictures; this recipe needs about {c.recipe.views:,}
scale_schedule: true  # with another number of epochs, the schedule below is stretched
snapshot_epoch: {max(1, run.epochs // 6)}  # epochs between evaluations and checkpoints, about six in a training
log_iter: {max(1, min(50, run.updates // 2))}  # updates between two lines of the log; an epoch has {run.updates}"""


def _schedule(c: Choices) -> str:
    run = c.run
    warmup = f"a tenth of the {run.epochs * run.updates:,} updates, at most 200"
    if c.gpu:
        decay = f"!PiecewiseDecay {{gamma: 0.1, milestones: {run.milestones}}}  # after 2/3 and 8/9 of the epochs"
        return f"LearningRate:\n  schedulers:\n  - {decay}\n  - {_warmup(run.warmup)}  # {warmup}"
    decay = f"!CosineDecay {{max_epochs: {run.epochs}, min_lr_ratio: 0.01}}  # falls until the last epoch"
    return f"LearningRate:\n  schedulers:\n  - {decay}\n  - {_warmup(run.warmup)}  # {warmup}"


def _warmup(steps: int) -> str:
    return f"!LinearWarmup {{start_factor: 0.01, steps: {steps}}}"


def _anchors(anchors: np.ndarray, iou: float, size: Size) -> str:
    listed = [[int(side) for side in anchor] for anchor in anchors]
    return f"""\
# Width and height, clustered from the objects at an input of {size[0]} x {size[1]} px. Mean IoU of the objects with the
# best anchor: {iou:.2f}.
anchors: {listed}"""


def _data(c: Choices) -> str:
    """The three datasets. Paths are absolute, so that commands work in any folder."""
    folder = _text(c.folder)

    def file(split: str) -> str:
        return _text(os.path.join(c.anno_folder, f"{split}.json"))

    number, path = c.splits.get("test"), _comment(file("test"))
    test = f"\n# To evaluate on the {number} pictures of test: -o EvalDataset.anno_path={path}" if number else ""
    return f"""\
# The labels as COCO files. Run `ppdet-repro init` again if the folder has moved.
TrainDataset:  # {c.splits["train"]} pictures
  dataset_dir: {folder}
  image_dir: ""
  anno_path: {file("train")}
{test}
EvalDataset:  # {c.splits["val"]} pictures
  dataset_dir: {folder}
  image_dir: ""
  anno_path: {file("val")}

TestDataset:  # for the class names
  dataset_dir: {folder}
  anno_path: {file("val")}"""


def _reasons(c: Choices) -> str:
    """The comment above the readers: why the input has this size."""
    s, (height, width) = c.sizes, c.size
    median, smallest = (object_side(side, s, c.size) for side in (s.median, s.smallest))
    given = f"{s.height} x {s.width}"
    return f"""\
# Height and width of the network's input are {height} x {width} px, in the shape of the pictures ({given} px, median).
# Half of the objects are larger than {median} px there ({s.median:.0f} px in the pictures), and a tenth is smaller than
# {smallest} px ({s.smallest:.0f} px): square roots of areas. A larger input finds smaller objects and takes longer."""


def _sizes(size: Size) -> List[List[int]]:
    """Input sizes for training: one smaller and one larger than `size`, in multiples of `STEP`."""
    height, width = size
    return [[height + step, width + step] for step in (-STEP, 0, STEP) if min(height, width) + step >= 2 * STEP]


def _evaluation(c: Choices, interp: int, norm: str) -> str:
    shape = f"\n  inputs_def: {{image_shape: [3, {c.size[0]}, {c.size[1]}]}}" if c.kind == "ppyolov2" else ""
    return f"""\
EvalReader: &reader{shape}
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [{c.size[0]}, {c.size[1]}], keep_ratio: false, interp: {interp}}}
    - NormalizeImage: {norm}
    - Permute: {{}}
  batch_size: 8

TestReader:
  <<: *reader
  batch_size: 1"""


def _pafnet(c: Choices) -> str:
    return f"""\
{_reasons(c)}
TrainReader:
  batch_size: {c.run.batch_size}  # of each process: small batches allow more updates
  batch_transforms:
    - BatchRandomResize: {{target_size: {_sizes(c.size)}, random_interp: false, keep_ratio: false}}
    - NormalizeImage: {IMAGENET_255}
    - Permute: {{}}
    - Gt2TTFTarget: {{down_ratio: 4}}

{_evaluation(c, 1, IMAGENET_255)}"""


def _ppyolov2(c: Choices) -> str:
    most = max(50, c.sizes.most)
    return f"""\
{_reasons(c)}
TrainReader:
  batch_size: {c.run.batch_size}  # of each process: small batches allow more updates
  batch_transforms:
    - BatchRandomResize: {{target_size: {_sizes(c.size)}, random_interp: false, keep_ratio: false}}
    - NormalizeBox: {{}}
    - PadBox: {{num_max_boxes: {most}}}  # pictures have up to {c.sizes.most} objects
    - BboxXYXY2XYWH: {{}}
    - NormalizeImage: {IMAGENET}
    - Permute: {{}}
    - Gt2YoloTarget: {{downsample_ratios: [32, 16, 8], iou_thresh: 0.25}}

{_evaluation(c, 2, IMAGENET)}"""


def _yolof(c: Choices) -> str:
    return f"""\
{_reasons(c)}
TrainReader:
  batch_size: {c.run.batch_size}  # of each process: small batches allow more updates
  sample_transforms:
    - Decode: {{}}
    - RandomDistort: {{}}
    - RandomCrop: {{}}
    - Resize: {{target_size: [{c.size[0]}, {c.size[1]}], keep_ratio: false, interp: 1}}
    - RandomFlip: {{}}
    - NormalizeImage: {IMAGENET}
    - Permute: {{}}

{_evaluation(c, 1, IMAGENET)}"""


def _gpu_reader(c: Choices) -> str:
    """The recipe's own readers, with the batch size of one GPU."""
    mixup = f"\n  mixup_epoch: {c.run.epochs * 9 // 10}  # the last tenth of the epochs has unmixed pictures"
    fix = "halve it if the GPU's memory is too small; the learning rate follows"
    return f"""\
# The sizes of the network's input are the recipe's.
TrainReader:
  batch_size: {c.run.batch_size}  # {fix}{mixup if c.kind == "ppyolov2" else ""}"""


_SMALL_READERS: Dict[str, Callable[[Choices], str]] = {"pafnet": _pafnet, "ppyolov2": _ppyolov2, "yolof": _yolof}


def _text(value: str) -> str:
    """A text as a scalar of YAML in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def next_commands(config: str, run: Run, photos: str) -> Sequence[str]:
    """The commands that follow `init`: train, look at detections, export."""
    processes = f" --processes {run.processes}" if run.processes > 1 else ""
    return (
        f"ppdet-repro train -c {config} --eval{processes}",
        f"ppdet-repro infer -c {config} --infer_dir {photos}",
        f"ppdet-repro export -c {config}",
    )
