"""Label lists, set files, annotations, and the state.json of checkpoints: damaged genuine ones."""

from __future__ import annotations

import copy
import json
import random
from functools import cache
from pathlib import Path
from typing import Dict, List, Tuple

from ppdet_repro.data.source.categories import read_categories
from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.engine.training.checkpoint import epochs_done
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.printable import printable
from tests.fuzzing.mutations import damaged
from tests.paths import CONFIGS, FIXTURES
from tests.voc_devkit import xml

VALUES = [
    None, True, -1, 0, 7.5, 1 << 70, float("nan"), float("inf"), 1e300, "text", "", "\0", "\ud800", "\x1b[2J", "²",
    [], {},
    [1, 2], [[]], {"a": 1}, "x" * 3000, "../../a", "/dev/zero", [0, 0, 1 << 80, 5], ["1", 2, 3, 4], [1e308] * 4,
    [-1e9] * 4,
]  # fmt: skip


def generate(rng: random.Random) -> Dict[str, bytes]:
    """The files that `read` reads, of which one is damaged."""
    files = dict(rng.choice(genuine()))
    name = rng.choice([name for name in files if not name.endswith(".jpg")])
    if name.endswith(".json") and rng.random() < 0.6:
        document = json.loads(files[name])
        for _ in range(rng.choice([1, 1, 3])):
            exchange(rng, document)
        files[name] = json.dumps(document).encode()
    else:
        files[name] = damaged(rng, files[name], [content for group in genuine() for content in group.values()])
    return files


def exchange(rng: random.Random, document: object) -> None:
    """Replace one random value inside a JSON document by a random one."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))  # type: ignore[call-overload]
        if not keys:
            return
        key = rng.choice(keys)
        inner = document[key]  # type: ignore[index]
        if not isinstance(inner, (dict, list)) or rng.random() < 0.3:
            document[key] = copy.deepcopy(rng.choice(VALUES))  # type: ignore[index]
            return
        document = inner


def read(folder: Path) -> None:
    if (folder / "state.json").exists():
        epochs_done(folder)
    elif (folder / "a.json").exists():
        each(
            lambda: read_categories(str(folder / "a.json")),
            lambda: COCODataSet(str(folder), "", "a.json", ["gt_bbox", "gt_poly"], allow_empty=True).record(0),
            lambda: printable(check(find_dataset(str(folder / "a.json"), str(folder)), False).text()).encode("utf-8"),
        )
    else:
        each(
            lambda: VOCDataSet(
                str(folder), None, "set.txt", ["gt_bbox"], label_list="labels.txt", allow_empty=True
            ).load(),
            lambda: check(find_dataset(str(folder / "set.txt"), str(folder), str(folder / "labels.txt")), False).text(),
        )


def each(*readers) -> None:
    """Call all, then raise the last refusal: each must refuse what it cannot read."""
    refusal = None
    for reader in readers:
        try:
            reader()
        except UserError as error:
            refusal = error
    if refusal is not None:
        raise refusal


@cache
def genuine() -> List[Dict[str, bytes]]:
    box = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [0, 0, 5, 5.5],
        "area": 27.5,
        "iscrowd": 0,
        "segmentation": [],
    }
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 60}
    names: List[Tuple[int, str]] = [(1, "cat"), (2, "dog")]
    coco = {
        "images": [image, {**image, "id": 2, "file_name": "b.jpg"}],
        "annotations": [box, {**box, "id": 2, "image_id": 2, "category_id": 2}],
        "categories": [{"id": number, "name": name} for number, name in names],
    }
    pictures = {"a.jpg": b"", "b.jpg": b""}
    voc = {
        "set.txt": b"a.jpg a.xml\nb.jpg b.xml\n",
        "labels.txt": b"cat\ndog\nL\xc3\xb6we\n",
        "a.xml": xml([("cat", 10, 20, 40, 35, "<difficult>1</difficult>")], more="<id>3</id>").encode(),
        "b.xml": xml([("dog", 1, 2, 3, 4, "")]).encode(),
    }
    states = [path.read_bytes() for path in sorted(FIXTURES.glob("paddle_versions/*/epoch_0001/state.json"))]
    labels = (CONFIGS / "datasets/bccd_label_list.txt").read_bytes()
    return [
        {"a.json": json.dumps(coco).encode(), **pictures},
        {**voc, **pictures},
        {**voc, **pictures, "labels.txt": labels},
        *({"state.json": state} for state in states[:1]),
    ]
