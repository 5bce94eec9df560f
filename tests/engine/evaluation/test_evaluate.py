"""Evaluation and inference with trained weights: scores, files, several processes, the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paths import ROOT
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.core.config import build, load_config
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.evaluation.evaluate import detect, evaluate, evaluate_file
from ppdet_repro.engine.infer import choose_images, infer
from ppdet_repro.engine.models import load_trained
from ppdet_repro.engine.sliced import sliced_pipeline
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import coco_rows
from ppdet_repro.runtime.slicing import SliceOptions
from ppdet_repro.utils.errors import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a small dataset in `data` and the config `tiny.yml`."""
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, write_images(folder / "data", count=7))
    return folder


@pytest.fixture(scope="module")
def model(tiny):
    model = tiny_model(tiny / "tiny.yml")
    paddle.save(model.state_dict(), str(tiny / "weights.pdparams"))
    return model


def config(tiny, *overrides):
    return load_config(tiny / "tiny.yml", overrides)


def command(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def test_scores_are_those_of_the_detections_and_the_mode_is_restored(tiny, model, tmp_path):
    model.train()
    scores = evaluate(model, config(tiny, f"output_eval={tmp_path}", "classwise=true"))
    assert model.training
    model.eval()
    rows = json.loads((tmp_path / "bbox.json").read_text())
    expected = evaluate_coco(load_coco_json(tiny / "data" / "truth.json"), rows).values()
    assert expected.items() <= scores.items()
    more = {"bbox_precision", "bbox_recall", "bbox_F1", "bbox_threshold"}
    assert set(scores) - set(expected) == more and all(0 < scores[name] <= 1 for name in more)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert 0 < scores["bbox_mAP"] < 1
    assert {"bbox_mAP_50", "bbox_AR_100", "bbox_AP/square", "bbox_AP/disc"} <= set(scores)


def test_a_result_file_is_evaluated_without_a_model(tiny, model, tmp_path):
    cfg = config(tiny, f"output_eval={tmp_path}")
    expected = evaluate(model, cfg)
    assert evaluate_file(cfg) == expected


def test_with_save_prediction_only_detections_are_written_and_not_evaluated(tiny, model, tmp_path):
    cfg = config(tiny, f"output_eval={tmp_path}", "save_prediction_only=true")
    assert evaluate(model, cfg) == {}
    assert json.loads((tmp_path / "bbox.json").read_text())


@pytest.mark.parametrize("annotations", [None, []])
def test_without_ground_truth_detections_are_written(annotations, tiny, model, tmp_path, monkeypatch):
    """The annotation file of test-dev lists images and categories only."""
    truth = json.loads((tiny / "data" / "truth.json").read_text())
    truth = {**truth, "annotations": annotations}
    if annotations is None:
        del truth["annotations"]
    (tmp_path / "dev.json").write_text(json.dumps(truth))
    evaluate(model, config(tiny, f"output_eval={tmp_path / 'with_truth'}"))
    expected = json.loads((tmp_path / "with_truth" / "bbox.json").read_text())
    blind = f"EvalDataset.anno_path={tmp_path / 'dev.json'}"
    monkeypatch.chdir(tmp_path)  # where the file goes without `output_eval`
    assert set(evaluate(model, config(tiny, blind, "tide=true", f"report={tmp_path / 'report'}")).values()) == {-1.0}
    assert json.loads((tmp_path / "bbox.json").read_text()) == expected and len(expected) > 7
    assert not (tmp_path / "report").exists()


def test_the_bias_is_added_to_widths_and_heights(tiny, model, tmp_path):
    sizes = []
    for bias in (0, 1):
        evaluate(model, config(tiny, f"output_eval={tmp_path}", f"bias={bias}"))
        sizes.append(np.array([row["bbox"][2:] for row in json.loads((tmp_path / "bbox.json").read_text())]))
    np.testing.assert_allclose(sizes[1], sizes[0] + 1, atol=1e-9)


def test_the_voc_metric_takes_the_objects_from_the_dataset(tiny, model):
    scores = evaluate(model, config(tiny, "metric=VOC", "map_type=integral"))
    assert 0 < scores["bbox_mAP"] <= 1 and "bbox_AP/square" in scores
    images_only = r"EvalDataset.data_fields is \['image'\]; metric VOC needs gt_bbox and gt_class in it too"
    with pytest.raises(UserError, match=images_only):
        evaluate(model, config(tiny, "metric=VOC", "EvalDataset.data_fields=[image]"))


def test_each_mistake_of_the_user_is_one_line(tiny, model, tmp_path):
    with pytest.raises(UserError, match="EvalDataset has 2 classes, but num_classes of the model is 5"):
        evaluate(model, config(tiny, "num_classes=5"))
    with pytest.raises(
        UserError, match="metric COCO needs a COCO JSON file, but EvalDataset.anno_path is .*or set metric: VOC"
    ):
        dataset = build(config(tiny), "EvalDataset")
        dataset.load()
        dataset.anno_path = "test.txt"
        evaluate(model, config(tiny), dataset)
    with pytest.raises(UserError, match="cannot read .*bbox.json: No such file"):
        evaluate_file(config(tiny, f"output_eval={tmp_path}"))
    with pytest.raises(UserError, match="metric is VOC; only COCO result files"):
        evaluate_file(config(tiny, "metric=VOC"))
    wrong = {"{": "is not valid JSON", '[{"image_id": 1}]': "row 0 has no 'category_id'", "[1]": "row 0 is 1"}
    for content, message in {**wrong, "{}": "is not a COCO result file"}.items():
        (tmp_path / "bbox.json").write_text(content)
        with pytest.raises(UserError, match=message):
            evaluate_file(config(tiny, f"output_eval={tmp_path}"))


def test_two_processes_find_what_one_finds(tiny, model, tmp_path):
    arguments = ["tools/eval.py", "-c", tiny / "tiny.yml", "--output_eval", tmp_path / "two", "-o"]
    arguments += [f"weights={tiny / 'weights.pdparams'}", "EvalReader.batch_size=2"]
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node=2", f"--log_dir={tmp_path / 'log'}"]
    done = command(*launch, *arguments)
    logs = "".join(path.read_text() for path in sorted((tmp_path / "log").glob("workerlog.*")))
    assert done.returncode == 0, logs
    assert logs.count("evaluation of 7 images") == 1
    expected = evaluate(model, config(tiny, f"output_eval={tmp_path / 'one'}", "EvalReader.batch_size=2"))
    one, two = (json.loads((tmp_path / name / "bbox.json").read_text()) for name in ("one", "two"))
    assert evaluate_coco(load_coco_json(tiny / "data" / "truth.json"), two).values().items() <= expected.items()
    for a, b in zip(one, two):  # the last bits differ, because the processes have other numbers of threads
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=1e-3)
    assert len(one) == len(two)


