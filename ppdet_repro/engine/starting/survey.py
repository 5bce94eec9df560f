"""Reads the dataset in a folder, decodes its pictures, and divides them into those to train and to evaluate on."""

from __future__ import annotations

import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple

from tqdm import tqdm

from ppdet_repro.data.source.base import count, natural_key
from ppdet_repro.data.source.coco_file import read_document
from ppdet_repro.data.source.dataset_files import DatasetFiles, read_labelled
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, Findings, listed
from ppdet_repro.data.source.labelled import Labelled, Picture, with_same_names
from ppdet_repro.data.source.layouts import FORMATS, Layout, find_layout
from ppdet_repro.data.source.paired import UNREADABLE
from ppdet_repro.data.source.split import chosen_for_evaluation
from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import read_decoded
from ppdet_repro.utils.errors import UserError

FEW = 20  # pictures to train on, below which a line says so
THREADS = 4  # decode pictures


class Survey(NamedTuple):
    """The dataset of a folder. Pictures are in natural order, and all can be decoded."""

    form: str  # the format of its labels
    names: List[str]  # of the classes
    splits: Dict[str, List[Picture]]  # "train", "val", and "test" if there is one besides "val"
    lines: List[str]  # what was found, for the user

    @property
    def pictures(self) -> List[Picture]:
        return [picture for pictures in self.splits.values() for picture in pictures]


class Checked(NamedTuple):
    """A picture that was decoded; `error` says why it cannot be."""

    picture: Picture
    error: str = ""
    resized: bool = False  # whether its labels give another size


def survey(
    folder: str, form: Optional[str] = None, label_list: Optional[str] = None, passed_over: Collection[str] = ()
) -> Survey:
    """Read the dataset in a folder; see `find_layout`. Pictures that cannot be decoded are left out.

    UserError if there is nothing to train on, if a label cannot be used, or if a picture is labelled twice.
    """
    layout = find_layout(folder, form, label_list, passed_over)
    lines = [_found(folder, layout)]
    names, sets, notes = _read(layout)
    lines += notes
    sets, notes = _decoded(folder, sets)
    lines += notes
    _refuse_twice(folder, sets)
    lines += _taken_out_of_train(sets)
    splits, notes = _divided(folder, sets)
    lines += notes
    _refuse_empty(folder, splits)
    return Survey(layout.form, names, splits, [*lines, *_remarks(names, splits)])


def _found(folder: str, layout: Layout) -> str:
    """The line that says what was found."""
    splits = ", ".join(split or "others" for split in layout.splits)
    files = [one.anno_file for parts in layout.splits.values() for one in parts if not one.paired]
    where = f" ({', '.join(os.path.relpath(path, folder) for path in files[:4])})" if files else ""
    line = f"found: {count(layout.images, 'picture')}, labels in {FORMATS[layout.form]}{where}; "
    if len(layout.splits) > 1:
        line += f"divided into {splits}"
    else:
        line += "not divided" if list(layout.splits) == [""] else f"all in {splits}"
    if layout.without_labels:
        line += f"; {count(layout.without_labels, 'picture')} without labels, not used"
    if layout.without_pictures:
        line += f"; {count(layout.without_pictures, 'label file')} without a picture, such as {layout.example}"
    return line


def _read(layout: Layout) -> Tuple[List[str], Dict[str, List[Picture]], List[str]]:
    """Read all splits. Returns the class names, the pictures, and lines about what was found."""
    findings = Findings(leave_out=(UNREADABLE,))
    parts: List[Tuple[str, DatasetFiles]] = [(split, one) for split, many in layout.splits.items() for one in many]
    sets: List[Labelled] = []
    for _, files in parts:
        findings.prefix = ""
        sets.append(read_labelled(files, findings))
    fixed = any(files.has_fixed_names for _, files in parts)
    sets = with_same_names(sets, [files.anno_file for _, files in parts], fixed)
    names, lines = sets[0].names, []
    used = {item.name for one in sets for picture in one.pictures for item in picture.objects}
    root = _roboflow_root([files.anno_file for _, files in parts if files.is_coco])
    if root in names and root not in used:
        names = [name for name in names if name != root]
        lines.append(f"left out: the category {root!r}, which Roboflow adds as the parent of all others")
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise UserError(f"{parts[0][1].anno_file}: {times} categories are called {name!r}: rename them")
    for effect, what in ((LEFT_OUT, "left out"), (DOUBTFUL, "doubtful")):
        kinds = listed({kind: number for kind, number in findings.of(effect).items() if kind != UNREADABLE})
        if kinds:
            lines.append(f"{what}: {kinds}; 'ppdet-repro data check' lists them")
    pictures: Dict[str, List[Picture]] = {}
    for (split, _), one in zip(parts, sets):
        pictures.setdefault(split, []).extend(one.pictures)
    return names, pictures, lines


def _roboflow_root(files: List[str]) -> str:
    """The name of the category that is the supercategory of all others in COCO files, or ""."""
    for path in files:
        categories = read_document(path)["categories"]
        names = [str(entry.get("name")) for entry in categories]
        parents = {str(entry.get("supercategory")) for entry in categories}
        if len(names) > 1 and names[0] in parents and parents <= {names[0], "none", "None", ""}:
            return names[0]
    return ""


