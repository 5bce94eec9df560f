"""Writes the result of a study: a table for the terminal, results.json, plots, and one HTML page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ppdet_repro.studies.plan import write_json
from ppdet_repro.studies.results import Results, as_json
from ppdet_repro.studies.statistics import MAX_SEEDS, Difference, Summary
from ppdet_repro.utils.analysis_plots import figure, png
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.table import text_table

PAGE, JSON, BARS, CURVES = "report.html", "results.json", "bars.png", "curves.png"
LOADER = FileSystemLoader(Path(__file__).parent)
TEMPLATES = Environment(loader=LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters["base64"] = lambda data: base64.b64encode(data).decode()


def write_report(results: Results, folder: Path) -> str:
    """Write results.json, report.html, bars.png and curves.png into a folder. Returns the tables as text."""
    bars, curves = bars_plot(results), curves_plot(results)
    text = as_text(results)
    page = TEMPLATES.get_template(f"{PAGE}.j2").render(
        results=results, study=results.study, header=header(results), rows=table_rows(results),
        claims_header=CLAIMS, claims=claim_rows(results), bars=bars, curves=curves,
    )  # fmt: skip
    write_json(folder / JSON, as_json(results))
    write_output(folder / BARS, bars)
    write_output(folder / CURVES, curves)
    write_output(folder / PAGE, page.encode(errors="backslashreplace"))
    return text


CLAIMS = ["claim", "test", "difference", "seeds", "paper's", "verdict", "seeds needed"]


def as_text(results: Results, style: str = "github") -> str:
    """The table of rows and the table of claims, in Markdown."""
    lines = [f"{results.study.title}: {len(results.runs)} of {results.planned} runs, size: {results.scale}", ""]
    lines += [text_table(header(results), table_rows(results), style), ""]
    if results.study.claims:
        lines += [text_table(CLAIMS, claim_rows(results), style)]
    return "\n".join(lines).rstrip()


def header(results: Results) -> List[str]:
    """The names of the columns of the table of rows."""
    first = results.first().label
    metrics = results.metrics()
    return [
        "row",
        *metrics,
        "seeds",
        f"{results.study.metric} minus that of {first}",
        f"the paper's {results.study.metric}",
        "minutes",
    ]


def table_rows(results: Results) -> List[List[object]]:
    """The cells of the table of rows."""
    rows: List[List[object]] = []
    metric, metrics = results.study.metric, results.metrics()
    for line in results.table():
        times = [run["seconds"] for run in results.runs if run["row"] == line.row.name and run["seconds"]]
        minutes = f"{np.mean(times) / 60:.1f}" if times else None
        theirs = line.row.paper.scores.get(metric)
        cells = [mean_and_deviation(line.summaries[name]) for name in metrics]
        count = line.summaries[metric].number
        rows.append([line.row.label, *cells, count, interval(line.difference), theirs and f"{theirs:g}", minutes])
    return rows


def claim_rows(results: Results) -> List[List[object]]:
    """The cells of the table of claims: a line per comparison; a claim of several has its verdict in the first."""
    rows: List[List[object]] = []
    for verdict in results.verdicts():
        for number, part in enumerate(verdict.parts):
            words = part.verdict if len(verdict.parts) == 1 or number else f"{verdict.verdict} (this: {part.verdict})"
            paper = None if part.paper is None else f"{part.paper:+.1f}"
            claim = verdict.claim.text if not number else ""
            cells = [interval(part.difference), part.difference.number, paper, words, needed(part.difference)]
            rows.append([claim, part.comparison.text, *cells])
    return rows


def mean_and_deviation(summary: Summary) -> Optional[str]:
    """`14.0 +- 0.3`."""
    if summary.mean is None:
        return None
    return f"{summary.mean:.1f}" if summary.deviation is None else f"{summary.mean:.1f} +- {summary.deviation:.1f}"


def interval(difference: Optional[Difference]) -> Optional[str]:
    """`+1.2 (+0.4 to +2.0)`: a mean and its confidence interval."""
    if difference is None or difference.mean is None:
        return None
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.2f}"
    return f"{difference.mean:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"


def needed(difference: Difference) -> Optional[str]:
    """How many seeds would decide; for a difference that is already decided, how many would have been enough."""
    if difference.deviation is None:
        return None
    return f"more than {MAX_SEEDS}" if difference.needed is None else str(difference.needed)


def bars_plot(results: Results) -> bytes:
    """The mean of every row, with its standard deviation and its single runs; beside it the paper's."""
    metric = results.study.metric
    lines = [line for line in results.table() if line.summaries[metric].number] or results.table()
    papers = any(metric in line.row.paper.scores for line in lines)
    plot, axes = figure(2 if papers else 1, max(5.0, 0.9 * len(lines)))
    places, labels = np.arange(len(lines)), [line.row.label for line in lines]
    means = [line.summaries[metric].mean or 0.0 for line in lines]
    axes[0].bar(places, means, yerr=[line.summaries[metric].deviation or 0.0 for line in lines], capsize=5, color="C0")
    scores = results.scores()
    for place, line in zip(places, lines):
        values = list(scores[line.row.name].get(metric, {}).values())
        axes[0].plot([place] * len(values), values, "k.", markersize=4)
    axes[0].set(ylabel=metric, title=f"measured here ({results.scale}), mean and standard deviation")
    if papers:
        axes[1].bar(places, [line.row.paper.scores.get(metric, 0.0) for line in lines], color="0.6")
        axes[1].set(ylabel=metric, title="the paper's figures")
    for each in axes:
        each.set_xticks(places, labels, rotation=30, ha="right")
        each.grid(axis="y", alpha=0.3)
    return png(plot)


def curves_plot(results: Results) -> bytes:
    """The study's metric over epochs: the mean of every row, and a band from its lowest to its highest run."""
    metric = results.study.metric
    plot, (axes,) = figure(1, 8.0)
    for number, row in enumerate(results.study.rows):
        by_epoch: Dict[float, List[float]] = {}
        for run in results.runs:
            for point in run["curve"] if run["row"] == row.name else []:
                if metric in point:
                    by_epoch.setdefault(point["epoch"], []).append(point[metric])
        epochs = sorted(by_epoch)
        axes.plot(epochs, [np.mean(by_epoch[e]) for e in epochs], marker=".", color=f"C{number}", label=row.label)
        lows, highs = ([choose(by_epoch[e]) for e in epochs] for choose in (min, max))
        axes.fill_between(epochs, lows, highs, color=f"C{number}", alpha=0.15)
    axes.set(xlabel="epochs", ylabel=metric)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(plot)
