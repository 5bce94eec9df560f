"""benchmarks/operator_times.py: groups of operators, and the time that each takes without those it calls."""

from __future__ import annotations

import operator_times
import pytest
from operator_times import BETWEEN, OTHER, group_of, own_times, report, shares


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("conv2d dygraph", "convolutions"),
        ("oneDNN convolution, gradient of its weights", "convolutions"),
        ("depthwise_conv2d_grad compute", "depthwise convolutions"),
        ("oneDNN copy", "copies between layouts"),
        ("batch_norm compute", "normalizations"),
        ("oneDNN function of values, gradient", "activations"),
        ("oneDNN function of two maps", "sums, products, concatenations"),
        ("momentum_ compute", "optimizer"),
        ("gather_nd dygraph", OTHER),
    ],
)
def test_groups(name, group):
    assert group_of(name) == group


def event(name, start, duration, category="Operator", thread="7(C++)"):
    """An event of a trace, in microseconds."""
    return {"name": f"{name}[{duration} us]", "ts": start, "dur": duration, "cat": category, "tid": thread}


def test_time_counts_for_the_innermost_event_and_the_rest_is_python():
    events = [
        event("ProfileStep#0", 0.0, 10_000.0, "ProfileStep", "7(Python)"),
        event("Conv2D", 1000.0, 4000.0, "Forward", "7(Python)"),
        event("conv2d dygraph", 2000.0, 2500.0),
        event("conv2d compute", 2100.0, 2000.0, "OperatorInner"),
        event("backward", 6000.0, 3000.0),
        event("GradNodePyLayer__Enter_backward", 6500.0, 2000.0),
        event("oneDNN copy", 7000.0, 500.0, "PythonUserDefined", "7(Python)"),
        event("add", 0.0, 3000.0, thread="8(C++)"),
    ]
    assert shares(events) == {
        "convolutions": 2.5,
        "copies between layouts": 0.5,
        "sums, products, concatenations": 3.0,
        BETWEEN: 7.0,
    }


def test_an_event_that_ends_after_the_one_around_it_makes_no_time_negative():
    assert own_times([("outer", 0.0, 10.0), ("inner", 8.0, 3.0)]) == [("outer", 8.0), ("inner", 3.0)]


def test_the_table_leaves_out_what_takes_no_time():
    found = report({"paddle": {"convolutions": 80.4, "optimizer": 0.3}, "onednn": {"convolutions": 20.0, BETWEEN: 9.0}})
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()[2:]] == [
        ["convolutions", "80", "20"],
        [BETWEEN, "0", "9"],
        ["an update", "81", "29"],
    ]


def test_the_networks_have_configs():
    from ppdet_repro import load_config

    for config in operator_times.NETWORKS:
        load_config(config)