def _decoded(folder: str, sets: Dict[str, List[Picture]]) -> Tuple[Dict[str, List[Picture]], List[str]]:
    """Decode every picture. Returns those that can be, with their sizes, and lines about the others."""
    pictures = [picture for many in sets.values() for picture in many]
    with ThreadPoolExecutor(THREADS) as pool:
        progress = tqdm(total=len(pictures), desc="decoding", unit="image", disable=None, leave=False)
        checked = []
        for one in pool.map(_check, pictures):
            checked.append(one)
            progress.update()
        progress.close()
    failed = [one for one in checked if one.error]
    resized = [one for one in checked if one.resized]
    lines = []
    if failed:
        lines.append(f"left out: {count(len(failed), 'picture')} that cannot be decoded, such as {failed[0].error}")
    if resized:
        example = os.path.relpath(resized[0].picture.file, folder)
        lines.append(
            f"doubtful: {count(len(resized), 'picture')} of another size than the labels say, such as {example}"
        )
    good: Iterator[Checked] = iter(checked)
    decoded = {split: [one.picture for _ in many if not (one := next(good)).error] for split, many in sets.items()}
    return decoded, lines


def _check(picture: Picture) -> Checked:
    try:
        height, width = read_decoded(picture.file).image.shape[:2]
    except ImageError as error:
        return Checked(picture, str(error))
    resized = not math.isnan(picture.width) and (picture.width, picture.height) != (width, height)
    return Checked(picture._replace(width=width, height=height), resized=resized)


def _refuse_twice(folder: str, sets: Dict[str, List[Picture]]) -> None:
    for split, pictures in sets.items():
        uses = Counter(os.path.normpath(picture.file) for picture in pictures)
        for file, times in uses.most_common(1) if len(uses) < len(pictures) else ():
            where = f" of {split}" if split else ""
            fix = "leave one of its labels in the folder"
            raise UserError(f"{os.path.relpath(file, folder)} is labelled {times} times in the files{where}: {fix}")


def _taken_out_of_train(sets: Dict[str, List[Picture]]) -> List[str]:
    """Take pictures that are in another split, too, out of `train`. Returns a line about them."""
    others = {os.path.normpath(p.file) for split in ("val", "test") for p in sets.get(split, [])}
    train = sets.get("train", [])
    kept = [picture for picture in train if os.path.normpath(picture.file) not in others]
    if len(kept) == len(train):
        return []
    sets["train"] = kept
    return [f"left out of train: {count(len(train) - len(kept), 'picture')} that val or test have, too"]


def _divided(folder: str, sets: Dict[str, List[Picture]]) -> Tuple[Dict[str, List[Picture]], List[str]]:
    """Make the splits train and val, and test if both it and val are there. Returns also a line about a new split."""
    train = [*sets.get("train", sets.get("trainval", [])), *sets.get("", [])]
    val, test = sets.get("val", []), sets.get("test", [])
    lines = []
    if not train:
        train, val, test = [*val, *test], [], []
    if val:
        splits = {"train": train, "val": val, **({"test": test} if test else {})}
    elif test:
        splits = {"train": train, "val": test}
        lines.append("there is no val: the evaluations during training use test")
    else:
        keys = [os.path.splitext(os.path.basename(picture.file))[0] for picture in train]
        flags = chosen_for_evaluation([{item.name for item in picture.objects} for picture in train], keys)
        splits = {split: [p for p, flag in zip(train, flags) if flag == (split == "val")] for split in ("train", "val")}
        lines.append("divided: every fifth picture of each class is for the evaluation; the same ones every time")
    for pictures in splits.values():
        pictures.sort(key=lambda picture: natural_key(os.path.relpath(picture.file, folder)))
    return splits, lines


def _refuse_empty(folder: str, splits: Dict[str, List[Picture]]) -> None:
    for split, pictures in splits.items():
        if not any(picture.objects for picture in pictures) and split != "test":
            numbers = f"{count(sum(map(len, splits.values())), 'picture')} can be used"
            raise UserError(f"{folder}: no picture for {split} has objects ({numbers}): label more pictures")


def _remarks(names: List[str], splits: Dict[str, List[Picture]]) -> Iterator[str]:
    """Lines about the splits, and about what makes a good result unlikely."""
    for split, pictures in splits.items():
        boxes = sum(len(picture.objects) for picture in pictures)
        yield f"{split}: {count(len(pictures), 'picture')}, {count(boxes, 'object')}"
    seen = {split: {item.name for p in pictures for item in p.objects} for split, pictures in splits.items()}
    for split, why in (("train", "they are not learned"), ("val", "they are not evaluated")):
        missing = [name for name in names if name not in seen[split]]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            yield f"classes without objects in {split}: {shown}; {why}"
    number = sum(bool(picture.objects) for picture in splits["train"])
    if number < FEW:
        few = count(number, "picture")
        yield f"{few} with objects to train on: too few for a good detector; aim for a hundred or more"
