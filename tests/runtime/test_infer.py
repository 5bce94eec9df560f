"""deploy/python/infer.py: results, videos and wrong input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from paths import ROOT

from ppdet_repro.cli import infer_exported
from ppdet_repro.core.config import load_config
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.utils.errors import UserError

DEPLOY = ROOT / "deploy" / "python"


@pytest.fixture
def infer(exported, tmp_path, capsys):
    """Runs the command of infer.py on the exported model with flags and returns its standard output."""

    def run(*flags, model_dir=exported):
        flags = [f"--model_dir={model_dir}", f"--output_dir={tmp_path / 'out'}", *map(str, flags)]
        infer_exported.run(build_parser().parse_args(flags))
        return capsys.readouterr().out

    return run


def test_deployment_gives_evaluations_ap(tiny, model, infer, tmp_path):
    config = tmp_path / "one_scale.yml"  # the resize of deployment, see `Resize`
    config.write_text((tiny / "tiny.yml").read_text().replace("keep_ratio: true", "keep_ratio: true, one_scale: true"))
    expected = evaluate(model, load_config(config, [f"output_eval={tmp_path}"]))
    data = tiny / "data"
    output = infer(f"--eval_json={data / 'truth.json'}", f"--image_dir={data / 'images'}", "--save_results=True")
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    found = evaluate_coco(load_coco_json(data / "truth.json"), rows).values()
    assert 0 < expected["bbox_mAP"] < 1
    assert found == pytest.approx({name: expected[name] for name in found}, abs=5e-5)
    assert f"{expected['bbox_mAP']:.3f}" in output and "warm-up not counted" in output
    reference = json.loads((tmp_path / "bbox.json").read_text())
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in reference]
    assert {row["file_name"] for row in rows} <= {f"{i:03d}.png" for i in range(6)}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{i:03d}.png" for i in range(6)]


def test_images_whose_names_have_no_suffix_or_another(tiny, infer, tmp_path):
    data, folder = tiny / "data", tmp_path / "images"
    truth = json.loads((data / "truth.json").read_text())
    folder.mkdir()
    for image, name in zip(truth["images"], ["plain", "a.jfif", *(f"{i}.bin" for i in range(4))]):
        shutil.copy(data / "images" / image["file_name"], folder / name)
        image["file_name"] = name
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    expected = infer(f"--eval_json={data / 'truth.json'}", f"--image_dir={data / 'images'}", "--save_images=False")
    output = infer(f"--eval_json={tmp_path / 'truth.json'}", f"--image_dir={folder}")
    assert [line for line in output.splitlines() if line.startswith("AP")] == [
        line for line in expected.splitlines() if line.startswith("AP")
    ]
    assert {"plain.jpg", "a.jfif.jpg"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_bfloat16_or_no_onednn_or_batches_find_about_the_same(tiny, infer, tmp_path):
    def scores(*flags):
        infer(f"--image_dir={tiny / 'data' / 'images'}", "--save_results", "--save_images=False", *flags)
        return np.array([row["score"] for row in json.loads((tmp_path / "out" / "bbox.json").read_text())])

    plain = scores()
    np.testing.assert_allclose(scores("--enable_mkldnn=False", "--cpu_threads=2"), plain, atol=1e-4)
    assert abs(scores("--batch_size=4").max() - plain.max()) < 0.05  # padding differs, so a little


def test_ids_count_from_zero_or_are_cocos(tiny, infer, tmp_path):
    image = tiny / "data" / "images" / "003.png"
    infer(f"--image_file={image}", "--save_results", "--save_images=false")
    rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
    assert {row["image_id"] for row in rows} == {0} and {row["category_id"] for row in rows} <= {0, 1}
    infer(f"--image_file={image}", "--slice_infer", "--slice_size", 48, 48, "--batch_size=2", "--save_images=0")
    with pytest.raises(UserError, match="--use_coco_category is for COCO's 80 classes, the model has 2"):
        infer(f"--image_file={image}", "--use_coco_category")


def test_coco_ids_come_from_file_names(tiny):
    from ppdet_repro.runtime.sources import list_images, with_coco_ids

    images = list_images(str(tiny / "data" / "images"), classes=2)
    assert with_coco_ids(images, [3, 5]) == (images.files, [0, 1, 2, 3, 4, 5], [3, 5])
    with pytest.raises(UserError, match="'photo' is not a number"):
        with_coco_ids(images._replace(files=["photo.jpg"], ids=[0]), [3, 5])


def test_images_of_the_same_name_in_two_folders_are_both_written(tiny, infer, tmp_path):
    source = read_image(str(tiny / "data" / "images" / "000.png"))
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "in" / name / "1.png"), source)
    infer(f"--image_dir={tmp_path / 'in'}", "--threshold=0")
    drawn = [read_image(str(tmp_path / "out" / name / "1.png")) for name in ("a", "b")]
    assert drawn[0].shape == source.shape and (drawn[0] != source[..., ::-1]).any()


def test_a_damaged_image_among_others_is_left_out(tiny, infer, tmp_path, logged):
    (tmp_path / "in").mkdir()
    for name in ("000.png", "001.png", "002.png"):
        data = (tiny / "data" / "images" / name).read_bytes()
        (tmp_path / "in" / name).write_bytes(b"\x89PNG" if name == "001.png" else data)
    truth = json.loads((tiny / "data" / "truth.json").read_text())
    images = truth["images"][:3]
    boxes = [box for box in truth["annotations"] if box["image_id"] in {image["id"] for image in images}]
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "images": images, "annotations": boxes}))
    flags = [f"--image_dir={tmp_path / 'in'}", "--save_results", "--save_csv", "--threshold=0"]
    for more in (["--batch_size=1"], ["--batch_size=3"], ["--slice_infer"], [f"--eval_json={tmp_path / 'truth.json'}"]):
        with pytest.raises(UserError) as error:
            infer(*flags, *more)
        assert str(error.value).startswith(
            "1 of 3 images could not be used; the results of the others are written. The first: image "
            f"{tmp_path / 'in' / '001.png'} is not an image"
        )
        assert "001.png is not an image" in logged.text
        rows = json.loads((tmp_path / "out" / "bbox.json").read_text())
        assert {row["file_name"] for row in rows} == {"000.png", "002.png"}
        assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["000.png", "002.png"]
        assert "001.png" not in (tmp_path / "out" / "boxes.csv").read_text()
        shutil.rmtree(tmp_path / "out")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_file_names_that_are_not_utf8(tiny, infer, tmp_path):
    name = os.fsdecode(b"photo_\xe9.png")  # Latin-1
    (tmp_path / "in").mkdir()
    shutil.copy(tiny / "data" / "images" / "000.png", tmp_path / "in" / name)
    infer(f"--image_dir={tmp_path / 'in'}", "--save_csv", "--save_results", "--threshold=0")
    assert (tmp_path / "out" / name).is_file()
    assert r"photo_\udce9.png,0" in (tmp_path / "out" / "boxes.csv").read_text(encoding="utf-8")
    assert {row["file_name"] for row in json.loads((tmp_path / "out" / "bbox.json").read_text())} == {name}


def test_too_many_slices_are_refused(tiny, infer):
    with pytest.raises(UserError, match="pixels would be cut into .* slices, more than 10,000; give a larger --slice_"):
        infer(f"--image_file={tiny / 'data' / 'images' / '000.png'}", "--slice_infer", "--slice_size", 1, 1,
              "--overlap_ratio", 0, 0)  # fmt: skip


def test_results_never_replace_inputs(tiny, infer, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(tiny / "data" / "images", folder)
    (tmp_path / "link").symlink_to(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for output in (folder, folder / "sub", tmp_path / "link", f"{folder}/../in"):
        with pytest.raises(UserError, match=r"--output_dir .* is inside .*in, the folder of the inputs: give another"):
            infer(f"--image_dir={folder}", f"--output_dir={output}")
    for output in (folder, tmp_path / "link"):
        with pytest.raises(UserError, match=r"--output_dir .*: a result would replace the input .*000.png; give"):
            infer(f"--image_file={folder / '000.png'}", f"--output_dir={output}")
    infer(f"--image_dir={folder}", f"--output_dir={folder}", "--save_images=False", "--save_csv")  # draws nothing
    assert {name: (folder / name).read_bytes() for name in before} == before

    clip = write_clip(tmp_path / "clip.avi")
    clip = clip.rename(folder / "clip.mp4")  # OpenCV looks at the content
    with pytest.raises(UserError, match="a result would replace the input .*clip.mp4"):
        infer(f"--video_file={clip}", f"--output_dir={tmp_path / 'link'}")


def write_clip(path):
    """A video of 5 frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (96, 64))
    for i in range(5):
        writer.write(np.full((64, 96, 3), 40 * i, np.uint8))
    writer.release()
    return path


