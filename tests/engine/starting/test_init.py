"""`ppdet-repro init`: from a folder of labelled pictures to a config that trains, evaluates and finds."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from dataset_formats import boxes_of, coco, labelme, rectangle, write, write_in_all_formats, write_picture
from small_detectors import small_inputs
from voc_devkit import xml

from ppdet_repro import load_config
from ppdet_repro.cli import main as cli
from ppdet_repro.core.config import build
from ppdet_repro.engine.starting.init import init
from ppdet_repro.engine.starting.recipes import CPU, GPU, Measures, input_size, measured, run_for
from ppdet_repro.serve.server import make_server
from ppdet_repro.utils.errors import UserError

BOX = [1, 1, 25, 15, 50, 20]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `ppdet-repro` with the given words. Returns its exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", [cli.PROGRAM, *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return (done.value.code, *capsys.readouterr())

    return run


def write_flat(folder, number, name=lambda i: ("cat", "dog")[i % 2], suffix=".jpg"):
    """Pictures with an XML file beside each, in no split."""
    for i in range(number):
        write_picture(folder / f"{i}{suffix}")
        write(folder / f"{i}.xml", xml([(name(i), 10, 10, 60, 40, "")], 100, 50))


def state_of(folder):
    """The content and time of change of every file."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def text_of(started):
    return Path(started.config).read_text(encoding="utf-8")


def loaded_boxes(config, section):
    """What a dataset of a config contains, as `boxes_of` returns it."""
    dataset = build(load_config(config), section)
    dataset.load()
    records = [dataset.record(i) for i in range(len(dataset))]
    boxes = []
    for record in records:
        assert os.path.isfile(record["im_file"])
        for (x1, y1, x2, y2), label in zip(record["gt_bbox"].tolist(), record["gt_class"].ravel().tolist()):
            name = os.path.basename(record["im_file"])
            boxes.append((name, dataset.class_names[label], (x1, y1, x2 - x1, y2 - y1)))
    return sorted(boxes), sorted(os.path.basename(record["im_file"]) for record in records)


def test_four_formats_give_the_same_dataset(tmp_path, monkeypatch):
    folders = write_in_all_formats(tmp_path, monkeypatch)
    configs = {form: init(str(folder)).config for form, folder in folders.items()}
    for section, split, number in (("TrainDataset", "train", 8), ("EvalDataset", "val", 4)):
        boxes, pictures = boxes_of(f"made/annotations/instances_{split}.json")
        assert len(pictures) == number and len(boxes) > 10
        for form, config in configs.items():
            assert loaded_boxes(config, section) == (boxes, pictures), form
    texts = {form: Path(config).read_text() for form, config in configs.items()}
    plain = {text.replace(f"output/{form}", "").replace(str(tmp_path / form), "") for form, text in texts.items()}
    assert len(plain) == 1


def test_nothing_of_the_user_changes_and_the_second_time_nothing_at_all(tmp_path):
    write_flat(tmp_path, 10)
    before = state_of(tmp_path)
    first = init(str(tmp_path))
    after = state_of(tmp_path)
    assert {path: state for path, state in after.items() if path in before} == before
    assert {os.path.relpath(path, tmp_path / "ppdet_repro") for path in set(after) - set(before)} == {
        f"{tmp_path.name}.yml", "train.json", "val.json",
    }  # fmt: skip
    second = init(str(tmp_path))
    assert state_of(tmp_path) == after and second.config == first.config
    assert any(line.startswith("unchanged: ") for line in second.lines)


def test_a_config_that_was_edited_is_kept_unless_forced(tmp_path):
    write_flat(tmp_path, 10)
    config = Path(init(str(tmp_path)).config)
    config.write_text(config.read_text() + "seed: 5\n")
    with pytest.raises(
        UserError, match=r"yml was changed, or the dataset was: overwrite it with --force, or write else"
    ):
        init(str(tmp_path))
    assert config.read_text().endswith("seed: 5\n")
    init(str(tmp_path), force=True)
    assert "seed" not in config.read_text()


def test_the_config_reads_the_datasets_from_any_folder(tmp_path, monkeypatch):
    write_flat(tmp_path / "my cells", 10, suffix=".png")
    monkeypatch.chdir(tmp_path)
    config = os.path.abspath(init("my cells").config)
    assert os.path.basename(config) == "my_cells.yml"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    cfg = load_config(config)
    train, evaluation = build(cfg, "TrainDataset"), build(cfg, "EvalDataset")
    train.load(), evaluation.load()
    assert (len(train), len(evaluation), train.class_names) == (8, 2, ["cat", "dog"])
    assert train.record(0)["gt_bbox"].tolist() == [[10, 10, 60, 40]]
    assert build(cfg, "TestDataset").class_names == ["cat", "dog"]
    assert (cfg.run.num_classes, cfg.run.use_gpu, cfg.run.metric) == (2, False, "COCO")


