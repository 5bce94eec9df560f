"""benchmarks/deploy_speed.py: the row of the parts between file and boxes."""

from __future__ import annotations

import pytest
from deploy_speed import part_row


def test_parts_are_medians_and_ratios_are_taken_within_a_round():
    def rounds(*wall, cpu=1.0):
        return [[milliseconds, cpu] for milliseconds in wall]

    times = {
        "network": rounds(10.0, 20.0, 10.0, cpu=8.0),  # another program disturbed the second round
        "engine": rounds(13.0, 23.0, 14.0),
        "file": rounds(2.0, 4.0, 2.0),
        "pixels": rounds(1.0, 2.0, 1.0),
        "one by one": rounds(16.0, 34.0, 17.0, cpu=12.0),
        "many": rounds(12.0, 30.0, 13.0),
    }
    # network, file, pixels, decoding and NMS; one by one and its ratios 1.6, 1.7, 1.7; many: 1.2, 1.5, 1.3; CPU 12 / 8
    assert part_row(times) == pytest.approx([10.0, 2.0, 1.0, 3.0, 17.0, 1.7, 13.0, 1.3, 1.5])
