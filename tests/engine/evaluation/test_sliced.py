"""Evaluation on slices of large images, with a detector that finds bright pixels."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import paddle
import pytest
from paths import ROOT
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import build, load_config
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.sliced import detect_sliced, sliced_pipeline
from ppdet_repro.runtime.slicing import SliceOptions
from ppdet_repro.utils.errors import UserError


class Bright(paddle.nn.Layer):
    """Finds the box around the bright pixels of each image, with a score of 0.9, in pixels of the original image."""

    def forward(self, batch):
        rows, counts = [], []
        for image, scale in zip(batch["image"].numpy(), batch["scale_factor"].numpy()):
            ys, xs = np.nonzero(image[0] > 100)
            if len(xs):
                box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] / scale[[1, 0, 1, 0]]
                rows.append([0, 0.9, *box])
            counts.append(int(len(xs) > 0))
        return {
            "bbox": paddle.to_tensor(np.array(rows, np.float32).reshape(-1, 6)),
            "bbox_num": paddle.to_tensor(counts, dtype="int32"),
        }


@pytest.fixture
def cfg(tmp_path):
    """One image of 40 x 100 pixels with an object at x 20 to 50, y 10 to 30; the network sees it twice as large."""
    image = np.zeros((40, 100, 3), np.uint8)
    image[10:30, 20:50] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    box = {"bbox": [20, 10, 30, 20], "area": 600, "category_id": 1, "image_id": 7, "iscrowd": 0, "id": 1}
    images = [{"file_name": "a.png", "id": 7, "width": 100, "height": 40}]
    truth = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "bright"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "a.yml").write_text(f"""
        metric: COCO
        num_classes: 1
        worker_num: 0
        EvalDataset: {{name: COCODataSet, dataset_dir: {tmp_path}, anno_path: truth.json}}
        EvalReader:
          sample_transforms: [Decode: , Resize: {{target_size: [80, 80], keep_ratio: true, interp: 0}}, Permute: ]
          batch_size: 2
    """)

    def read(*overrides):
        return load_config(tmp_path / "a.yml", overrides)

    return read


def test_boxes_of_slices_are_combined_before_they_are_scored(cfg):
    # Slices start at x = 0, 30 and 60. The first sees the object from 20 to 40, the second from 30 to 50. With pixels
    # that belong to a box, these overlap by 11 of 21 columns, 0.52. The object has 30 columns, so that a half has an
    # IoU of 20 / 30 with it, and is right at 4 of COCO's 10 thresholds
    def score(method, threshold):
        return evaluate(Bright(), cfg(), slices=SliceOptions((40, 40), (0.25, 0.25), method, threshold))["bbox_mAP"]

    assert evaluate(Bright(), cfg())["bbox_mAP"] == 1
    assert score("nmm", 0.5) == pytest.approx(1)
    assert score("nmm", 0.6) == score("nms", 0.5) == score("concat", 0.5) == pytest.approx(0.4)


def test_a_sliced_dataset_is_evaluated_on_its_own_slices(cfg):
    sliced = cfg("EvalDataset.name=SlicedCOCODataSet", "EvalDataset.sliced_size=[40,40]")
    assert evaluate(Bright(), sliced)["bbox_mAP"] == pytest.approx(0.4)
    whole = SliceOptions(match_threshold=0.5, combine_method="nmm")  # of 640 x 640 pixels, but for the dataset
    assert evaluate(Bright(), sliced, slices=whole)["bbox_mAP"] == pytest.approx(1)
    for wrong in ("sliced_size=[40]", "overlap_ratio=[0.5,1.0]"):
        with pytest.raises(UserError, match="SlicedCOCODataSet"):
            build(cfg("EvalDataset.name=SlicedCOCODataSet", f"EvalDataset.{wrong}"), "EvalDataset")


def test_detection_on_slices_of_files_is_in_pixels_of_the_image(cfg, tmp_path):
    reader = build(cfg(), "EvalReader")
    options = SliceOptions((40, 40), (0.25, 0.25), "nmm", 0.5)
    model = Bright()
    pipeline = sliced_pipeline(model, reader.preprocess, options, batch_size=2)
    (found,) = detect_sliced(pipeline, [str(tmp_path / "a.png")], [7])
    assert found.im_id == 7 and model.training
    np.testing.assert_allclose(found.rows, [[0, 0.9, 20, 10, 50, 30]], rtol=1e-6)


def test_slices_and_several_scales_are_refused(cfg):
    with pytest.raises(UserError, match="test_scales"):
        evaluate(Bright(), cfg("test_scales=[[80,80]]"), slices=SliceOptions())


def test_the_command_slices(tmp_path):
    write_config(tmp_path, write_images(tmp_path / "data", count=2))
    paddle.save(tiny_model(tmp_path / "tiny.yml").state_dict(), str(tmp_path / "weights.pdparams"))
    flags = ["--slice_infer", "--slice_size", "48", "48", "--combine_method=nmm", "--output_eval", str(tmp_path)]
    command = ["tools/eval.py", "-c", str(tmp_path / "tiny.yml"), "-o", f"weights={tmp_path}/weights.pdparams"]
    done = subprocess.run([sys.executable, *command, *flags], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "bbox.json").read_text())