def test_damaged_pictures_and_wrong_sizes_are_said(tmp_path):
    write_flat(tmp_path, 12)
    data = (tmp_path / "3.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "4.jpg").write_bytes(b"")
    write(tmp_path / "5.xml", xml([("cat", 10, 10, 60, 40, "")], 200, 50))
    lines = init(str(tmp_path)).lines
    assert any(line.startswith("left out: 2 pictures that cannot be decoded, such as image ") for line in lines)
    assert "doubtful: 1 picture of another size than the labels say, such as 5.jpg" in lines
    images = [
        i for s in ("train", "val") for i in json.loads((tmp_path / f"ppdet_repro/{s}.json").read_text())["images"]
    ]
    assert len(images) == 10 and {image["width"] for image in images} == {100}


def test_the_splits_that_are_there_are_used(tmp_path):
    splits = {"train": 4, "valid": 2, "test": 2}
    for split, number in splits.items():
        write_flat(tmp_path / "three" / split, number)
    lines = init(str(tmp_path / "three")).lines
    assert [line for line in lines if ": 4 pictures" in line or ": 2 pictures" in line] == [
        "train: 4 pictures, 4 objects", "val: 2 pictures, 2 objects", "test: 2 pictures, 2 objects",
    ]  # fmt: skip
    for split in ("train", "test"):
        write_flat(tmp_path / "two" / split, splits[split])
    assert "there is no val: the evaluations during training use test" in init(str(tmp_path / "two")).lines
    write_flat(tmp_path / "one" / "train", 10)
    assert "val: 2 pictures, 2 objects" in init(str(tmp_path / "one")).lines


def test_pictures_in_two_splits_are_taken_out_of_train(tmp_path):
    for i in range(5):
        write_picture(tmp_path / f"{i}.jpg")
    for split, names in (("train", "0123"), ("val", "34")):
        document = coco([(f"{i}.jpg", 100, 50) for i in names], [BOX, [2, *BOX[1:]]], ["cat"])
        write(tmp_path / f"instances_{split}.json", document)
    lines = init(str(tmp_path)).lines
    assert "left out of train: 1 picture that val or test have, too" in lines
    assert boxes_of(tmp_path / "ppdet_repro/train.json")[1] == ["0.jpg", "1.jpg", "2.jpg"]
    write(tmp_path / "instances_train_2.json", coco([("0.jpg", 100, 50)], [BOX], ["cat"]))
    with pytest.raises(UserError, match="0.jpg is labelled 2 times in the files of train: leave one of its labels"):
        init(str(tmp_path))


def test_roboflows_parent_category_is_left_out(tmp_path):
    for split in ("train", "valid"):
        write_picture(tmp_path / split / "1.jpg")
        document = coco([("1.jpg", 100, 50)], [[1, 2, *BOX[2:]]], ["cells", "red", "white"], supercategory="cells")
        document["categories"][0]["supercategory"] = "none"
        write(tmp_path / split / "_annotations.coco.json", document)
    started = init(str(tmp_path))
    assert "num_classes: 2  # red, white" in text_of(started)
    assert any("'cells', which Roboflow adds" in line for line in started.lines)


def test_few_pictures_one_class_and_chinese_names(tmp_path):
    write_flat(tmp_path / "猫", 3, name=lambda i: "橘猫")
    started = init(str(tmp_path / "猫"))
    few = "2 pictures with objects to train on: too few for a good detector; aim for a hundred or more"
    assert few in started.lines
    text = text_of(started)
    assert "num_classes: 1  # 橘猫" in text and "batch_size: 1" in text and started.config.endswith("猫.yml")
    assert "--processes" not in "".join(started.lines)
    assert load_config(started.config).run.num_classes == 1


def test_class_names_that_are_given(tmp_path, command):
    write_flat(tmp_path / "set", 10)
    write(tmp_path / "names.txt", "bird\ndog\ncat\n")
    code, out, _ = command("init", tmp_path / "set", "--label_list", tmp_path / "names.txt")
    assert code == 0 and "classes without objects in train: bird; they are not learned" in out
    assert load_config(tmp_path / "set/ppdet_repro/set.yml").run.num_classes == 3
    code, _, error = command("init", tmp_path / "set", "--label_list", "absent.txt", "--force")
    assert code == 2 and "absent.txt does not exist: give a text file with one class name per line" in error


def test_classes_that_one_split_lacks_are_said(tmp_path):
    write_flat(tmp_path, 10, name=lambda i: "rare" if i == 0 else "cat")
    assert "classes without objects in val: rare; they are not evaluated" in init(str(tmp_path)).lines


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: None, "has neither pictures nor labels"),
        (lambda folder: write(folder / "1.xml", xml([])), r"has labels .* and no pictures"),
        (lambda folder: write_picture(folder / "1.jpg"), "1 picture and no labels"),
        (lambda folder: write_flat(folder, 1), r"no picture for val has objects \(1 picture can be used\): label more"),
        (lambda folder: (write_flat(folder, 2), write(folder / "0.txt", "0 .5 .5 .1 .1")), "in 2 formats"),
        (lambda folder: (write_flat(folder, 2), write(folder / "label_list.txt", "cat\n")), "'dog' is not in"),
        (lambda folder: (write_flat(folder, 2), write(folder / "0.xml", "<annotation><object>")), "is not valid XML"),
        (
            lambda folder: (
                write_picture(folder / "1.jpg"), write(folder / "1.json", labelme("1.jpg", rectangle("", 0, 0, 9, 9))),
            ),
            "shape 0 has no 'label'",
        ),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_nothing_is_written(tmp_path, command, make, message):
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    before = state_of(tmp_path)
    code, _, error = command("init", tmp_path / "set")
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert state_of(tmp_path) == before