def test_a_video_comes_out_with_as_many_frames(tiny, infer, tmp_path):
    path = write_clip(tmp_path / "clip.avi")
    output = infer(f"--video_file={path}", "--batch_size=2", "--threshold=0")
    assert "5 frames in" in output and "5 images," in output
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 5


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give --image_file, --image_dir, --video_file or --camera_id"),
        (["--image_file={tmp}/absent.jpg"], "absent.jpg does not exist"),
        (["--image_file={tmp}/fake.jpg"], "image .*fake.jpg is not an image"),
        (["--image_dir={tmp}/empty"], "there is no image in .*empty"),
        (["--video_file={tmp}/absent.mp4"], "--video_file .*absent.mp4 is not a file"),
        (["--video_file={tmp}/fake.jpg"], "fake.jpg is not a video"),
        (["--eval_json={tmp}/fake.jpg", "--image_dir={tmp}"], "fake.jpg is not valid JSON"),
        (["--image_dir={tmp}", "--use_gpu=True"], "--use_gpu is no longer supported; use --device=gpu"),
    ],
)
def test_wrong_input_is_an_error_of_one_line(infer, tmp_path, flags, message):
    (tmp_path / "fake.jpg").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        infer(*(flag.format(tmp=tmp_path) for flag in flags))
    assert "\n" not in str(caught.value)


def test_an_export_without_post_processing_says_so(tiny, model, infer, tmp_path):
    cfg = load_config(tiny / "tiny.yml", ["export.benchmark=true"])
    folder = export_model(model, cfg, tmp_path)
    with pytest.raises(UserError, match="not in boxes .* export it with export.post_process and export.nms on"):
        infer(f"--image_dir={tiny / 'data' / 'images'}", model_dir=folder)


def test_the_command_imports_no_training_code_and_ends_with_code_two(tmp_path):
    program = f"""
import runpy, sys
sys.argv = ["infer.py", "--model_dir=absent", "--image_dir=."]
sys.path.insert(0, {str(DEPLOY)!r})  # as Python does for a script
try:
    runpy.run_path({str(DEPLOY / "infer.py")!r}, run_name="__main__")
finally:
    training = ("modeling", "engine", "optimizer", "slim", "data.reader")
    print([m for m in sys.modules if m.startswith(tuple(f"ppdet_repro.{{name}}" for name in training))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.strip() == "[]"
    assert done.stderr.strip() == "error: --model_dir absent is not a folder; ppdet-repro export writes one"