def test_eval_command(tiny, model, tmp_path):
    weights = f"weights={tiny / 'weights.pdparams'}"
    done = command("tools/eval.py", "-c", tiny / "tiny.yml", "-o", weights, "--classwise", "--bias")
    assert done.returncode == 0, done.stderr
    assert "COCO" in done.stderr and "square" in done.stderr
    wrong = command("tools/eval.py", "-c", tiny / "tiny.yml", "-o", weights, "num_classes=3")
    assert wrong.returncode == 2
    errors = [line for line in wrong.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "these weights are not this model's" in errors[0]
    assert "Traceback" not in wrong.stderr


def test_infer_draws_and_writes_rows(tiny, model, tmp_path):
    folder = tiny / "data" / "images"
    files = choose_images(None, str(folder), None)
    assert len(files) == 7
    results = infer(model, config(tiny), files[:2], tmp_path, draw_threshold=0.1, save_results=True, save_threshold=0.2)
    assert [image.im_id for image in results] == [0, 1]
    for i, image in enumerate(results):
        before, after = read_image(files[i]), read_image(str(tmp_path / Path(files[i]).name))
        assert before.shape == after.shape
        assert (before != after).any() == (image.rows[:, 1] >= 0.1).any()
    rows = json.loads((tmp_path / "bbox.json").read_text())
    assert all(row["score"] >= 0.2 and row["file_name"] in ("000.png", "001.png") for row in rows)
    assert len(rows) == sum(int((image.rows[:, 1] >= 0.2).sum()) for image in results)


def test_infer_leaves_out_what_is_no_image_and_never_replaces_an_input(tiny, model, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(tiny / "data" / "images", folder)
    (folder / "001.png").write_bytes(b"GIF89a")
    files = choose_images(None, str(folder), None)
    before = {file: Path(file).read_bytes() for file in files}
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        with pytest.raises(
            UserError, match="1 of 7 images could not be used; .* The first: .*in/001.png; a warning says why"
        ):
            infer(model, config(tiny, f"worker_num={workers}"), files, out, draw_threshold=0, save_results=True)
        named = {row["file_name"] for row in json.loads((out / "bbox.json").read_text())}
        assert "001.png" not in named and {path.name for path in out.glob("*.png")} == {Path(f).name for f in files} - {
            "001.png"
        }
    with pytest.raises(UserError, match="a result would replace the input .*000.png; give another one"):
        infer(model, config(tiny), files, folder)
    assert {file: Path(file).read_bytes() for file in files} == before


def test_infer_draws_nothing_below_the_threshold(tiny, model, tmp_path):
    file = str(tiny / "data" / "images" / "000.png")
    infer(model, config(tiny), [file], tmp_path, draw_threshold=1.0)
    np.testing.assert_array_equal(read_image(str(tmp_path / "000.png")), read_image(file))


def test_infer_finds_what_evaluation_finds(tiny, model):
    cfg = config(tiny)
    dataset, reader = build(cfg, "EvalDataset"), build(cfg, "EvalReader")
    batches = reader.batches(dataset, epoch=0, epochs_total=1, seed=0, workers=0)
    expected = coco_rows(detect(model, batches, len(dataset)), dataset.category_ids)
    results = infer(model, cfg, dataset.table.files, visualize=False)
    with_ids = [image._replace(im_id=int(i)) for image, i in zip(results, dataset.table.ids)]
    assert coco_rows(with_ids, dataset.category_ids) == expected


def test_infer_on_slices(tiny, model, tmp_path):
    """Slices as large as the image are the image; smaller ones are those of `SlicedPipeline`."""
    files = choose_images(None, str(tiny / "data" / "images"), None)[:3]
    whole, large, small = (
        infer(model, config(tiny), files, visualize=False, slices=slices)
        for slices in (None, SliceOptions((200, 200), combine_method="concat"), SliceOptions((64, 64)))
    )
    for a, b in zip(whole, large):
        assert a.im_id == b.im_id and len(a.rows) > 0
        np.testing.assert_allclose(b.rows, a.rows, atol=1e-3)
    pipeline = sliced_pipeline(model, build(config(tiny), "TestReader").preprocess, SliceOptions((64, 64)), 1)
    for found, (expected,) in zip(small, pipeline.stream([file] for file in files)):
        np.testing.assert_allclose(found.rows, expected.rows, atol=1e-3)


def test_images_for_visualdl(tiny, model, tmp_path, monkeypatch):
    """Twelve images are ten steps of frame 0 and two of frame 1, without and with boxes."""
    written = []

    class Writer:
        def add_image(self, tag, image, step):
            written.append((tag, image, step))

        def close(self):
            written.append("closed")

    monkeypatch.setattr("ppdet_repro.engine.infer.open_visualdl", lambda folder: Writer())
    files = choose_images(None, str(tiny / "data" / "images"), None)
    files = (files + files)[:12]
    infer(model, config(tiny), files, tmp_path, draw_threshold=0.0, vdl_dir="vdl")
    assert written.pop() == "closed"
    places = [(i // 10, i % 10) for i in range(12)]
    expected = [(f"{kind}/frame_{frame}", step) for frame, step in places for kind in ("original", "result")]
    assert [(tag, step) for tag, _, step in written] == expected
    np.testing.assert_array_equal(written[2][1], read_image(files[1]))
    assert (written[2][1] != written[3][1]).any()
    infer(model, config(tiny), files[:1], tmp_path, visualize=False, vdl_dir="vdl")
    assert len(written) == 24


def test_do_eval_writes_all_boxes_of_an_annotation_files_images(tiny, model, tmp_path):
    """What PaddleDetection's --do_eval writes can be evaluated."""
    weights = f"weights={tiny / 'weights.pdparams'}"
    dataset = [f"TestDataset.dataset_dir={tiny / 'data'}", "TestDataset.anno_path=truth.json"]
    common = ["tools/infer.py", "-c", tiny / "tiny.yml", "--do_eval=True", "--save_results=True", "--visualize=False"]
    done = command(*common, "--output_dir", tmp_path, "-o", weights, *dataset, "TestDataset.image_dir=images")
    assert done.returncode == 0, done.stderr
    found = evaluate_file(config(tiny, f"output_eval={tmp_path}"))
    assert found == pytest.approx(evaluate(model, config(tiny)), abs=1e-6)
    lacks = command(*common, "-o", weights, *dataset)
    assert lacks.returncode == 2 and "--do_eval needs TestDataset.anno_path" in lacks.stderr.splitlines()[-1]


def test_images_to_infer_on_are_chosen(tiny, tmp_path):
    folder = tiny / "data" / "images"
    (tmp_path / "list.txt").write_text("002.png\n\n000.png\n")
    chosen = choose_images(None, str(folder), str(tmp_path / "list.txt"))
    assert [Path(file).name for file in chosen] == ["002.png", "000.png"]
    (tmp_path / "list.txt").write_bytes(b'\xef\xbb\xbf002.png\r\n"000.png"\r\n._001.png\n.\\001.png\n')
    chosen = choose_images(None, str(folder), str(tmp_path / "list.txt"))
    assert [Path(file).name for file in chosen] == ["002.png", "000.png", "001.png"]
    assert choose_images(str(folder / "001.png"), str(folder), None) == [str(folder / "001.png")]
    (tmp_path / "list.txt").write_text("absent.png")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((None, None, None), "give --infer_img FILE or --infer_dir FOLDER"),
        ((None, str(folder), str(tmp_path / "list.txt")), "absent.png does not exist"),
        ((None, str(folder), str(tmp_path / "no.txt")), "--infer_list .*no.txt cannot be read"),
        ((None, str(tmp_path / "empty"), None), "there is no image in"),
    ):
        with pytest.raises(UserError, match=message):
            choose_images(*arguments)


def test_infer_and_export_commands(tiny, model, tmp_path):
    common = ["-c", tiny / "tiny.yml", "-o", f"weights={tiny / 'weights.pdparams'}"]
    image = tiny / "data" / "images" / "000.png"
    done = command("tools/infer.py", *common, "--infer_img", image, "--output_dir", tmp_path / "out")
    assert done.returncode == 0 and (tmp_path / "out" / "000.png").is_file(), done.stderr
    done = command("tools/export_model.py", *common, "--output_dir", tmp_path)
    assert done.returncode == 0 and (tmp_path / "tiny" / "infer_cfg.yml").is_file(), done.stderr
    with pytest.raises(UserError, match="no weights to load; give them with -o weights="):
        load_trained(config(tiny))
