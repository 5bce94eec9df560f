"""The results as CSV, as Markdown and as a plot."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

FLOOR = 1e-8  # where a difference of zero is drawn


class Row(NamedTuple):
    """One row of the results. Times are milliseconds per batch, None where not measured."""

    model: str
    engine: str
    precision: str
    input: str
    batch: int
    threads: Optional[int]  # None if the engine has no such setting
    warmup: int
    repeats: int  # timed runs; the smaller number if the two times have different ones
    network_ms: Optional[float] = None
    network_p95_ms: Optional[float] = None
    end_to_end_ms: Optional[float] = None
    end_to_end_p95_ms: Optional[float] = None
    difference: Optional[float] = None  # of the network's outputs, see `markdown`
    megabytes: Optional[float] = None  # of the model's files
    ap: Optional[float] = None
    weights: str = ""
    paper: str = ""
    remark: str = ""  # why it was not measured


def write_csv(path: Path, rows: Sequence[Row], machine: Dict[str, str]) -> None:
    """Write all columns. The facts about the machine are repeated in each line."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*Row._fields, *machine])
        for row in rows:
            table.writerow(["" if value is None else value for value in [*row, *machine.values()]])


def markdown(rows: Sequence[Row], machine: Dict[str, str]) -> str:
    """A page with the machine, the protocol and the table."""
    first = rows[0]
    counts = [row.repeats for row in rows if not row.remark] or [0]  # slow engines have fewer
    runs = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    lines = [
        f"# Benchmark\n\n{facts}",
        f"- batch {first.batch}, {first.threads} threads (Paddle-Lite's Python package has no such setting), "
        f"{first.warmup} warm-up runs, then {runs} timed runs; median (95th percentile) in ms per batch",
        "- network: without preprocessing, decoding and suppression, as in PP-YOLOv2's paper; end to end: from the "
        "image file to the boxes, without overlap of stages",
        "- difference: of the network's outputs from the first engine's, relative to their largest value",
        "- MB: size of the model's files in megabytes, without infer_cfg.yml",
        "- the papers' figures are quoted, on their hardware; everything else was measured on this machine\n",
        "| model | engine | precision | input | network | end to end | difference | MB | AP | weights | paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = [
            row.remark or _time(row.network_ms, row.network_p95_ms),
            _time(row.end_to_end_ms, row.end_to_end_p95_ms),
            "" if row.difference is None else f"{row.difference:.1e}",
            "" if row.megabytes is None else f"{row.megabytes:.2f}",
            "" if row.ap is None else f"{row.ap:.3f}",
        ]
        cells = [row.model, row.engine, row.precision, row.input, *measured, row.weights, row.paper]
        lines.append(f"| {' | '.join(cells)} |")
    models = dict.fromkeys(row.model for row in rows)
    best = [fastest([row for row in rows if row.model == model]) for model in models]
    lines += ["", *(f"- {line}" for line in best if line)]
    return "\n".join([*lines, "", "![AP or difference against latency](benchmark.png)", ""])


def fastest(rows: Sequence[Row]) -> str:
    """One line that names a model's fastest engine in float32, from file to boxes; empty unless several ran."""
    times = {row.engine: row.end_to_end_ms for row in rows if row.precision == "fp32" and not row.remark}
    ranked = sorted((time, engine) for engine, time in times.items() if time is not None)
    if len(ranked) < 2:
        return ""
    shortest, best = ranked[0]
    others = ", ".join(f"{engine} ({time / shortest:.2f} times its time)" for time, engine in ranked[1:])
    return f"{rows[0].model} in fp32, end to end: {best} is the fastest, before {others}"


def _time(median: Optional[float], p95: Optional[float]) -> str:
    return "" if median is None or p95 is None else f"{median:.1f} ({p95:.1f})"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot AP against end-to-end latency if AP was measured, otherwise the difference against the network's latency."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with_ap = any(row.ap is not None for row in rows)
    points = [(row.model, f"{row.engine}, {row.precision}", at) for row in rows if (at := point(row, with_ap))]
    colors = {model: f"C{i % 10}" for i, model in enumerate(dict.fromkeys(model for model, _, _ in points))}
    markers = dict(zip(dict.fromkeys(engine for _, engine, _ in points), itertools.cycle("osD^v<>Ph*X")))
    figure, axes = plt.subplots(figsize=(10, 5), constrained_layout=True)
    for model, engine, at in points:
        axes.plot(*at, markers[engine], color=colors[model], alpha=0.8)
    axes.set_xscale("log")
    if with_ap:
        axes.set(xlabel="end to end, ms per batch", ylabel="AP")
    else:
        axes.set(xlabel="network, ms per batch", ylabel="relative difference of outputs (lowest: none)", yscale="log")
    axes.grid(alpha=0.3)
    keys = [axes.plot([], [], "o", color=color, label=model)[0] for model, color in colors.items()]
    keys += [axes.plot([], [], marker, color="grey", label=engine)[0] for engine, marker in markers.items()]
    if keys:
        figure.legend(handles=keys, fontsize=7, loc="outside right center")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def point(row: Row, with_ap: bool) -> Optional[Tuple[float, float]]:
    """The position of a row in the plot; None if it lacks the numbers."""
    latency = row.end_to_end_ms if with_ap else row.network_ms
    height = row.ap if with_ap else row.difference
    if latency is None or height is None or math.isnan(height):
        return None
    return latency, height if with_ap else max(height, FLOOR)
