"""Collects the results of a study's runs, and computes what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ppdet_repro.core.config.document import Node
from ppdet_repro.studies import claims, identity
from ppdet_repro.studies.claims import Judged
from ppdet_repro.studies.plan import RESULT, Plan, read_json
from ppdet_repro.studies.statistics import Difference, Summary, paired, summarize
from ppdet_repro.studies.study import METRICS, Claim, Row, Study, read_study
from ppdet_repro.utils.errors import UserError

FORMAT = 1


class Line(NamedTuple):
    """A row of the result's table."""

    row: Row
    summaries: Dict[str, Summary]  # by metric
    difference: Optional[Difference]  # to the first row that was run; None for that row


class Verdict(NamedTuple):
    """What the runs say about a claim."""

    claim: Claim
    verdict: str
    parts: Tuple[Judged, ...]


class Results(NamedTuple):
    """A study with the results of its runs."""

    study: Study
    scale: str
    planned: int  # number of runs
    runs: List[Dict[str, Any]]  # the content of the result files

    def scores(self) -> Dict[str, Dict[str, Dict[int, float]]]:
        """The scores in points by row, metric and seed."""
        found: Dict[str, Dict[str, Dict[int, float]]] = {row.name: {} for row in self.study.rows}
        for run in self.runs:
            for metric, value in run["scores"].items():
                found[run["row"]].setdefault(metric, {})[run["seed"]] = value
        return found

    def metrics(self) -> List[str]:
        """The metrics that were measured, in their usual order."""
        found = self.scores().values()
        return [metric for metric in METRICS.values() if any(metric in row for row in found)]

    def first(self) -> Row:
        """The row that the table compares the others with: the first one that was run."""
        names = {run["row"] for run in self.runs}
        return next((row for row in self.study.rows if row.name in names), self.study.rows[0])

    def table(self) -> List[Line]:
        """A line per row."""
        scores, metric = self.scores(), self.study.metric
        first = scores[self.first().name].get(metric, {})
        lines = []
        for row in self.study.rows:
            own = scores[row.name]
            mine = own.get(metric, {})
            both = sorted(set(mine) & set(first))
            difference = None if row == self.first() else paired([mine[seed] - first[seed] for seed in both])
            summaries = {name: summarize(list(own.get(name, {}).values())) for name in METRICS.values()}
            lines.append(Line(row, summaries, difference))
        return lines

    def verdicts(self) -> List[Verdict]:
        """A verdict per claim."""
        scores, metric = self.scores(), self.study.metric
        paper = {
            row.name: {name: {0: float(value)} for name, value in row.paper.scores.items()} for row in self.study.rows
        }
        found = []
        for claim in self.study.claims:
            parts = tuple(claims.judge(comparison, scores, paper, metric) for comparison in claim.comparisons)
            found.append(Verdict(claim, claims.verdict_of(parts), parts))
        return found


def collect(plan: Plan) -> Results:
    """Read the results of a plan's runs that are done. UserError if one was made with something else."""
    runs = []
    for run in plan.runs:
        result = read_json(run.folder / RESULT)
        if not result:
            continue
        differences = identity.changed(run.identity, result["identity"])
        if differences:
            raise UserError(f"{run.folder / RESULT} was made with something else: {', '.join(differences)}; delete it")
        runs.append(result)
    return Results(plan.study, plan.scale, len(plan.runs), runs)


def as_json(results: Results) -> Dict[str, Any]:
    """The content of results.json: the study, the runs, and what follows from them, for other programs."""
    return {
        "format": FORMAT,
        "name": results.study.name,
        "scale": results.scale,
        "planned": results.planned,
        "study": results.study.document,
        "runs": results.runs,
        "table": [
            {
                "row": line.row.name,
                "scores": {name: summary._asdict() for name, summary in line.summaries.items() if summary.number},
                "difference": line.difference._asdict() if line.difference else None,
                "paper": dict(line.row.paper.scores),
            }
            for line in results.table()
        ],
        "claims": [
            {
                "claim": verdict.claim.text,
                "verdict": verdict.verdict,
                "tests": [
                    {
                        "test": part.comparison.text,
                        "verdict": part.verdict,
                        **part.difference._asdict(),
                        "paper": part.paper,
                    }
                    for part in verdict.parts
                ],
            }
            for verdict in results.verdicts()
        ],
    }


def read_results(path: Path) -> Results:
    """Read a results.json. Only the study and the runs count; the rest is computed again.

    UserError if the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; reproduce writes results.json into its output folder")
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise UserError(f"format {content['format']!r} is unknown; this version reads {FORMAT}")
        study = read_study(content["name"], Node.of(content["study"]))
        results = Results(study, content["scale"], content["planned"], content["runs"])
        check_runs(results.runs, study)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a results.json of a study ({error!r})") from error
    return results


def check_runs(runs: Sequence[Dict[str, Any]], study: Study) -> None:
    """Raise ValueError if a run is not one of the study, or has no numbers."""
    names = {row.name for row in study.rows}
    for run in runs:
        numbers = [*run["scores"].values(), *(value for point in run["curve"] for value in point.values())]
        if run["row"] not in names or not all(isinstance(value, (int, float)) for value in numbers):
            raise ValueError(f"run {run['row']!r} with seed {run['seed']!r}")
