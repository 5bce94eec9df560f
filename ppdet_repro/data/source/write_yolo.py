"""Writes a dataset in Ultralytics' layout: images/<split>, labels/<split> and data.yaml."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ppdet_repro.data.source.labelled import Labelled, Picture
from ppdet_repro.data.source.write_labels import image_stem, make_folders, refuse_existing, refuse_stems


def write_yolo(sets: Mapping[str, Labelled], image_folders: Mapping[str, str], target: str, force: bool) -> None:
    """Write splits, whose names are those of the folders. The images are copied.

    Crowd regions are left out, as YOLO has none, and flags for difficult objects are lost. Existing files are a
    UserError, unless `force` is set.
    """
    root = Path(target)
    texts: dict[Path, str] = {}
    copies: list[tuple[str, Path]] = []
    for split, one in sets.items():
        number_of = {name: number for number, name in enumerate(one.names)}
        stems = [image_stem(picture, image_folders[split]) for picture in one.pictures]
        refuse_stems(stems, image_folders[split], "name")
        for stem, picture in zip(stems, one.pictures):
            copies.append((picture.file, root / "images" / split / (stem + os.path.splitext(picture.file)[1])))
            texts[root / "labels" / split / f"{stem}.txt"] = label_text(picture, number_of)
    data = root / "data.yaml"
    texts[data] = data_yaml(list(sets), next(iter(sets.values())).names)
    new = [*texts, *(copy for _, copy in copies)]
    refuse_existing(new, force)
    make_folders(new)
    for source, copy in copies:
        if not (copy.exists() and copy.samefile(source)):
            shutil.copyfile(source, copy)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def label_text(picture: Picture, number_of: Mapping[str, int]) -> str:
    """Return the lines `class cx cy width height` of a picture, as fractions of its size."""
    lines = []
    for item in picture.objects:
        if not item.crowd:
            x1, y1, x2, y2 = item.box
            center = (x1 + x2) / 2 / picture.width, (y1 + y2) / 2 / picture.height
            values = *center, (x2 - x1) / picture.width, (y2 - y1) / picture.height
            lines.append(" ".join([str(number_of[item.name]), *(f"{value:.10g}" for value in values)]))
    return "".join(f"{line}\n" for line in lines)


def data_yaml(splits: list[str], names: list[str]) -> str:
    """Return the content of data.yaml. Paths are relative to its folder."""
    lines = [f"{split}: images/{split}" for split in splits]
    quoted = json.dumps([name.strip() for name in names], ensure_ascii=False)
    return "\n".join([*lines, f"nc: {len(names)}", f"names: {quoted}"]) + "\n"
