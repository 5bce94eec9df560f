"""Generate, check, draw, convert or slice a detection dataset.

    ppdet-repro data synth dataset/synthetic --train 400 --val 100
    ppdet-repro data check dataset/voc/ImageSets/Main/train.txt
    ppdet-repro data show -c configs/yolof/yolof_r50_c5_1x_coco.yml --transforms
    ppdet-repro data convert dataset/voc/ImageSets/Main/train.txt dataset/voc/train.json
    ppdet-repro data convert dataset/yolo/data.yaml dataset/voc --to voc
    ppdet-repro data slice --image_dir train --json_path train.json --output_dir sliced --slice_size 640
    ppdet-repro data boxes --json_path train.json

`ppdet-repro data COMMAND --help` lists the flags of one of them.
"""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Tuple

from ppdet_repro.cli import box_distribution, read_config, slice_image
from ppdet_repro.utils.cli import add_overrides
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.printable import printable

if TYPE_CHECKING:
    from ppdet_repro.core.config import Config
    from ppdet_repro.data.source.dataset_files import DatasetFiles

SPLITS = {"train": ("TrainDataset", "TrainReader"), "eval": ("EvalDataset", "EvalReader")}
ANNO_FILE_HELP = (
    "COCO JSON file, VOC set file such as ImageSets/Main/train.txt, YOLO's data.yaml, or a folder with labels"
)
FORMATS = ("coco", "voc", "yolo", "labelme")


