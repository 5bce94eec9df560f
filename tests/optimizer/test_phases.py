"""Training in phases: frozen layers, epochs with a fixed number of batches, and resuming in each phase."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paths import ROOT

from ppdet_repro.core.config import load_config
from ppdet_repro.data.reader.readers import TrainReader
from ppdet_repro.data.reader.sampling import epoch_order
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.engine.distributed import running_statistics
from ppdet_repro.engine.training import loop
from ppdet_repro.engine.training.checkpoint import list_checkpoints
from ppdet_repro.engine.training.progress import TrainLog
from ppdet_repro.engine.training.train import train
from ppdet_repro.optimizer.phases import Phase, PhaseFreezer, TrainPhases
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.weights import read_state


def small_model():
    """A backbone (convolution, norm, frozen convolution) and a head (convolution, norm)."""
    model = nn.Layer()
    model.backbone = nn.Sequential(nn.Conv2D(3, 2, 1), nn.BatchNorm2D(2), nn.Conv2D(2, 2, 1))
    for parameter in model.backbone[2].parameters():
        parameter.stop_gradient = True
    model.head = nn.Sequential(nn.Conv2D(2, 1, 1), nn.BatchNorm2D(1))
    return model


def trainable(model):
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


class TestPhaseFreezer:
    HEAD = {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}
    BACKBONE = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}

    def test_a_frozen_part_is_not_trained(self):
        model = small_model()
        PhaseFreezer(model).apply(Phase(freeze=["backbone"]))
        assert trainable(model) == self.HEAD
        model.train()
        model.head(model.backbone(paddle.randn([2, 3, 4, 4])))
        assert (model.backbone[1]._mean == 0).all() and not (model.head[1]._mean == 0).all()
        assert len(running_statistics(model)) == 2  # the head's mean and variance

    def test_frozen_norms_do_not_freeze_convolutions(self):
        model = small_model()
        PhaseFreezer(model).apply(Phase(freeze_norms=True))
        assert trainable(model) == {name for name in self.HEAD | self.BACKBONE if ".0." in name}
        assert running_statistics(model) == []

    def test_the_next_phase_unfreezes_all_but_what_was_built_frozen(self):
        model = small_model()
        freezer = PhaseFreezer(model)
        freezer.apply(Phase(freeze=["backbone", "head.1"], freeze_norms=True))
        freezer.apply(Phase())
        assert trainable(model) == self.HEAD | self.BACKBONE  # backbone.2 is never trained
        assert len(running_statistics(model)) == 4

    def test_a_part_that_does_not_exist(self):
        with pytest.raises(UserError, match="freeze names 'bakcbone', which the model does not have; it has"):
            PhaseFreezer(small_model()).apply(Phase(freeze=["bakcbone"]))

    def test_synchronized_norms_cannot_be_frozen(self):
        model = small_model()
        model.head[1] = nn.SyncBatchNorm(1)
        with pytest.raises(UserError, match="set norm_type: bn"):
            PhaseFreezer(model).apply(Phase(freeze_norms=True))
        PhaseFreezer(model).apply(Phase(freeze=["backbone"]))


def test_a_phase_lasts_until_the_next_one_starts():
    phases = TrainPhases([Phase(), Phase(start=2), Phase(start=5)])
    assert [phases.phases.index(phases.at(epoch)) for epoch in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    assert [TrainPhases().at(epoch).start for epoch in (0, 99)] == [0, 0]
    assert str(Phase(freeze=["backbone"], freeze_norms=True, batch_size=4)) == (
        "backbone and all batch norms frozen, 4 images per batch"
    )
    for wrong in ([Phase(start=1)], [Phase(), Phase()], [Phase(), Phase(start=3), Phase(start=2)]):
        with pytest.raises(UserError, match="the first must start at 0"):
            TrainPhases(wrong)


class Numbers:
    """A dataset whose records contain their index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def record(self, index):
        return {"im_id": np.array([index]), "image": np.zeros((1, 1, 3), np.float32)}


