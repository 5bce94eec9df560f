"""Complete runs of a tiny YOLOF: resumed, interrupted, evaluated, on a full disk, and from the command line."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from paddle.base import core
from paths import ROOT

from ppdet_repro.core.config import load_config
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.engine.evaluation.evaluate import evaluate
from ppdet_repro.engine.training import run_folder
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.train import train
from ppdet_repro.utils import files
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


TINY = """
_BASE_: [{root}/configs/yolof/yolof_r50_c5_1x_coco.yml]
epoch: 4
num_classes: 2
use_gpu: false
log_iter: 1
worker_num: 1
base_batch_size: 4
pretrain_weights: null
save_dir: {folder}/output
TrainDataset: {{dataset_dir: {data}, image_dir: train, anno_path: annotations/instances_train.json}}
EvalDataset: {{dataset_dir: {data}, image_dir: val, anno_path: annotations/instances_val.json}}
ResNet: {{depth: 18, width_mult: 0.25, freeze_norm: false, freeze_at: -1, lr_mult_list: [1.0, 1.0, 1.0, 1.0]}}
DilatedEncoder:
  {{in_channels: [128], out_channels: [16], block_mid_channels: 8, num_residual_blocks: 1,
    block_dilations: [2]}}
YOLOFHead: {{conv_feat: {{feat_in: 16, feat_out: 16, num_cls_convs: 1, num_reg_convs: 1}}}}
LearningRate:
  base_lr: 0.02
  schedulers:
  - !PiecewiseDecay {{gamma: 0.1, milestones: [3]}}
  - !LinearWarmup {{start_factor: 0.1, steps: 3}}
TrainReader: &reader
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - RandomFlip: {{}}
    - Permute: {{}}
  batch_size: 4
EvalReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], is_scale: true}}
    - Permute: {{}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """8 images of 2 classes to train on, 2 to evaluate."""
    return generate(tmp_path_factory.mktemp("data") / "set", train=8, val=2, size=(64, 64), classes=2, objects=(1, 3))


@pytest.fixture
def tiny(tmp_path, data):
    """The path of a config for a run of 4 epochs with 2 updates each."""
    path = tmp_path / "tiny.yml"
    path.write_text(TINY.format(root=ROOT, folder=tmp_path, data=data))
    return path


def scores(*values):
    """An evaluation whose successive calls return these values of bbox_mAP."""
    left = list(values)
    return lambda model, cfg, dataset: {"bbox_mAP": left.pop(0)}


def arrays(folder):
    """Every array of a checkpoint."""
    return {
        f"{file.name}/{name}": value
        for file in sorted(folder.iterdir())
        if file.suffix != ".json"
        for name, value in read_state(file).items()
    }


def run_in_process(code, *arguments):
    """Run Python code in another process, in the root folder of the repository."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


KILLED = """
    import os, signal, sys
    import ppdet_repro
    from ppdet_repro import load_config
    from ppdet_repro.engine.training import loop
    from ppdet_repro.engine.training.train import train

    class DyingLog(loop.TrainLog):
        def __call__(self, report):
            super().__call__(report)
            if self.done == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)

    loop.TrainLog = DyingLog
    train(load_config(sys.argv[1]), evaluate=True)