def add_arguments(parser: ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for task, add_flags in ((synth, add_synth), (check, add_check), (show, add_show), (convert, add_convert)):
        text = task.__doc__ or ""
        command = commands.add_parser(task.__name__, help=text.split(".")[0], description=text)
        command.set_defaults(task=task)
        add_flags(command)
    for name, module in (("slice", slice_image), ("boxes", box_distribution)):
        text = module.__doc__ or ""
        kept = RawDescriptionHelpFormatter  # keeps the lines of a docstring
        command = commands.add_parser(name, help=text.split(".")[0], description=text, formatter_class=kept)
        command.set_defaults(task=module.run)
        module.add_arguments(command)


def run(arguments: Namespace) -> Optional[int]:
    return arguments.task(arguments)


def add_synth(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("root", help="folder to create")
    add("--train", type=int, default=400, metavar="N", help="number of training images (default: 400)")
    add("--val", type=int, default=100, metavar="N", help="number of validation images (default: 100)")
    add("--size", default="256",
        help="image size in pixels: 256, 240x320 (height x width) or 192-320x256 (default: 256)")  # fmt: skip
    add("--classes", default="6", help="number of classes, or their names such as disk,ring,star (default: 6)")
    add("--objects", default="1-8", metavar="FROM-TO", help="range of the number of objects per image (default: 1-8)")
    add("--scales", default="0.3,0.3,0.4", help="shares of small, medium, large objects (default: 0.3,0.3,0.4)")
    add("--noise", type=float, default=10.0, help="largest standard deviation of pixel noise, 0 to 255 (default: 10)")
    add("--clutter", type=float, default=0.5, help="amount of unlabeled distractors, 0 to 1 (default: 0.5)")
    add("--contrast", type=float, default=0.5, help="contrast of the textures, 0 to 1 (default: 0.5)")
    add("--likeness", type=float, default=0.8, help="share of objects in their class's hue, 0 to 1 (default: 0.8)")
    add("--format", default="jpg", choices=("jpg", "png"), help="image format (default: jpg)")
    add("--seed", type=int, default=0, help="random seed (default: 0)")
    add(
        "--worker_num", type=int, metavar="N", help="processes that draw; 0 draws in one (default: one per usable core)"
    )


def add_check(parser: ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--json", dest="json_file", metavar="FILE", help="also write the report to this JSON file")
    text = "read only the headers of the images; damaged ones are not found"
    parser.add_argument("--fast", action="store_true", help=text)
    parser.add_argument("--decode", action="store_true", help="decode every image to find damaged files, as by default")


def add_show(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_source(parser)
    add("--out", default="output/samples", metavar="DIR", help="folder for the drawings (default: output/samples)")
    add("-n", "--num", type=int, default=16, help="number of images (default: 16)")
    add("--seed", type=int, default=0, help="random seed of the choice of images (default: 0)")
    add("--transforms", action="store_true", help="draw images after the config's reader transforms")


def add_convert(parser: ArgumentParser) -> None:
    parser.add_argument("anno_file", help=ANNO_FILE_HELP)
    parser.add_argument("target", help="JSON file or folder to write")
    text = "format to write (default: COCO into a JSON file, VOC into a folder for COCO files)"
    parser.add_argument("--to", choices=FORMATS, default="", help=text)
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    add_layout(parser)


def add_source(parser: ArgumentParser) -> None:
    """Add the flags that name a dataset: its annotation file, or a config."""
    parser.add_argument("anno_file", nargs="?", help=f"{ANNO_FILE_HELP}; or give -c")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML config whose dataset to take")
    add_overrides(parser)
    text = "which of the config's datasets: TrainDataset or EvalDataset (default: train)"
    parser.add_argument("--split", default="train", choices=tuple(SPLITS), help=text)
    add_layout(parser)


def add_layout(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--image_dir", metavar="DIR", help="folder that image paths are relative to (default: found from anno_file)")
    add(
        "--label_list",
        metavar="FILE",
        help="class names, one per line (default: label_list.txt, data.yaml or classes.txt)",
    )
    add("--format", choices=FORMATS, help="format of the labels, for a folder with labels in several formats")


def synth(arguments: Namespace) -> None:
    """Generate a synthetic dataset of textured shapes, in COCO's format."""
    sides = [span(text, "size") for text in arguments.size.split("x")]
    if len(sides) > 2:
        raise UserError(f"size {arguments.size!r}: write 256, 240x320 (height x width), or 192-320x256")
    try:
        small, medium, large = (float(share) for share in arguments.scales.split(","))
    except ValueError:
        raise UserError(f"scales {arguments.scales!r}: write three shares, such as 0.3,0.3,0.4") from None

    from ppdet_repro.data.source.synthetic import generate
    from ppdet_repro.utils.cpu_env import usable_cores

    as_given = ("train", "val", "noise", "clutter", "contrast", "likeness", "seed")
    generate(
        arguments.root,
        size=(sides[0], sides[-1]),
        classes=int(arguments.classes) if arguments.classes.isdecimal() else arguments.classes.split(","),
        objects=span(arguments.objects, "objects"),
        scales=(small, medium, large),
        image_format=arguments.format,
        worker_num=usable_cores() if arguments.worker_num is None else arguments.worker_num,
        **{name: getattr(arguments, name) for name in as_given},
    )
    print(f"{arguments.root}: image_dir train, val; anno_path annotations/instances_train.json, ..._val.json")


def span(text: str, name: str) -> Tuple[int, int]:
    """Parse a range: '3-8' is (3, 8), '3' is (3, 3)."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise UserError(f"{name} {text!r}: write a number, or a range such as 1-8")
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def check(arguments: Namespace) -> int:
    """Print a dataset's statistics and every mistake in it. The exit code is 1 if there is any mistake."""
    from ppdet_repro.core.config import build
    from ppdet_repro.data.source.check import FIELDS
    from ppdet_repro.data.source.check import check as check_dataset
    from ppdet_repro.data.source.dataset_files import open_dataset, parts_of
    from ppdet_repro.data.source.files import files_checked

    if arguments.fast and arguments.decode:
        raise UserError("--fast and --decode contradict each other: give one of them")
    if arguments.config:
        datasets = parts_of(build(config_of(arguments), SPLITS[arguments.split][0]))
    else:
        datasets = [open_dataset(files, FIELDS) for files in dataset_files(arguments).values()]
    reports = [check_dataset(dataset, decode=not arguments.fast) for dataset in datasets]
    print(printable("\n\n".join(report.text() for report in reports)))
    if arguments.json_file:
        found = [report.as_dict() for report in reports]
        with files_checked(arguments.json_file, "written"):
            Path(arguments.json_file).parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(found[0] if len(found) == 1 else found, indent=1)
            Path(arguments.json_file).write_text(text + "\n", encoding="utf-8")
    return 1 if any(report.problems for report in reports) else 0


def show(arguments: Namespace) -> None:
    """Draw images of a dataset with their boxes, one file per image and one contact sheet."""
    from ppdet_repro.core.config import build
    from ppdet_repro.data.source import show as drawing
    from ppdet_repro.data.source.dataset_files import open_dataset

    preprocess: list = []
    dataset, reader = SPLITS[arguments.split]
    if arguments.config:
        cfg = config_of(arguments)
        fields = [*drawing.FIELDS, *([drawing.MASKS] if arguments.transforms else [])]
        source = build(cfg, dataset, data_fields=fields)
        preprocess = build(cfg, reader).preprocess if arguments.transforms else []
    elif arguments.transforms:
        raise UserError("--transforms draws images after a config's transforms: give the config with -c")
    else:
        splits = dataset_files(arguments)
        split = "val" if arguments.split == "eval" else arguments.split
        source = open_dataset(splits.get(split) or next(iter(splits.values())), drawing.FIELDS)
    print(printable(str(drawing.show(source, arguments.out, arguments.num, arguments.seed, preprocess))))


def convert(arguments: Namespace) -> None:
    """Convert a dataset of COCO, VOC, YOLO or labelme to another of these formats.

    Pictures are copied, except for COCO.
    """
    from ppdet_repro.data.source.convert import convert_splits

    print(printable(convert_splits(dataset_files(arguments), arguments.target, arguments.force, arguments.to)))


def config_of(arguments: Namespace) -> Config:
    if arguments.anno_file:
        both = f"the config {arguments.config} names a dataset, and {arguments.anno_file} is another"
        raise UserError(f"{both}: give only one")
    return read_config(arguments)


def dataset_files(arguments: Namespace) -> Dict[str, DatasetFiles]:
    """The splits of the dataset that the flags name; an annotation file is one."""
    if not arguments.anno_file:
        raise UserError(
            "no dataset given: give its COCO JSON file, VOC set file, data.yaml or folder, or a config with -c"
        )
    from ppdet_repro.data.source.layouts import find_datasets

    return find_datasets(arguments.anno_file, arguments.image_dir, arguments.label_list, arguments.format)