def test_folders_that_cannot_be_written(tmp_path, command, monkeypatch):
    write_flat(tmp_path / "set", 5)
    write(tmp_path / "file", "")
    code, _, error = command("init", tmp_path / "set", "--output", tmp_path / "file")
    assert code == 2 and "file is a file, not a folder: choose another folder with --output" in error
    (tmp_path / "set").chmod(0o555)
    code, _, error = command("init", tmp_path / "set")
    assert code == 2 and "set cannot be written: choose a folder for the config and labels with --output" in error
    (tmp_path / "set").chmod(0o755)
    monkeypatch.setattr(os, "access", lambda path, mode: "set" not in str(path))  # root may write everywhere
    code, _, error = command("init", tmp_path / "set")
    assert code == 2 and "set cannot be written: choose a folder for the config and labels with --output" in error
    assert command("init", tmp_path / "set", "--output", tmp_path / "there")[0] == 0
    assert not (tmp_path / "set/ppdet_repro").exists()
    assert load_config(tmp_path / "there/set.yml").run.num_classes == 2


# --- choices


def test_the_input_has_the_shape_of_the_pictures():
    pafnet = CPU["pafnet"]  # 192 * 256 = 49,152 px
    assert input_size(pafnet, Measures(640, 480, 60, 90, 9), 416) == (192, 256)
    assert input_size(pafnet, Measures(500, 500, 60, 90, 9), 416) == (224, 224)  # the root of 49,152 is 222
    # 2,000 x 500: factor sqrt(49152 / 1e6) = 0.222; 444 px would be over 416, and so 0.208: 416 x 104
    assert input_size(pafnet, Measures(2000, 500, 200, 300, 9), 416) == (96, 416)
    # 640 x 480 with objects of 20 px: 0.4 * 20 = 8 px, less than 10, and so 1.25 times larger
    assert input_size(pafnet, Measures(640, 480, 20, 40, 9), 416) == (256, 320)
    # 5 px become 2 px: at most 1.6 times larger
    assert input_size(pafnet, Measures(640, 480, 5, 9, 9), 416) == (320, 416)


def test_the_length_of_a_training():
    pafnet = CPU["pafnet"]  # 7,000 views, 2 pictures in a batch
    assert run_for(pafnet, 100, 2) == (70, 2, 2, 25, 175)  # 70 * 25 = 1,750 updates, a tenth to warm up
    assert run_for(pafnet, 239, 2) == (29, 2, 2, 60, 174)  # 120 pictures in each process, the last one twice
    assert run_for(pafnet, 5000, 2) == (12, 2, 2, 1250, 200)  # at least 12 epochs, at most 200 updates
    assert run_for(pafnet, 10, 1) == (200, 2, 1, 5, 100)  # at most 200 epochs
    assert run_for(pafnet, 3, 2) == (200, 1, 1, 3, 60)  # less than two updates of 4: one picture at a time
    assert run_for(GPU["ppyolov2"], 600, 1).milestones == [67, 89]  # of 100