"""


class TestRuns:
    @pytest.mark.parametrize("kernels", ["paddle", "auto"])
    def test_a_run_killed_in_the_third_epoch_and_resumed_equals_an_uninterrupted_one(self, tiny, tmp_path, kernels):
        tiny.write_text(tiny.read_text() + f"use_ema: true\ncpu_kernels: {kernels}\n")
        whole = train(load_config(tiny, [f"save_dir={tmp_path}/whole"]), evaluate=True)

        done = run_in_process(KILLED, tiny, 5)  # the first update of the third epoch
        assert done.returncode == -signal.SIGKILL, done.stderr
        folder = tmp_path / "output" / "tiny"
        assert [path.name for path in list_checkpoints(folder)] == ["epoch_0001", "epoch_0002"]
        core.set_num_threads(1)  # a predictor of Paddle Inference does this to the whole process
        resumed = train(load_config(tiny), resume="auto", evaluate=True)

        other = tmp_path / "whole" / "tiny"
        assert resumed == whole
        for name in ("epoch_0003", "epoch_0004"):
            a, b = (arrays(path / "checkpoints" / name) for path in (folder, other))
            assert set(a) == set(b) and any("velocity" in key for key in a)
            assert [key for key in a if not np.array_equal(a[key], b[key])] == []
        for file in ("model_final.pdparams", "best_model.pdparams"):
            a, b = read_state(folder / file), read_state(other / file)
            assert all(np.array_equal(a[name], b[name]) for name in b)

        def log(path):
            lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
            return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

        assert log(folder) == log(other)

    def test_final_weights_are_an_ordinary_weight_file(self, tiny, tmp_path, logged):
        train(load_config(tiny, ["epoch=1", "print_params=true", "print_flops=true"]))
        assert "M trainable" in logged.text and "GFLOPs at 64 x 64" in logged.text
        final = read_state(tmp_path / "output/tiny/model_final.pdparams")
        assert "backbone.conv1.conv1.conv.weight" in final
        epoch = tmp_path / "output/tiny/checkpoints/epoch_0001"
        assert {file.name for file in epoch.iterdir()} == {"model.pdparams", "optimizer.pdopt", "state.json"}
        train(load_config(tiny, ["epoch=0", f"pretrain_weights={epoch}", f"save_dir={tmp_path}/fine"]))
        tuned = read_state(tmp_path / "fine/tiny/model_final.pdparams")
        assert all(np.array_equal(final[name], tuned[name]) for name in final)

    def test_a_training_set_without_boxes_is_refused(self, tiny):
        with pytest.raises(UserError, match=r"tiny.yml: TrainDataset.data_fields is .*needs gt_bbox and gt_class"):
            train(load_config(tiny, ["TrainDataset.data_fields=[image]"]))

    def test_an_impossible_evaluation_is_refused_before_the_first_epoch(self, tiny, tmp_path):
        with pytest.raises(UserError, match=r"test_scales: \[0, 64\] is not \[short side, long side\]"):
            train(load_config(tiny, ["test_scales=[[0,64]]"]), evaluate=True)
        with pytest.raises(UserError, match="metric"):
            train(load_config(tiny, ["metric=VOC", "EvalDataset.data_fields=[image]"]), evaluate=True)
        assert not (tmp_path / "output").exists()

    def test_best_weights_and_early_stopping(self, tiny, tmp_path, logged):
        cfg = load_config(tiny, ["epoch=9", "early_stop=2"])
        state = train(cfg, evaluate=True, evaluation=scores(0.1, 0.3, 0.3, 0.2, 0.9))
        assert (state.epoch, state.best, state.best_epoch) == (4, 0.3, 2)
        assert "stopped early after epoch 4: 2 evaluations without gain on epoch 2" in logged.text
        folder = tmp_path / "output" / "tiny"
        best = read_state(folder / "best_model.pdparams")
        second = read_state(folder / "checkpoints/epoch_0002/model.pdparams")
        assert all(np.array_equal(best[name], second[name]) for name in best)
        assert train(cfg, resume="auto", evaluate=True, evaluation=scores()).epoch == 4

    def test_snapshots_at_intervals_and_at_the_end(self, tiny, tmp_path):
        state = train(load_config(tiny, ["epoch=3", "snapshot_epoch=2"]), evaluate=True, evaluation=scores(0.5, 0.4))
        assert [path.name for path in list_checkpoints(tmp_path / "output/tiny")] == ["epoch_0002", "epoch_0003"]
        assert state.metrics == {"bbox_mAP": 0.4}

    def test_a_full_disk_does_not_end_the_training(self, tiny, tmp_path, logged, monkeypatch):
        real = os.fsync

        class Disk:
            full = False

        monkeypatch.setattr(files.os, "fsync", lambda d: full_disk() if Disk.full else real(d))

        def evaluation(model, cfg, dataset):
            Disk.full = len(list_checkpoints(tmp_path / "output/tiny")) == 1 and not Disk.full
            return {"bbox_mAP": 0.5}

        train(load_config(tiny, ["epoch=3"]), evaluate=True, evaluation=evaluation)
        assert "could not save epoch 2" in logged.text and "No space left on device" in logged.text
        assert "the last good checkpoint is" in logged.text
        assert [path.name for path in list_checkpoints(tmp_path / "output/tiny")] == ["epoch_0001", "epoch_0003"]

    def test_a_full_disk_at_the_end_is_an_error(self, tiny, tmp_path, monkeypatch):
        def no_room(path, weights):
            full_disk()

        monkeypatch.setattr(run_folder, "save_state", no_room)
        with pytest.raises(UserError, match="cannot save the final weights: No space left.*epoch_0001"):
            train(load_config(tiny, ["epoch=1"]))

    def test_a_new_run_moves_an_earlier_one_to_a_subfolder(self, tiny, tmp_path, logged):
        folder = tmp_path / "output" / "tiny"
        train(load_config(tiny, ["epoch=2"]))
        train(load_config(tiny, ["epoch=1"]))
        assert [path.name for path in list_checkpoints(folder)] == ["epoch_0001"]
        assert [path.name for path in list_checkpoints(folder / "previous")] == ["epoch_0001", "epoch_0002"]
        assert "held an earlier run; it is now in" in logged.text

    def test_a_folder_that_is_not_writable_is_refused(self, tiny, tmp_path):
        (tmp_path / "output").touch()
        with pytest.raises(UserError, match="cannot write to .*output/tiny/checkpoints: .*set save_dir"):
            train(load_config(tiny))

    def test_ctrl_c_logs_how_to_continue(self, tiny, tmp_path, logged):
        def interrupt(model, cfg, dataset):
            if list_checkpoints(tmp_path / "output/tiny"):
                raise KeyboardInterrupt
            return {"bbox_mAP": 0.5}

        with pytest.raises(KeyboardInterrupt):
            train(load_config(tiny), evaluate=True, evaluation=interrupt)
        assert f"interrupted; --resume auto continues from {tmp_path}/output/tiny/checkpoints/epoch_0001" in logged.text

    def test_the_number_of_classes_must_match_the_dataset(self, tiny):
        with pytest.raises(UserError, match="TrainDataset has 2 classes, but num_classes"):
            train(load_config(tiny, ["num_classes=3"]))


class TestFailedEvaluation:
    """An evaluation that fails, or ends the process, loses nothing."""

    def failing(self, *epochs):
        """The real evaluation, and one that fails after the given ones of its calls, counted from 1."""
        calls = itertools.count(1)

        def evaluation(model, cfg, dataset):
            if next(calls) in epochs:
                raise UserError("a.jpg: not an image")
            return evaluate(model, cfg, dataset)

        return evaluation

    def results(self, folder):
        """All that a run without use_ema leaves, except speeds and paths."""
        files = [path for path in folder.rglob("*.pd*") if "previous" not in path.parts]
        state = {str(path.relative_to(folder)): read_state(path) for path in files}
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return state, [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]

    def test_its_epoch_is_saved_and_resuming_evaluates_it(self, tiny, tmp_path):
        tiny.write_text(tiny.read_text() + "use_ema: true\ncycle_epoch: 2\n")  # the average restarts after epoch 2
        whole = train(load_config(tiny, [f"save_dir={tmp_path}/whole"]), evaluate=True)
        with pytest.raises(UserError) as error:
            train(load_config(tiny), evaluate=True, evaluation=self.failing(2))
        assert str(error.value).startswith(
            "the evaluation after epoch 2 failed: a.jpg: not an image. The epoch was saved"
        )
        folder = tmp_path / "output" / "tiny"
        assert [path.name for path in list_checkpoints(folder)] == ["epoch_0001", "epoch_0002"]
        assert train(load_config(tiny), resume="auto", evaluate=True) == whole
        (state, lines), (other, other_lines) = (self.results(f) for f in (folder, tmp_path / "whole" / "tiny"))
        assert lines == other_lines and set(state) == set(other)
        for file, values in state.items():
            assert all(np.array_equal(value, other[file][name]) for name, value in values.items()), file

    def test_with_skip_training_goes_on_and_the_failure_is_told_at_the_end(self, tiny, tmp_path, logged):
        cfg = load_config(tiny, ["eval_error=skip", "epoch=3"])
        with pytest.raises(
            UserError, match="^training is done, but 1 evaluations failed: .* after epoch 2 failed: a.jpg"
        ):
            train(cfg, evaluate=True, evaluation=self.failing(2))
        folder = tmp_path / "output" / "tiny"
        assert (folder / "model_final.pdparams").is_file() and len(list_checkpoints(folder)) == 3
        evaluated = [json.loads((path / "state.json").read_text())["evaluated"] for path in list_checkpoints(folder)]
        assert evaluated == [True, False, True]
        assert "ERROR" in logged.text

    def test_after_the_last_epoch_the_final_weights_are_saved(self, tiny, tmp_path):
        with pytest.raises(UserError, match="training is done, but 1 evaluations failed"):
            train(load_config(tiny, ["epoch=1"]), evaluate=True, evaluation=self.failing(1))
        assert (tmp_path / "output/tiny/model_final.pdparams").is_file()

    def test_without_eval_a_resumed_run_leaves_it_out(self, tiny):
        with pytest.raises(UserError):
            train(load_config(tiny, ["epoch=2"]), evaluate=True, evaluation=self.failing(1))
        state = train(load_config(tiny, ["epoch=2"]), resume="auto")
        assert (state.epoch, state.metrics, state.evaluated) == (2, {}, True)

    def test_an_unreadable_image_stops_an_evaluation_but_loses_no_epoch(self, tiny, tmp_path):
        broken = generate(tmp_path / "broken", train=1, val=2, size=(64, 64), classes=2, objects=(1, 3))
        for path in (broken / "val").iterdir():
            path.write_bytes(b"GIF89a")
        with pytest.raises(UserError, match="the evaluation after epoch 1 failed: .*val/"):
            train(load_config(tiny, [f"EvalDataset.dataset_dir={broken}"]), evaluate=True)
        assert len(list_checkpoints(tmp_path / "output" / "tiny")) == 1


class TestCommand:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, "tools/train.py", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_a_run_of_the_command(self, tiny, tmp_path):
        done = self.run("-c", tiny, "-o", "epoch=1", "--seed", 3, "--eval", "-r", "auto")
        assert done.returncode == 0, done.stderr
        assert "learning rate: base_lr x 1, for 4 images per update" in done.stderr
        assert "has no checkpoint; starting at the beginning" in done.stderr
        assert "done: " in done.stderr
        assert json.loads((tmp_path / "output/tiny/checkpoints/epoch_0001/state.json").read_text())["seed"] == 3
        folder = tmp_path / "output/tiny"
        f1 = re.search("precision .*, F1 .* at the score threshold .*", done.stderr).group()
        assert f1 in (folder / "index.html").read_text(encoding="utf-8") and (folder / "curves.png").exists()
        assert json.loads((folder / "last_evaluation.json").read_text())["line"] == f1
        (line,) = (line for line in (folder / "log.jsonl").read_text().splitlines() if '"eval"' in line)
        assert {"bbox_precision", "bbox_recall", "bbox_F1", "bbox_threshold"} <= set(json.loads(line))

    def test_weights_that_would_run_code_are_refused_in_one_line(self, tiny, tmp_path):
        mark = tmp_path / "mark"
        (tmp_path / "a.pdparams").write_bytes(b"cos\nmkdir\n(V%s\ntR." % str(mark).encode())
        done = self.run("-c", tiny, "-o", f"pretrain_weights={tmp_path}/a.pdparams")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "refused: the file refers to os.mkdir" in done.stderr.splitlines()[-1]
        assert not mark.exists()
