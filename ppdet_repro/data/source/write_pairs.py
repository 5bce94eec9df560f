"""Writes a dataset in the formats with a label file per picture: YOLO's (in Ultralytics' layout) and labelme's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ppdet_repro.data.source.labelled import Labelled, Picture
from ppdet_repro.data.source.write_labels import image_stem, make_folders, plain, refuse_existing, refuse_stems


def write_yolo(sets: Mapping[str, Labelled], image_folders: Mapping[str, str], target: str, force: bool) -> None:
    """Write splits as images/<split>, labels/<split> and data.yaml. The images are copied.

    Crowd regions are left out, as YOLO has none, and flags for difficult objects are lost. Existing files are a
    UserError, unless `force` is set.
    """
    root = Path(target)
    texts: dict[Path, str] = {}
    copies: list[tuple[str, Path]] = []
    for split, one in sets.items():
        number_of = {name: number for number, name in enumerate(one.names)}
        for stem, picture in _stems(one, image_folders[split]):
            copies.append((picture.file, root / "images" / split / (stem + os.path.splitext(picture.file)[1])))
            texts[root / "labels" / split / f"{stem}.txt"] = label_text(picture, number_of)
    texts[root / "data.yaml"] = data_yaml(list(sets), next(iter(sets.values())).names)
    _write(texts, copies, force)


def write_labelme(sets: Mapping[str, Labelled], image_folders: Mapping[str, str], target: str, force: bool) -> None:
    """Write splits as folders of pictures, which are copied, with a JSON file beside each.

    Crowd regions are left out, and names of classes without objects are lost. Existing files are a UserError, unless
    `force` is set.
    """
    texts: dict[Path, str] = {}
    copies: list[tuple[str, Path]] = []
    for split, one in sets.items():
        for stem, picture in _stems(one, image_folders[split]):
            copy = Path(target) / split / (stem + os.path.splitext(picture.file)[1])
            copies.append((picture.file, copy))
            texts[copy.with_name(f"{Path(stem).name}.json")] = labelme_text(picture, copy.name)
    _write(texts, copies, force)


def _stems(one: Labelled, image_folder: str) -> list[tuple[str, Picture]]:
    """The pictures with their paths in the image folder, without suffixes. UserError if two are the same."""
    stems = [image_stem(picture, image_folder) for picture in one.pictures]
    refuse_stems(stems, image_folder, "name")
    return list(zip(stems, one.pictures))


def _write(texts: Mapping[Path, str], copies: list[tuple[str, Path]], force: bool) -> None:
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


def labelme_text(picture: Picture, image_path: str) -> str:
    """Return labelme's JSON of a picture: rectangles in pixels, and the path of the picture relative to the file."""
    shapes: list[dict[str, object]] = []
    for item in picture.objects:
        if not item.crowd:
            x1, y1, x2, y2 = map(plain, item.box)
            shape = {"label": item.name.strip(), "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}
            more = {"difficult": True} if item.difficult else {}
            shapes.append({**shape, "group_id": None, "description": "", "flags": {}, **more})
    size = {"imageHeight": plain(picture.height), "imageWidth": plain(picture.width)}
    picture_fields = {"imagePath": image_path, "imageData": None, **size}
    return json.dumps(
        {"version": "5.5.0", "flags": {}, "shapes": shapes, **picture_fields}, ensure_ascii=False, indent=2
    )