def ids(reader, epoch=0, rank=0, world=1, count=5):
    batches = reader.batches(Numbers(count), epoch=epoch, epochs_total=3, seed=0, workers=0, rank=rank, world=world)
    return [batch["im_id"].numpy().ravel().tolist() for batch in batches]


class TestEpochsWithAFixedNumberOfBatches:
    def test_an_epoch_of_fewer_images_than_the_dataset_differs_from_the_next(self):
        reader = TrainReader(batch_size=2, epoch_steps=2)
        assert reader.steps_per_epoch(Numbers(5)) == 2
        first, second = (sum(ids(reader, epoch), []) for epoch in (0, 1))
        assert len(first) == len(set(first)) == 4 and first != second

    def test_an_epoch_of_more_images_than_the_dataset_repeats_it(self):
        """4 batches of 3, from 5 images: the dataset twice, and 2 more images."""
        drawn = sum(ids(TrainReader(batch_size=3, epoch_steps=4)), [])
        assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5)) and len(set(drawn[10:])) == 2
        assert drawn[:5] != drawn[5:10]

    def test_processes_divide_a_batch_among_themselves(self):
        """Two processes with batches of 2 take the images that one process takes with batches of 4."""
        reader = TrainReader(batch_size=2, epoch_steps=3)
        both = [a + b for a, b in zip(ids(reader, rank=0, world=2), ids(reader, rank=1, world=2))]
        assert both == ids(TrainReader(batch_size=4, epoch_steps=3))

    def test_the_first_pass_has_the_order_of_an_epoch_without_repetition(self):
        assert epoch_order(5, True, 0, 1).tolist() == epoch_order(5, True, 0, 1, 12)[:5].tolist()
        assert epoch_order(3, False, 0, 0, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
        with pytest.raises(UserError, match="epoch_steps 0"):
            TrainReader(epoch_steps=0)


TWO_PHASES = """
_BASE_: [{root}/configs/sapd/sapd_r18vd_256_synthetic.yml]
epoch: 4
num_classes: 2
log_iter: 1
worker_num: 0
snapshot_epoch: 1
use_ema: false
base_batch_size: null
save_dir: {folder}/output
TrainDataset: {{dataset_dir: {data}}}
SAPD: {{neck: BiFPN}}
BiFPN: {{out_channel: 8, repeats: 1}}
ResNet: {{width_mult: 0.125}}
SAPDHead:
  conv_feat: {{name: SAPDFeat, feat_out: 8, num_convs: 1, norm_type: bn}}
  levels: {{name: SoftLevels, net: {{name: FeatureSelectionNet, channels: 8, norm_type: bn}}}}
TrainPhases:
  phases:
    - !Phase {{freeze: [backbone]}}
    - !Phase {{start: 2, freeze_norms: true, batch_size: 1}}
LearningRate:
  base_lr: 0.001
  schedulers: [!PiecewiseDecay {{milestones: [2], values: [0.001, 0.0001], use_warmup: false}}]
OptimizerBuilder: {{optimizer: {{type: Adam}}, clip_grad_by_norm: null}}
TrainReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [64, 64], keep_ratio: false, interp: 1}}
    - RandomFlip: {{}}
    - NormalizeImage: {{}}
    - Permute: {{}}
  batch_transforms: []
  batch_size: 2
  epoch_steps: 2
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """6 images of 2 classes."""
    return generate(tmp_path_factory.mktemp("data") / "set", train=6, val=0, size=(64, 64), classes=2, objects=(1, 3))


@pytest.fixture
def two_phases(tmp_path, data):
    """The path of a config with two phases of two epochs, each with two updates."""
    path = tmp_path / "two_phases.yml"
    text = TWO_PHASES.format(root=ROOT, folder=tmp_path, data=data)
    path.write_text(text)
    return path


class Stopped(Exception):
    pass


def stopped_after(updates, monkeypatch):
    """Let the next run stop after this many updates in total."""

    class Log(TrainLog):
        def __call__(self, report):
            super().__call__(report)
            if self.done == updates:
                raise Stopped

    monkeypatch.setattr(loop, "TrainLog", Log)


def weights(folder, epoch):
    return read_state(folder / "checkpoints" / f"epoch_{epoch:04d}" / "model.pdparams")


def moved(before, after, part):
    """The names of a part's weights and of its running statistics that changed."""
    changed = {name for name in before if name.startswith(part) and not np.array_equal(before[name], after[name])}
    statistics = {name for name in changed if name.endswith(("_mean", "_variance"))}
    return changed - statistics, statistics


def test_a_run_in_two_phases(two_phases, tmp_path, logged):
    """The backbone is trained only in the second phase, norms only in the first; batch size and optimizer change."""
    cfg = load_config(two_phases)
    train(cfg)
    folder = tmp_path / "output" / "two_phases"
    assert "from epoch 1 on: backbone frozen" in logged.text
    assert "from epoch 3 on: all batch norms frozen, 1 images per batch" in logged.text
    second, third, last = (weights(folder, epoch) for epoch in (2, 3, 4))
    assert moved(second, last, "backbone")[0] and not moved(second, last, "")[1]
    assert all(".norm." not in name and ".convs.0.1." not in name for name in moved(third, last, "")[0])
    beta = {epoch: read_state(folder / "checkpoints" / f"epoch_{epoch:04d}" / "optimizer.pdopt") for epoch in (2, 3)}
    name = next(key for key in beta[2] if key.startswith("neck") and key.endswith("|beta1_pow_acc"))
    # Adam's beta1 to the power of (updates + 1): 0.9^5 after 4 updates, 0.9^3 after 2 updates of the new optimizer
    assert [beta[epoch][name].item() for epoch in (2, 3)] == pytest.approx([0.9**5, 0.9**3])
    assert not any(key.startswith("backbone") for key in beta[2]) and any(key.startswith("backbone") for key in beta[3])
    train(load_config(two_phases, ["epoch=0", f"save_dir={tmp_path}/first"]))
    initial = read_state(tmp_path / "first/two_phases/model_final.pdparams")
    assert moved(initial, second, "backbone") == (set(), set())
    assert all(moved(initial, second, part)[0] for part in ("neck", "head.levels.net"))
    assert moved(initial, second, "neck")[1]


def test_a_run_resumed_in_and_between_phases_equals_an_uninterrupted_one(two_phases, tmp_path, monkeypatch):
    """4 epochs of 2 updates: stopped in the 2nd epoch, in the 3rd (whose last checkpoint is from the first phase), and
    in the 4th."""
    train(load_config(two_phases, [f"save_dir={tmp_path}/whole"]))
    for updates, saved in ((3, 1), (5, 2), (7, 3)):
        stopped_after(updates, monkeypatch)
        with pytest.raises(Stopped):
            train(load_config(two_phases), resume="auto")
        assert len(list_checkpoints(tmp_path / "output" / "two_phases")) == saved
    monkeypatch.undo()
    train(load_config(two_phases), resume="auto")
    last = "checkpoints/epoch_0004"
    for file in (f"{last}/model.pdparams", f"{last}/optimizer.pdopt", "model_final.pdparams"):
        resumed, whole = (read_state(tmp_path / run / "two_phases" / file) for run in ("output", "whole"))
        assert set(resumed) == set(whole)
        assert [name for name in whole if not np.array_equal(resumed[name], whole[name])] == []


def test_phases_with_different_epoch_lengths_are_refused(two_phases):
    with pytest.raises(UserError, match="epochs have 3 and 6 updates, .* set TrainReader.epoch_steps"):
        train(load_config(two_phases, ["TrainReader.epoch_steps=null"]))
    for phase in (0, 1):  # a mistake in any phase ends the run before its first epoch
        with pytest.raises(UserError, match="two_phases.yml: Phase: freeze names 'neckar'"):
            train(load_config(two_phases, [f"TrainPhases.phases.{phase}.freeze=[neckar]"]))
    assert not (two_phases.parent / "output").exists()
