"""`Detector`: what it takes, what it returns, and that it finds the boxes that the commands find."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paths import ROOT
from PIL import Image
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro import Detector, Result, export_model, load_config
from ppdet_repro.cli import main as cli
from ppdet_repro.utils.errors import UserError


class Files:
    """A taught detector: its config and weights, its export, and a folder of pictures."""

    def __init__(self, folder: Path):
        self.data = write_images(folder / "set")
        self.config, self.weights = write_config(folder, self.data), folder / "tiny.pdparams"
        model = tiny_model(self.config)
        cfg = load_config(self.config)
        paddle.save(model.state_dict(), str(self.weights))
        self.export = export_model(model, cfg, folder / "exported")
        self.photos = folder / "photos"
        self.photos.mkdir()
        for i in (0, 1, 2):
            image = cv2.imread(str(sorted((self.data / "images").iterdir())[i]))
            cv2.imwrite(str(self.photos / f"{'abc'[i]}.png"), image)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def of_config(files):
    return Detector.load(files.config, files.weights)


@pytest.fixture(scope="module")
def of_export(files):
    return Detector.load(files.export)


def run_cli(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["ppdet-repro", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def in_order(rows):
    """COCO rows of one image in descending order of their scores."""
    return sorted(({k: v for k, v in row.items() if k != "file_name"} for row in rows), key=lambda row: -row["score"])


@pytest.mark.parametrize("kind", ["config", "export"])
def test_the_boxes_are_those_of_the_command_exactly(files, of_config, of_export, kind, tmp_path, monkeypatch):
    detector = {"config": of_config, "export": of_export}[kind]
    if kind == "config":
        words = [
            "-c",
            files.config,
            "--infer_dir",
            files.photos,
            "--save_threshold",
            0,
            "-o",
            f"weights={files.weights}",
        ]
    else:
        words = [f"--model_dir={files.export}", f"--image_dir={files.photos}"]
    run_cli(monkeypatch, "infer", *words, "--output_dir", tmp_path, "--save_results=True")
    rows = json.loads((tmp_path / "bbox.json").read_text())
    results = detector.predict(files.photos, threshold=0)
    assert len(results) == 3 and sum(map(len, results)) == len(rows) > 10
    for i, result in enumerate(results):
        of_image = [row for row in rows if row["image_id"] == i]
        assert {row["file_name"] for row in of_image} <= {result.name}
        assert result.to_coco(i) == in_order(of_image)


def test_everything_that_is_an_image(files, of_export):
    paths = sorted(files.photos.iterdir())
    arrays = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    expected = [result.rows for result in of_export.predict(files.photos, threshold=0)]
    assert [len(rows) > 0 for rows in expected] == [True] * 3
    for images, count in [
        (str(paths[0]), 1),
        (paths[0], 1),
        (paths, 3),
        (arrays[0], 1),
        (arrays, 3),
        (Image.fromarray(arrays[0]), 1),
        ([paths[0], arrays[1], Image.fromarray(arrays[2])], 3),
        ((path for path in paths), 3),
        ([], 0),
    ]:
        results = of_export.predict(images, threshold=0)
        assert len(results) == count
        for result, rows in zip(results, expected):
            np.testing.assert_array_equal(result.rows, rows)
    same = [arrays[0], arrays[0]]
    stacked = of_export.predict(np.stack(same), threshold=0, batch_size=2)
    np.testing.assert_array_equal(stacked[0].rows, stacked[1].rows)


def test_a_threshold_leaves_the_best_boxes_in_order(of_export, files):
    (everything,) = of_export.predict(files.photos / "a.png", threshold=0)
    middle = float(everything.scores[len(everything) // 2])
    (best,) = of_export.predict(files.photos / "a.png", threshold=middle)
    assert 0 < len(best) < len(everything)
    np.testing.assert_array_equal(best.rows, everything.rows[everything.scores >= middle])
    assert (np.diff(best.scores) <= 0).all()


def test_a_result(of_config, files):
    (result,) = of_config.predict(files.photos / "a.png", threshold=0)
    count = len(result)
    assert (result.boxes.shape, result.boxes.dtype) == ((count, 4), np.float32)
    assert (result.scores.shape, result.classes.shape, result.classes.dtype) == ((count,), (count,), np.int64)
    assert result.names == [of_config.class_names[c] for c in result.classes] and set(result.names) <= {
        "square",
        "disc",
    }
    assert result.path == str(files.photos / "a.png") and result.name == "a.png"
    assert repr(result).startswith("Result(a.png: ")
    assert {row["category_id"] for row in result.to_coco()} <= {3, 5}  # as in the annotations
    x1, y1, x2, y2 = result.boxes[0].tolist()
    assert result.to_coco(9)[0]["bbox"] == [x1, y1, x2 - x1, y2 - y1]


def test_drawings(of_config, files, tmp_path):
    results = of_config.predict(files.photos, threshold=0)
    written = [result.save(tmp_path / "drawn") for result in results]
    assert written == [tmp_path / "drawn" / name for name in ("a.png", "b.png", "c.png")]
    np.testing.assert_array_equal(cv2.imread(str(written[0]))[:, :, ::-1], results[0].draw())
    assert (results[0].draw() != results[0].image).any()
    assert results[0].save(tmp_path / "one.jpg") == tmp_path / "one.jpg"
    with pytest.raises(UserError, match="would replace the image itself"):
        results[0].save(files.photos)
    (of_array,) = of_config.predict(results[0].image)
    assert of_array.path is None and of_array.save(tmp_path).name == "image_0.jpg"


def test_supervision(monkeypatch):
    result = Result(np.float32([[1, 0.5, 1, 2, 3, 4]]), ["cat", "dog"], [1, 2], np.zeros([8, 8, 3], np.uint8), "a.jpg")
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        result.to_supervision()
    fake = types.SimpleNamespace(Detections=lambda **values: values)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    given = result.to_supervision()
    assert given["xyxy"].tolist() == [[1, 2, 3, 4]] and given["confidence"].tolist() == [0.5]
    assert given["class_id"].tolist() == [1] and given["data"]["class_name"].tolist() == ["dog"]


def test_a_class_without_a_name():
    result = Result(np.float32([[7, 0.5, 1, 2, 3, 4]]), ["cat"], [1], np.zeros([8, 8, 3], np.uint8), "a.jpg")
    assert result.names == ["class 7"]


@pytest.mark.parametrize(
    "images, said",
    [
        ("nowhere.jpg", "nowhere.jpg"),
        (np.zeros([8, 8], np.uint8), r"an RGB image \[H, W, 3\] of type uint8, not uint8 \(8, 8\)"),
        (np.zeros([8, 8, 3], np.float32), "not float32"),
        (np.zeros([0, 8, 3], np.uint8), "not uint8"),
        (7, "int is not an image"),
        ([None], "NoneType is not an image"),
    ],
)
def test_what_is_no_image(of_export, images, said):
    with pytest.raises(UserError, match=said):
        of_export.predict(images)


def test_files_that_are_no_images(of_export, tmp_path):
    with pytest.raises(UserError, match="there is no image in"):
        of_export.predict(tmp_path)
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match="a.jpg"):
        of_export.predict([tmp_path / "a.jpg"])


def test_arguments_for_the_other_kind_of_model(files, of_export):
    for arguments, said in [
        ({"path": files.export, "weights": files.weights}, "weights and overrides are for a config"),
        ({"path": files.export, "engine": "tensorflow"}, "engine 'tensorflow' is not one of paddle, onnxruntime"),
        ({"path": files.export, "device": "tpu"}, "device 'tpu' is not one of"),
        ({"path": files.export, "engine": "onnxruntime"}, "lacks model.onnx"),
        ({"path": files.config, "engine": "onnxruntime"}, "engine and run_mode are for an exported model"),
        ({"path": files.config, "device": "xpu"}, "device 'xpu' is not one of cpu, gpu"),
        ({"path": files.config, "weights": "nothing.pdparams"}, "nothing.pdparams"),
    ]:
        with pytest.raises(UserError, match=said):
            Detector.load(**arguments)
    with pytest.raises(UserError, match="evaluate needs a detector of a config"):
        of_export.evaluate()


def test_evaluation_and_export_of_a_config(of_config, of_export, files, tmp_path):
    assert 0 <= of_config.evaluate()["bbox_mAP"] <= 1
    again = Detector.load(of_config.export(tmp_path))
    first = files.photos / "a.png"
    np.testing.assert_array_equal(again.predict(first)[0].rows, of_export.predict(first)[0].rows)


def test_the_import_is_cheap():
    """Importing `Detector` does not import Paddle."""
    code = "import sys; from ppdet_repro import Detector, Result; assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
