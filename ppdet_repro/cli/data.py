"""The commands of tools/dataset.py: make, check, look at and convert data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ppdet_repro.core.config import Config, build, load_config
from ppdet_repro.data.source import check as checking
from ppdet_repro.data.source import convert as converting
from ppdet_repro.data.source import show as showing
from ppdet_repro.data.source.base import files_checked
from ppdet_repro.data.source.place import Place, open_place, place_of, places_of_source
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.utils.errors import UserError


def synth(
    root: str,
    train: int,
    val: int,
    size: str,
    classes: str,
    objects: str,
    scales: str,
    noise: float,
    clutter: float,
    contrast: float,
    likeness: float,
    format: str,
    seed: int,
) -> None:
    """Make a synthetic COCO set; texts are like '240x192-320', '6' or 'disk,ring', '1-8', '0.3,0.3,0.4'."""
    sides = [_span(text, "size") for text in size.split("x")]
    if len(sides) > 2:
        raise UserError(f"size {size!r}: write 256, 240x320 (height x width), or 192-320x256")
    try:
        shares = tuple(float(share) for share in scales.split(","))
    except ValueError:
        raise UserError(f"scales {scales!r}: write three shares, such as 0.3,0.3,0.4") from None
    generate(
        root,
        train=train,
        val=val,
        size=(sides[0], sides[-1]),
        classes=int(classes) if classes.isdigit() else classes.split(","),
        objects=_span(objects, "objects"),
        scales=shares,
        noise=noise,
        clutter=clutter,
        contrast=contrast,
        likeness=likeness,
        image_format=format,
        seed=seed,
    )
    print(f"{root}: image_dir train, val; anno_path annotations/instances_train.json, ..._val.json")


def _span(text: str, name: str) -> tuple[int, int]:
    """'3-8' as (3, 8), '3' as (3, 3)."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise UserError(f"{name} {text!r}: write a number, or from-to such as 1-8")
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def check(
    anno_file: Optional[str],
    config: Optional[str],
    opt: Sequence[str],
    split: str,
    image_dir: Optional[str],
    label_list: Optional[str],
    json_file: Optional[str],
    decode: bool,
) -> int:
    """Print what a set holds and all that is wrong with it; exit code 1 if anything is, else 0."""
    if config:
        places = places_of_source(build(_load(anno_file, config, opt), DATASETS[split]))
    else:
        places = [_place(anno_file, image_dir, label_list)]
    reports = [checking.check(place, decode) for place in places]
    print("\n\n".join(report.text() for report in reports))
    if json_file:
        found = [report.as_dict() for report in reports]
        with files_checked(json_file, "written"):
            Path(json_file).parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(found[0] if len(found) == 1 else found, indent=1)
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    return 1 if any(report.problems for report in reports) else 0


def show(
    anno_file: Optional[str],
    config: Optional[str],
    opt: Sequence[str],
    split: str,
    image_dir: Optional[str],
    label_list: Optional[str],
    out: str,
    num: int,
    seed: int,
    transforms: bool,
) -> None:
    """Draw samples with their boxes; with `transforms` as the config's reader hands them on."""
    preprocess: list = []
    if config:
        cfg = _load(anno_file, config, opt)
        fields = [*showing.FIELDS, *([showing.MASKS] if transforms else [])]
        source = build(cfg, DATASETS[split], data_fields=fields)
        if transforms:
            preprocess = build(cfg, READERS[split]).preprocess
    elif transforms:
        raise UserError("--transforms draws what a config's transforms make: give the config with -c")
    else:
        source = open_place(_place(anno_file, image_dir, label_list), showing.FIELDS)
    print(showing.show(source, out, num, seed, preprocess))


def convert(anno_file: str, target: str, image_dir: Optional[str], label_list: Optional[str], force: bool) -> None:
    """Turn a VOC set into a COCO json, or a COCO json into a VOC folder; by the annotation file's kind."""
    print(converting.convert(place_of(anno_file, image_dir, label_list), target, force))


DATASETS = {"train": "TrainDataset", "eval": "EvalDataset"}
READERS = {"train": "TrainReader", "eval": "EvalReader"}


def _load(anno_file: Optional[str], config: str, overrides: Sequence[str]) -> Config:
    if anno_file:
        raise UserError(f"the config {config} names a data set, and {anno_file} is another: give only one")
    return load_config(config, overrides)


def _place(anno_file: Optional[str], image_dir: Optional[str], label_list: Optional[str]) -> Place:
    if not anno_file:
        raise UserError("which data set? Give its COCO json or VOC set file, or a config with -c")
    return place_of(anno_file, image_dir, label_list)
