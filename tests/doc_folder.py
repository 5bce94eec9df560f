"""The folder in which the commands of the documentation run: the datasets, pictures and scripts that they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
from paths import CONFIGS, ROOT

from ppdet_repro.data.source.categories import COCO
from ppdet_repro.data.source.convert import convert, convert_splits
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.source.layouts import find_datasets
from ppdet_repro.data.source.synthetic import generate

TRAIN, VAL, CLASSES = "annotations/instances_train.json", "annotations/instances_val.json", 6


def make_folder(folder: Path) -> None:
    """Fill an empty folder, which must be the working directory, with a checkout and with miniatures of all data."""
    shutil.copytree(CONFIGS, folder / "configs")
    for name in ("tools", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    made = generate("dataset/synthetic", train=8, val=4, size=(64, 64), classes=CLASSES)
    shutil.copytree(made, "dataset/demo")
    name_images(Path("dataset/demo"), "train", "000000001234.jpg", 5678)
    write_coco(made)
    write_own_data()
    write_space()
    write_pictures(made / "val")
    convert_splits(find_datasets("dataset/synthetic"), "dataset/yolo", to="yolo")


def name_images(dataset: Path, split: str, file_name: str, image_id: int) -> None:
    """Give the first image of a split this name, and the second one this id."""
    path = dataset / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    first, second = document["images"][:2]
    (dataset / split / first["file_name"]).rename(dataset / split / file_name)
    for annotation in document["annotations"]:
        if annotation["image_id"] == second["id"]:
            annotation["image_id"] = image_id
    first["file_name"], second["id"] = file_name, image_id
    path.write_text(json.dumps(document))


def write_coco(made: Path) -> None:
    """dataset/coco with 80 categories, and the pictures of dataset/voc/VOCdevkit/VOC2012, which has no annotations."""
    coco, voc = Path("dataset/coco"), Path("dataset/voc/VOCdevkit/VOC2012")
    categories = [{"id": number, "name": name} for number, name in zip(COCO.ids, COCO.names)]
    (coco / "annotations").mkdir(parents=True)
    for split, file in (("train", TRAIN), ("val", VAL)):
        shutil.copytree(made / split, coco / f"{split}2017")
        document = {**json.loads((made / file).read_text()), "categories": categories}
        (coco / file.replace(".json", "2017.json")).write_text(json.dumps(document))
    shutil.copytree(made / "val", coco / "test2017")
    lists = {name: document[name] for name in ("images", "categories")}
    (coco / "annotations/image_info_test-dev2017.json").write_text(json.dumps(lists))
    shutil.copytree(made / "val", voc / "JPEGImages")
    (voc / "ImageSets/Main").mkdir(parents=True)
    names = (path.stem for path in sorted((voc / "JPEGImages").iterdir()))
    (voc / "ImageSets/Main/test.txt").write_text("".join(f"{name}\n" for name in names))


def write_own_data() -> None:
    """The reader's data: a COCO file, its copy in VOC's layout, and the pairs of files in data/cells."""
    own = generate("data/own", train=8, val=4, size=(64, 64), classes=3)
    shutil.copytree(own / "train", "data/train")
    shutil.copy(own / TRAIN, "data/instances_train.json")
    convert(find_dataset("data/instances_train.json", "data/train"), "data/VOC")
    (images,) = Path("data/VOC/ImageSets/Main").iterdir()
    names = images.rename(images.with_name("train.txt")).read_text().split()
    cells = Path("data/cells")
    shutil.copytree("data/VOC/JPEGImages", cells)
    shutil.copytree("data/VOC/Annotations", cells, dirs_exist_ok=True)
    shutil.copy("data/VOC/label_list.txt", cells)
    shutil.copy("data/VOC/label_list.txt", "labels.txt")
    for split, chosen in (("train", names[:6]), ("test", names[6:])):
        (cells / f"{split}.txt").write_text("".join(f"{name}.jpg {name}.xml\n" for name in chosen))


def write_space() -> None:
    """The space of a tuner, as docs/tuning.md prints it."""
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    Path("space.yml").write_text(page.split("This is `space.yml`:\n\n```text\n")[1].split("```")[0])


def write_pictures(folder: Path) -> None:
    """The pictures and the video on which an exported model is run."""
    for name in ("photos", "aerial", "val2017"):
        shutil.copytree(folder, name)
    shutil.copy(f"dataset/synthetic/{VAL}", "instances_val2017.json")
    pictures = [cv2.imread(str(path)) for path in sorted(folder.iterdir())]
    cv2.imwrite("photo.jpg", pictures[0])
    video = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 64))
    for picture in pictures:
        video.write(picture)
    video.release()
