"""Makes COCO JSON files of VOC, WIDER FACE, labelme and Cityscapes annotations, as PaddleDetection's x2coco.py does.

`convert.py` converts whole sets, whose layout it finds by itself; here the caller names each file and folder.
Boxes are (x, y, width, height) with width = x2 - x1.
"""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ppdet_repro.data.source.base import count
from ppdet_repro.data.source.files import files_checked, require_file, require_folder
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.data.source.text import read_json, read_label_list, read_lines
from ppdet_repro.data.source.values import as_number
from ppdet_repro.data.source.voc_files import read_xml
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output

FACE_KEYS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
SPLITS = ("train", "val", "test")


class Layout(NamedTuple):
    """The keys of a JSON format with one file of shapes per picture."""

    shapes: str
    points: str
    height: str
    width: str


LAYOUTS = {
    "labelme": Layout("shapes", "points", "imageHeight", "imageWidth"),
    "cityscape": Layout("objects", "polygon", "imgHeight", "imgWidth"),
}


class CocoBuilder:
    """Collects images and annotations. Ids of annotations count from 1."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, im_id: int, file_name: str, height: float, width: float) -> None:
        self.images.append({"id": im_id, "file_name": file_name, "height": height, "width": width})

    def add_box(self, im_id: int, category_id: int, xywh: Sequence[float], **others: Any) -> None:
        """Add a box of an image."""
        box = {"image_id": im_id, "category_id": category_id, "bbox": list(xywh), "area": xywh[2] * xywh[3]}
        self.annotations.append({"id": len(self.annotations) + 1, **box, "iscrowd": 0, **others})

    def write(self, path: str, categories: Mapping[str, int]) -> str:
        """Write the JSON file. Returns a line about it."""
        named = [{"supercategory": "none", "id": number, "name": name} for name, number in categories.items()]
        document = {"images": self.images, "annotations": self.annotations, "categories": named}
        write_output(Path(path), json.dumps(document).encode())
        sizes = count(len(self.images), "image"), count(len(self.annotations), "box", "boxes")
        return f"{path}: {', '.join(sizes)}, {count(len(named), 'class', 'classes')}"


def convert_voc(anno_dir: str, anno_list: str, label_list: str, target: str) -> str:
    """Convert VOC's XML files. Returns a line about the JSON file `target`.

    Category ids count from 1 in the order of the labels, image ids from 0 in that of the list. File names are those in
    the XML files. UserError if a file cannot be read, a class is not in the label list, or a box has no area.

    Args:
        anno_dir: Folder of the XML files.
        anno_list: Text file with the name of an XML file at the end of each line, with or without .xml.
        label_list: Text file with one class name per line.
        target: JSON file to write.
    """
    require_folder(anno_dir, "give the folder of the XML files as --voc_anno_dir")
    require_file(anno_list, "give the list of XML files as --voc_anno_list")
    categories = {name: i for i, name in enumerate(read_label_list(label_list), 1)}
    builder = CocoBuilder()
    for im_id, (number, line) in enumerate(read_lines(anno_list)):
        name = line.split()[-1]
        path = os.path.join(anno_dir, name if name.endswith(".xml") else f"{name}.xml")
        found = read_xml(path)
        if found.width is None or found.height is None:
            raise UserError(f"{path} ({anno_list}:{number}) has no size: write <size> with width and height")
        builder.add_image(im_id, _file_name(path), found.height, found.width)
        for item in found.objects:
            if item.name not in categories:
                raise UserError(f"{path}: class {item.name!r} is not in {label_list}: add it there")
            x1, y1, x2, y2 = item.box
            if not (x2 > x1 and y2 > y1):
                raise UserError(f"{path}: the box {list(item.box)} of a {item.name} has no area: correct or remove it")
            builder.add_box(im_id, categories[item.name], [x1, y1, x2 - x1, y2 - y1], ignore=0)
    return builder.write(target, categories)


def _file_name(path: str) -> str:
    """The picture that an XML file names, else one with its own name and .jpg."""
    try:
        name = ElementTree.parse(path).getroot().findtext("filename")
    except (ElementTree.ParseError, LookupError, ValueError):  # encodings that `read_xml` knows and expat does not
        name = None
    return name.strip() if name and name.strip() else f"{Path(path).stem}.jpg"


def convert_widerface(root: str) -> str:
    """Convert WIDER FACE to `root`/widerface_train.json and `root`/widerface_val.json. Returns a line about each.

    `root` contains wider_face_split, WIDER_train and WIDER_val. The category is 0, human_face. Pictures that are
    missing are left out. UserError if a list is missing or has a wrong line.
    """
    lines = []
    for split in SPLITS[:2]:
        path = os.path.join(root, "wider_face_split", f"wider_face_{split}_bbx_gt.txt")
        require_file(path, "give the folder with wider_face_split as --widerface_root_dir")
        builder, missing = CocoBuilder(), 0
        for im_id, (name, boxes) in enumerate(_faces(path)):
            file_name = os.path.join(f"WIDER_{split}", "images", name)
            if not os.path.isfile(os.path.join(root, file_name)):
                missing += 1
                continue
            builder.add_image(im_id, file_name, *image_size(os.path.join(root, file_name)))
            for box in boxes:
                builder.add_box(im_id, 0, box[:4], ignore=0, **dict(zip(FACE_KEYS, box[4:])))
        line = builder.write(os.path.join(root, f"widerface_{split}.json"), {"human_face": 0})
        lines.append(f"{line}; left out: {count(missing, 'missing picture')}" if missing else line)
    return "\n".join(lines)


def _faces(path: str) -> Iterator[tuple[str, list[list[int]]]]:
    """The pictures of a list of WIDER FACE, and the ten numbers of each face. A picture without faces has one line."""
    lines = iter(read_lines(path))
    for number, name in lines:
        try:
            faces = int(next(lines)[1])
            boxes = [[int(value) for value in next(lines)[1].split()] for _ in range(max(1, faces))]
        except (ValueError, StopIteration):
            boxes = [[]]
        if any(len(box) != 4 + len(FACE_KEYS) for box in boxes):
            raise UserError(f"{path}:{number}: after {name}, a number of faces and ten numbers for each are expected")
        yield name, boxes[:faces]


def convert_shapes(kind: str, json_dir: str, image_dir: str, output_dir: str, proportions: Mapping[str, float]) -> str:
    """Convert labelme's or Cityscapes' files, and copy the pictures. Returns a line about each split.

    `output_dir` receives the pictures in train, val and test, and annotations/instance_SPLIT.json. Pictures are taken
    in natural order. The JSON file of a picture has its name. Category ids count from 1 in the order in which classes
    appear, and image ids from 1 in each split. A polygon's box is the one around its points. (PaddleDetection rounds it
    to pixels, and takes pictures in the order of the file system.) Shapes that are neither polygons nor rectangles are
    left out. UserError if a file is missing or wrong.

    Args:
        kind: "labelme" or "cityscape".
        json_dir, image_dir: Folders of the annotations and of the pictures.
        output_dir: Folder to write to.
        proportions: The share of pictures in each split of `SPLITS`; their sum is 1.
    """
    require_folder(json_dir, "give the folder of the annotations as --json_input_dir")
    require_folder(image_dir, "give the folder of the pictures as --image_input_dir")
    parts = _split([file for file in find_images(image_dir) if Path(file).parent == Path(image_dir)], proportions)
    if not any(parts.values()):
        raise UserError(f"there is no image in {image_dir}")
    categories: dict[str, int] = {}
    builders, skipped = {}, 0
    for split, pictures in parts.items():
        builders[split] = CocoBuilder()
        for im_id, picture in enumerate(pictures, 1):
            path = os.path.join(json_dir, f"{Path(picture).stem}.json")
            skipped += _add_shapes(builders[split], kind, path, im_id, os.path.basename(picture), categories)
    lines = []
    for split, builder in builders.items():
        _copy(parts[split], os.path.join(output_dir, split))
        lines.append(builder.write(os.path.join(output_dir, "annotations", f"instance_{split}.json"), categories))
    if skipped:
        lines.append(f"left out: {count(skipped, 'shape')} without a polygon or rectangle")
    return "\n".join(lines)


def _split(files: Sequence[str], proportions: Mapping[str, float]) -> dict[str, Sequence[str]]:
    """Split files, in their order. Splits without a share are left out, and the last other one gets what is left over
    by rounding."""
    shares = {split: proportions[split] for split in SPLITS if proportions[split]}
    if abs(sum(shares.values()) - 1) > 1e-5 or min(shares.values()) < 0:
        raise UserError("the proportions of training, validation and test images must be at least 0 and add up to 1")
    ends = [0]
    for share in shares.values():
        ends.append(ends[-1] + int(len(files) * share + 1e-6))
    ends[-1] = len(files)
    return {split: files[start:end] for split, start, end in zip(shares, ends, ends[1:])}


def _add_shapes(
    builder: CocoBuilder, kind: str, path: str, im_id: int, file_name: str, categories: dict[str, int]
) -> int:
    """Add a picture and its shapes, and new categories. Returns the number of shapes that are left out."""
    layout, skipped = LAYOUTS[kind], 0
    require_file(path, "every picture needs a JSON file of its name; write one, or remove the picture")
    document = read_json(path)
    shapes = document.get(layout.shapes) if isinstance(document, dict) else None
    if not isinstance(shapes, list):
        raise UserError(f"{path} has no list {layout.shapes!r}, which a file of {kind} has")
    height, width = as_number(document.get(layout.height)), as_number(document.get(layout.width))
    if not (height > 0 and width > 0):
        raise UserError(f"{path} has no {layout.height} and {layout.width} in pixels: add them")
    builder.add_image(im_id, file_name, height, width)
    for shape in shapes:
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            raise UserError(f"{path}: a shape has no 'label': write its class name")
        polygon = _polygon(shape, layout)
        if polygon is None:
            skipped += 1
            continue
        xs, ys = polygon[::2], polygon[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        category = categories.setdefault(label, len(categories) + 1)
        builder.add_box(im_id, category, box, segmentation=[polygon])
    return skipped


def _polygon(shape: Mapping[str, Any], layout: Layout) -> Optional[list[float]]:
    """The coordinates x1, y1, x2, y2, ... of a polygon or of a rectangle's corners; None if it is neither."""
    points, kind = shape.get(layout.points), shape.get("shape_type", "polygon")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    numbers = [as_number(value) for point in points for value in point]
    if not all(abs(number) < float("inf") for number in numbers):
        return None
    if kind == "rectangle" and len(points) == 2:
        (x1, x2), (y1, y2) = sorted(numbers[::2]), sorted(numbers[1::2])
        return [x1, y1, x1, y2, x2, y2, x2, y1]
    return numbers if kind == "polygon" and len(points) >= 3 else None


def _copy(files: Sequence[str], folder: str) -> None:
    with files_checked(folder, "written"):
        os.makedirs(folder, exist_ok=True)
        for file in files:
            shutil.copyfile(file, os.path.join(folder, os.path.basename(file)))
