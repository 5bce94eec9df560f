"""Measure what an update of a training on the CPU spends its time on, with Paddle's kernels and with oneDNN's.

    python benchmarks/operator_times.py
    python benchmarks/operator_times.py -c yolof/yolof_r50_c5_1x_coco.yml --size 256 256

Paddle's profiler records updates of `train_cpu.py`: random images with random boxes, after a warm-up. The time of an
operator is without that of the operators which it calls, and counts for the group of its name. What lies between
operators is Python. The profiler itself takes time for each operator, most of it where there are many small ones.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import _checkout
from tabulate import tabulate

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

NETWORKS = {  # config: its input
    "ttfnet/pafnet_lite_mbv3_256_bccd.yml": (320, 320),
    "bifpn/bifpn_b0_128_synthetic.yml": (256, 256),
    "yolof/yolof_r18vd_bccd.yml": (256, 256),
    "ppyolo/ppyolov2_r18vd_256_bccd.yml": (256, 256),
    "sapd/sapd_r18vd_256_synthetic.yml": (256, 256),
}
KERNELS = "paddle", "onednn"
GROUPS = {  # group: what the names of its operators contain
    "depthwise convolutions": "depthwise",
    "convolutions": "conv|deformable",
    "copies between layouts": "oneDNN copy|transpose|contiguous",
    "normalizations": "norm",
    "optimizer": "momentum|optimizer|clear_grad",
    "activations": "relu|swish|sigmoid|mish|function of values|softplus",
    "pooling, resizing": "pool|interp|resiz|pad",
    "sums, products, concatenations": "add|multiply|subtract|divide|sum|concat|split|scal|function of two",
}
OTHER, BETWEEN = "losses, targets, others", "Python between operators"
CALLING = "Forward", "Backward", "Optimization", "ProfileStep"  # categories of events that call operators
CALLERS = "GradNodePyLayer", "backward", "full pybind"  # names of others
STEPS = 3


def group_of(name: str) -> str:
    """The group of an operator.

    Example:
        >>> group_of("Conv2dGradNode"), group_of("oneDNN copy"), group_of("where dygraph")
        ('convolutions', 'copies between layouts', 'losses, targets, others')
    """
    return next((group for group, names in GROUPS.items() if re.search(names, name, re.IGNORECASE)), OTHER)


def own_times(events: Sequence[Tuple[str, float, float]]) -> List[Tuple[str, float]]:
    """The time of each event without that of the events inside it.

    Args:
        events: Name, start and duration of events of one thread, of which one contains another or is apart; what one
            has beyond the end of the one around it is not that one's.

    Example:
        >>> own_times([("outer", 0.0, 10.0), ("inner", 2.0, 3.0), ("last", 12.0, 1.0)])
        [('outer', 7.0), ('inner', 3.0), ('last', 1.0)]
    """
    ordered = sorted(events, key=lambda event: (event[1], -event[2]))
    own = [duration for _, _, duration in ordered]
    around: List[int] = []  # the events that contain the current one
    for i, (_, start, duration) in enumerate(ordered):
        while around and start >= sum(ordered[around[-1]][1:]):
            around.pop()
        if around:
            own[around[-1]] -= min(duration, sum(ordered[around[-1]][1:]) - start)
        around.append(i)
    return [(name, time) for (name, *_), time in zip(ordered, own)]


def shares(events: Sequence[Mapping[str, Any]]) -> Dict[str, float]:
    """Milliseconds by group, of the events of a trace, the first of which contains all others."""
    times: Dict[str, float] = defaultdict(float)
    by_thread: Dict[str, List[Tuple[str, float, float]]] = {}
    for event in events:
        thread = event["tid"].split("(")[0]  # 123(Python) and 123(C++) are the same
        name = event["name"].rsplit("[", 1)[0]
        calls = event["cat"] in CALLING or name.startswith(CALLERS)
        by_thread.setdefault(thread, []).append((BETWEEN if calls else name, event["ts"], event["dur"]))
    for own in by_thread.values():
        for name, duration in own_times(own):
            times[BETWEEN if name == BETWEEN else group_of(name)] += duration / 1000
    return dict(times)


def profile(options: argparse.Namespace) -> Dict[str, float]:
    """Milliseconds of an update by group, in this process."""
    import _paddle_training
    from paddle.profiler import Profiler, ProfilerTarget, export_chrome_tracing

    from ppdet_repro import load_config

    config = load_config(options.config, [f"cpu_kernels={options.kernels}"])
    with tempfile.TemporaryDirectory() as folder:
        update = _paddle_training.make_update(config, options.batch, tuple(options.size), 0.0)
        for _ in range(2):
            update()
        profiler = Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=export_chrome_tracing(folder))
        profiler.start()
        for _ in range(STEPS):
            update()
        profiler.stop()
        (file,) = Path(folder).iterdir()
        trace = json.loads(file.read_text())
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    return {group: value / STEPS for group, value in shares(events).items()}


def measure_in_child(config: str, size: Sequence[int], kernels: str, batch: int) -> Dict[str, float]:
    """Run this command for one network and its kernels. UserError if it fails."""
    sides = [str(side) for side in size]
    flags = ["-c", config, "--size", *sides, "--batch", str(batch), "--kernels", kernels]
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise UserError(f"the measurement of {config} failed with exit code {done.returncode}; see its message above")
    return json.loads(done.stdout.splitlines()[-1])


def report(measured: Mapping[str, Mapping[str, float]]) -> str:
    """A table of milliseconds by group, with a column for each of the kernels."""
    rows: List[Any] = [
        (group, *(times.get(group, 0.0) for times in measured.values())) for group in [*GROUPS, OTHER, BETWEEN]
    ]
    rows = [row for row in rows if max(row[1:]) >= 0.5]
    total = ("an update", *(sum(times.values()) for times in measured.values()))
    return tabulate([*rows, total], ["ms", *measured], tablefmt="github", floatfmt=".0f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", help="YAML config (default: five small networks)")
    text = "image size in pixels (default: 256 256)"
    parser.add_argument("--size", nargs=2, type=at_least_one, default=[256, 256], metavar=("H", "W"), help=text)
    parser.add_argument("--batch", type=at_least_one, default=4, help="batch size (default: 4)")
    parser.add_argument("--kernels", choices=KERNELS, help="profile in this process and print JSON")
    options = parser.parse_args()
    if options.kernels:
        print(json.dumps(profile(options)))
        return
    chosen = {options.config: tuple(options.size)} if options.config else NETWORKS
    for config, size in chosen.items():
        measured = {kernels: measure_in_child(config, size, kernels, options.batch) for kernels in KERNELS}
        print(f"\n{config}, {options.batch} x {size[0]} x {size[1]}\n\n{report(measured)}", flush=True)


if __name__ == "__main__":
    run_command(main)
