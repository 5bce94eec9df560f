"""How a learning rate goes in a run: fitted to its length, described in a line, and complained about if it misfits."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import ROOT

from ppdet_repro.optimizer.course import course, misfits
from ppdet_repro.optimizer.phases import Phase, TrainPhases
from ppdet_repro.optimizer.schedules import (
    CosineDecay,
    CyclicCosineDecay,
    ExpWarmup,
    LearningRate,
    LinearWarmup,
    PiecewiseDecay,
    RunLength,
    stretched,
)


def piecewise(*milestones, warmup=4, **more):
    return LearningRate(1.0, [PiecewiseDecay(0.1, list(milestones), **more), LinearWarmup(warmup, 0.5)])


class TestFitted:
    def test_milestones_keep_their_fraction_of_the_run_in_whole_epochs(self):
        # 8 and 11 of 12: x 5 are 40 and 55; x 5/12 are 3.33 and 4.58, so 3 and 5, of which 5 is past the run's end
        assert stretched([8, 11], RunLength(60, 9, 12)) == [40, 55]
        assert stretched([8, 11], RunLength(5, 9, 12)) == [8 * 5 / 12, 11 * 5 / 12]
        assert stretched([8, 11], RunLength(7, 9, 12)) == [5, 6]  # 4.67 and 6.42

    def test_fractions_of_the_run_are_a_schedule_for_one_epoch(self):
        lr = piecewise(0.5, 0.9).fitted(RunLength(30, 10, 1))
        assert lr.decay.milestones == [15, 27]
        assert [lr.rate(t, 10) for t in (149, 150, 269, 270)] == [1.0, 0.1, 0.1, 0.01]

    def test_half_a_milestone_is_the_middle_of_an_epoch(self):
        lr = piecewise(0.5)
        assert [lr.rate(t, 9) for t in (4, 5)] == [1.0, 0.1]  # 0.5 x 9 = 4.5

    def test_a_run_as_long_as_the_schedule_changes_nothing(self):
        lr = LearningRate(1.0, [CosineDecay(12, last_plateau_epochs=2), LinearWarmup(epochs=1)])
        same = lr.fitted(RunLength(12, 50, 12))
        assert [same.rate(t, 50) for t in range(600)] == [lr.rate(t, 50) for t in range(600)]

    def test_a_cosine_and_its_plateau(self):
        decay = CosineDecay(10, min_lr_ratio=0.1, last_plateau_epochs=2).fitted(RunLength(5, 8, 10))
        assert (decay.max_epochs, decay.last_plateau_epochs) == (5, 1)
        # 8 updates per epoch: the wave ends before update 32, counted from 0
        assert decay.rate(31, 8, 0, 1.0) > 0.1 == decay.rate(32, 8, 0, 1.0)

    def test_cycles_divide_the_run(self):
        # 5 epochs have cycles of 1 or 5, equally far from 3: the shorter; 60 keep 3; 8 take 2 or 4
        cycles = [CyclicCosineDecay(3).fitted(RunLength(n, 9, 36)).cycle_epochs for n in (5, 60, 8, 1)]
        assert cycles == [1, 3, 2, 1]

    def test_a_warmup_in_updates_takes_a_tenth_of_the_run_at_most(self):
        run = RunLength(12, 64, 12)  # 768 updates
        assert LinearWarmup(1500).fitted(run).length(64) == 76
        assert ExpWarmup(50).fitted(run).length(64) == 50

    def test_a_warmup_in_epochs_keeps_its_fraction(self):
        assert LinearWarmup(epochs=2).fitted(RunLength(6, 10, 12)).length(10) == 10
        assert ExpWarmup(epochs=3).fitted(RunLength(1, 10, 12)).length(10) == 2  # a quarter of an epoch: 2.5, to even

    def test_phases_are_rounded_like_milestones_and_last_an_epoch_at_least(self):
        phases = TrainPhases([Phase(), Phase(50, freeze_norms=True)])
        assert [[phase.start for phase in phases.fitted(n, 100).phases] for n in (5, 60, 1)] == [
            [0, 3],
            [0, 30],
            [0, 1],
        ]
        assert phases.fitted(5, 100).phases[1].freeze_norms
        assert stretched([50], RunLength(5, 9, 100)) == [3]

    def test_the_schedule_that_is_fitted_stays(self):
        lr = piecewise(8, 11)
        lr.fitted(RunLength(60, 9, 12)).scaled(2.0)
        assert (lr.decay.milestones, lr.base_lr, lr.warmup.steps) == ([8, 11], 1.0, 4)


class TestCourse:
    def test_milestones(self):
        # 12 epochs of 10 updates; the warmup takes 4, so the fifth has the whole rate
        expected = "0.5 at the start, 1 from update 5, 0.1 from epoch 9, 0.01 from epoch 12, 0.01 at the end"
        assert course(piecewise(8, 11), 12, 10) == f"learning rate: {expected} (12 epochs, 120 updates)"

    def test_a_part_of_an_epoch(self):
        assert "0.1 from epoch 1 (50% of it), 0.1 at the end (1 epoch, 10 updates)" in course(piecewise(0.5), 1, 10)

    def test_only_what_happens_is_mentioned(self):
        assert course(piecewise(8, warmup=99), 2, 10).endswith(
            "0.5 at the start, 0.596 at the end (2 epochs, 20 updates)"
        )
        assert course(piecewise(8), 2, 10).endswith("1 from update 5, 1 at the end (2 epochs, 20 updates)")

    def test_cosines(self):
        lr = LearningRate(1.0, [CosineDecay(4, min_lr_ratio=0.1, use_warmup=False)])
        assert course(lr, 4) == "learning rate: 1 at the start, along a cosine, 0.1 at the end (4 epochs)"
        assert "along a cosine to 0.1 in epoch 4, 0.1 at the end (6 epochs)" in course(lr, 6)
        cyclic = LearningRate(1.0, [CyclicCosineDecay(3)])
        assert "1 at the start, along a cosine to 0.01 in every 3 epochs, 0.01 at the end" in course(cyclic, 6, 10)


class TestMisfits:
    @pytest.mark.parametrize(
        "lr, epochs, said",
        [
            (piecewise(8, 11), 12, None),
            (piecewise(50), 100, None),  # half of the run at the lowest rate, as BiFPN's paper has it
            (piecewise(8, 11), 5, r"PiecewiseDecay.milestones \[8, 11\] are not reached, so .* at 1 instead of 0.01$"),
            (piecewise(8, 11), 11, r"\[8, 11\] has 11, which is not reached, so the rate ends at 0.1 instead of 0.01$"),
            (piecewise(8, 11), 60, "end after 11 epochs, so the other 49 train at 0.01$"),
            (piecewise(8, 11, warmup=900), 12, "LinearWarmup.steps 900 .* the rate ends at 0.566 and never reaches 1$"),
            (
                piecewise(8, 11, warmup=90),
                12,
                r"start at update 81, within the warmup of 90 \(LinearWarmup.steps 90\)$",
            ),
            (piecewise(8, 11, warmup=900, use_warmup=False), 12, None),
            (
                LearningRate(1.0, [PiecewiseDecay(0.1, [9]), ExpWarmup(epochs=12)]),
                10,
                "ExpWarmup.epochs 12 is a warmup",
            ),
            (LearningRate(1.0, [CosineDecay(30, use_warmup=False)]), 30, None),
            (LearningRate(1.0, [CosineDecay(30, last_plateau_epochs=5)]), 25, None),
            (
                LearningRate(2.0, [CosineDecay(30)]),
                60,
                "max_epochs 30 is shorter than the run, so the other 30 train at 0$",
            ),
            (LearningRate(2.0, [CosineDecay(30)]), 15, "max_epochs 30 is longer than .* ends at 1.01 instead of 0$"),
            (
                LearningRate(1.0, [CosineDecay(5), LinearWarmup(60)]),
                9,
                "ends within the warmup .* the rate stays at 1$",
            ),
            (LearningRate(1.0, [CyclicCosineDecay(3)]), 36, None),
            (
                LearningRate(1.0, [CyclicCosineDecay(3)]),
                5,
                "cycle_epochs 3 does not divide the run, .* instead of 0.01$",
            ),
        ],
    )
    def test_what_is_said(self, lr, epochs, said):
        found = misfits(lr, epochs, 10)
        if said is None:
            assert found == []
        else:
            (line,) = found
            assert re.search(said, line), line

    def test_a_longer_run_than_the_one_it_is_written_for(self):
        assert misfits(piecewise(8, 11), 13, 10, written_for=13) == []
        assert "the other 2 train at 0.01" in misfits(piecewise(8, 11), 13, 10, written_for=12)[0]


def test_describing_a_config_needs_no_paddle():
    code = """
import sys
sys.modules["paddle"] = None  # importing it fails
from ppdet_repro import load_config
from ppdet_repro.engine.training.run_length import describe_config
print(describe_config(load_config("yolof/yolof_r50_c5_1x_coco.yml"))[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    # PiecewiseDecay [8, 11], 1500 updates of warmup from 0.00066 x 0.06
    assert done.stdout == (
        "learning rate: 3.96e-05 at the start, 0.06 from update 1,501, 0.006 from epoch 9, 0.0006 from epoch 12, "
        "0.0006 at the end (12 epochs), for 32 images per update\n"
    ), done.stderr