def test_measures():
    from ppdet_repro.data.source.labelled import Picture
    from ppdet_repro.data.source.voc_files import Object

    def picture(width, height, *sides):
        return Picture("", width, height, [Object("a", (0, 0, side, side), False, False) for side in sides])

    sizes = measured([picture(100, 50, 10, 20, 30), picture(300, 70, 40, 50), picture(200, 90)])
    assert sizes == (200, 70, 14.0, 30.0, 3)  # the 10% quantile of 10, 20, 30, 40, 50 is 14


def test_anchors_are_clustered_for_ppyolo_only(tmp_path):
    for i in range(12):
        write_picture(tmp_path / f"{i}.jpg", 256, 256)
        sides = (16, 32) if i % 2 else (100, 60)
        write(tmp_path / f"{i}.xml", xml([("cat", 5, 5, 5 + sides[0], 5 + sides[1], "")], 256, 256))
    assert "\nanchors:" not in text_of(init(str(tmp_path), str(tmp_path / "a"), base="pafnet"))
    started = init(str(tmp_path), str(tmp_path / "b"), base="ppyolov2")
    cfg = load_config(started.config)
    [found] = [t.anchors for t in build(cfg, "TrainReader").batch_transforms if hasattr(t, "anchors")]
    assert len(found) == 9 and {(16, 32), (100, 60)} <= {tuple(anchor) for anchor in np.array(found).tolist()}


@pytest.mark.parametrize("base", ["pafnet", "ppyolov2", "yolof"])
def test_configs_for_a_gpu_load(tmp_path, base):
    write_flat(tmp_path, 10)
    cfg = load_config(init(str(tmp_path), base=base, device="gpu").config)
    assert (cfg.run.use_gpu, cfg.run.epoch, cfg.run.num_classes) == (True, 200, 2)
    for section in ("TrainDataset", "EvalDataset", "TrainReader", "EvalReader", "LearningRate"):
        build(cfg, section)


def asked_of(monkeypatch, picture):
    """Let `serve` answer one request, for the boxes of a picture, and end. Returns a list that will hold the answer."""
    answers = []

    def ask(server):
        while not server.started:
            time.sleep(0.01)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}/api/detect?threshold=0"
            with urllib.request.urlopen(url, data=picture.read_bytes(), timeout=20) as answer:
                answers.append(json.load(answer))
        finally:
            server.should_exit = True

    def make(app, host, port, *limits):
        server = make_server(app, host, 0, *limits)  # on a free port
        threading.Thread(target=ask, args=(server,), daemon=True).start()
        return server

    monkeypatch.setattr("ppdet_repro.serve.server.make_server", make)
    return answers


@pytest.mark.parametrize(
    "form, base", [("voc", "pafnet"), ("coco", "ppyolov2"), ("yolo", "yolof"), ("labelme", "pafnet")]
)
def test_the_commands_that_follow_run(tmp_path, command, monkeypatch, form, base):
    folders = write_in_all_formats(tmp_path, monkeypatch, train=4, val=2)
    code, out, _ = command("init", folders[form], "--base", base)
    config = f"{form}/ppdet_repro/{form}.yml"
    lines = out.splitlines()
    assert code == 0 and lines[-4] == "next:"
    assert [line.split()[1] for line in lines[-3:]] == ["train", "infer", "export"]
    small = [*small_inputs(load_config(config)), "epoch=1", "snapshot_epoch=1", "worker_num=0", "use_gpu=false"]
    for line in (lines[-3], f"ppdet-repro eval -c {config}", *lines[-2:]):
        words = [word for word in line.split()[1:] if word not in ("--processes", "2")]
        code, out, error = command(*words, "-o", *small, "save_dir=output")
        assert code in (0, None), (line, out, error)
    assert Path(f"output/{form}/best_model.pdparams").is_file()
    answers = asked_of(monkeypatch, next(Path("made/val").iterdir()))
    code, out, error = command("serve", "--model_dir", f"output_inference/{form}")
    assert code in (0, None), (out, error)
    [answer] = answers
    assert (answer["width"], answer["height"]) == (96, 64)
    assert {box["name"] for box in answer["boxes"]} <= set(build(load_config(config), "TestDataset").class_names)
