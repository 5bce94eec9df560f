"""deploy/python/infer.py on wrong input; and the work beside the network."""

from __future__ import annotations

import csv
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from paths import ROOT
from png_bomb import png_bomb
from tiny_yolof import tiny_model, write_config, write_images

from ppdet_repro.cli import infer_exported
from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.runtime import sources
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.runtime.pipeline import read
from ppdet_repro.runtime.sources import check_complete
from ppdet_repro.utils.errors import UserError, run_command

DEPLOY = ROOT / "deploy" / "python"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images in `data/images`, and an exported model in `export/tiny`."""
    folder = tmp_path_factory.mktemp("inputs")
    write_config(folder, write_images(folder / "data", count=3))
    export_model(tiny_model(folder / "tiny.yml"), load_config(folder / "tiny.yml"), folder / "export")
    return folder


class Done(NamedTuple):
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(folder, capsys):
    """Runs the command of infer.py with flags in this process. Results go to `folder / out`."""

    def run(*flags):
        model = [] if any(flag.startswith("--model_dir") for flag in flags) else [f"--model_dir={exported(folder)}"]
        given = [*model, f"--output_dir={folder / 'out'}", *flags]
        with pytest.raises(SystemExit) as ended:
            run_command(lambda: infer_exported.run(build_parser().parse_args(given)))
        return Done(ended.value.code, *capsys.readouterr())

    return run


def exported(folder):
    return folder / "export" / "tiny"


# Wrong input ----------------------------------------------------------------------------------------------


def bad_inputs(folder):
    """Wrong files in `folder / bad`: by name, the flags and a part of the expected message."""
    bad = folder / "bad"
    (bad / "empty").mkdir(parents=True)
    (bad / "half").mkdir()
    export = folder / "export" / "tiny"
    program = network_file(export, "paddle")
    (bad / "half" / program.name).write_bytes(program.read_bytes())
    (bad / "half" / "infer_cfg.yml").write_text((export / "infer_cfg.yml").read_text())
    (bad / "strange").mkdir()
    for name in (program.name, "model.pdiparams"):
        (bad / "strange" / name).write_bytes(b"x")
    (bad / "strange" / "infer_cfg.yml").write_text(
        (export / "infer_cfg.yml").read_text().replace("arch: YOLOF", "arch: Mask2Former")
    )
    (bad / "text.jpg").write_text("not an image")
    (bad / "bomb.png").write_bytes(png_bomb(60000, 60000))
    images = f"--image_dir={folder / 'data' / 'images'}"
    return {
        "no folder": ([f"--model_dir={bad / 'absent'}", images], "absent is not a folder"),
        "half": ([f"--model_dir={bad / 'half'}", images], "half lacks model.pdiparams"),
        "architecture": ([f"--model_dir={bad / 'strange'}", images], "architecture 'Mask2Former' is not one of"),
        "image": ([f"--image_file={bad / 'text.jpg'}"], "text.jpg is not an image"),
        "empty": ([f"--image_dir={bad / 'empty'}"], "there is no image in"),
        "run mode": ([images, "--run_mode=trt_fp16"], "needs --device=gpu, not cpu; possible here: --device="),
        "device": ([images, "--device=npu"], "not present in this machine; possible here: "),
        "bomb": ([f"--image_file={bad / 'bomb.png'}"], "is 60000 x 60000 pixels, more than"),
    }


@pytest.mark.parametrize("name", ["no folder", "half", "architecture", "image", "empty", "run mode", "device", "bomb"])
def test_bad_input_is_one_line_and_exit_code_two(command, folder, tmp_path, name):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for part in ("export", "data"):
        (inputs / part).symlink_to(folder / part)
    flags, words = bad_inputs(inputs)[name]
    done = command(*flags)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], done.stderr


def test_a_video_that_ends_early_is_an_error_after_its_frames_are_written(command, folder, tmp_path):
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (96, 64))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (64, 96, 3), np.uint8))
    writer.release()
    short = tmp_path / "short.avi"
    data = whole.read_bytes()
    short.write_bytes(data[: len(data) // 2])
    assert command(f"--video_file={whole}").returncode == 0
    done = command(f"--video_file={short}", "--save_csv")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "short.avi ends early: " in done.stderr and "of 20 frames could be read" in done.stderr
    assert (folder / "out" / "short.mp4").is_file() and (folder / "out" / "boxes.csv").is_file()


def test_a_url_or_a_number_is_no_file(command, tmp_path, monkeypatch):
    opened = []

    class Capture:
        def __init__(self, source):
            opened.append(source)
            self.left = 2

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((64, 96, 3), np.uint8)

        def get(self, what):
            return 100.0  # frames; a stream's count means nothing

        def release(self):
            pass

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    for given in ("rtsp://user:secret@10.0.0.1:554/hall/door.sdp?x=1", "http://cams.example.org", "2"):
        done = command(f"--video_file={given}", f"--output_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
    assert opened == ["rtsp://user:secret@10.0.0.1:554/hall/door.sdp?x=1", "http://cams.example.org", 2]
    assert {path.name for path in tmp_path.iterdir()} == {"door.mp4", "stream.mp4", "camera_2.mp4"}
    done = command("--video_file=absent.mp4")
    assert done.returncode == 2 and "absent.mp4 is not a file, and no URL such as rtsp://" in done.stderr


def test_a_video_may_miss_the_frames_that_its_container_only_estimates():
    check_complete("v", read=98, announced=100)  # 2 %
    check_complete("v", read=9, announced=10)
    check_complete("v", read=50, announced=0)  # a camera
    with pytest.raises(UserError, match="v ends early: 97 of 100 frames"):
        check_complete("v", read=97, announced=100)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(60000, 60000))
    monkeypatch.setattr(cv2, "imdecode", lambda *a: pytest.fail("was decoded"))
    with pytest.raises(UserError, match="is 60000 x 60000 pixels, .* OPENCV_IO_MAX_IMAGE_PIXELS to 3600000000"):
        read(str(path))


# Results --------------------------------------------------------------------------------------------------


def test_boxes_come_as_csv(command, folder):
    done = command(f"--image_dir={folder / 'data' / 'images'}", "--save_csv", "--save_images=False")
    assert done.returncode == 0, done.stderr
    with open(folder / "out" / "boxes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} <= {"000.png", "001.png", "002.png"} and rows
    for row in rows:
        assert row["name"] == {"0": "square", "1": "disc"}[row["class"]]
        assert 0 < float(row["score"]) <= 1 and float(row["x1"]) <= float(row["x2"])


# What deployment needs ------------------------------------------------------------------------------------

ONLY = """
import importlib, sys

class Only:
    '''Refuses every import but the standard library, NumPy, OpenCV, Pillow, PyYAML, tabulate, tqdm and this package.'''
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        allowed = ("numpy", "cv2", "PIL", "yaml", "tabulate", "tqdm", "ppdet_repro")
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ModuleNotFoundError(f"deployment must not need {name}")

sys.meta_path.insert(0, Only())
import numpy as np
from ppdet_repro.runtime import model_folder, options, pipeline, results, run, slicing, sources, timing
from ppdet_repro.data.transform.preprocess import from_list

class Engine:
    def run(self, inputs):
        return np.array([[0, 0.9, 1, 2, 3, 4]], np.float32), np.array([1], np.int32)

model = model_folder.open_model_folder(MODEL)
flags = options.build_parser().parse_args(["--model_dir=m", "--image_dir=" + IMAGES, "--output_dir=" + OUT,
                                           "--save_results", "--save_csv"])
run.run_images(pipeline.Pipeline(from_list(model.preprocess), Engine()), model.labels, flags)
training = ("modeling", "engine", "optimizer", "slim", "data.reader")
print([m for m in sys.modules if m.startswith(tuple("ppdet_repro." + name for name in training))])
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="sys.stdlib_module_names is new in Python 3.10")
def test_without_its_engine_deployment_needs_few_packages(folder, tmp_path):
    names = {
        "DEPLOY": DEPLOY,
        "ROOT": ROOT,
        "MODEL": folder / "export" / "tiny",
        "OUT": tmp_path / "out",
        "IMAGES": folder / "data" / "images",
    }
    program = "".join(f"{name} = {str(value)!r}\n" for name, value in names.items()) + ONLY
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
