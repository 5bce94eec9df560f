"""Repeat a paper's ablation with several seeds, and test its claims.

    ppdet-repro reproduce yolof_table4 --dry-run
    ppdet-repro reproduce yolof_table4 --workers 2
    ppdet-repro reproduce yolof_table4 --scale paper --data dataset/coco --gpus 0,1,2,3,4,5,6,7
    ppdet-repro reproduce --from output/studies/yolof_table4/results.json
    ppdet-repro reproduce --sizes

STUDY is a YAML file or a packaged study. The command goes on where it was interrupted. Started on several machines with
one shared --output folder, it divides the runs among them. docs/reproduction.md has the rest.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ppdet_repro.utils.cli import add_overrides, add_switch, at_least_one
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("study", nargs="?", metavar="STUDY", help="YAML file of a study, or the name of a packaged one")
    add("--output", metavar="DIR", help="folder for all runs and results (default: output/studies/STUDY)")
    add("--data", metavar="DIR", help="folder of the dataset (default: the study's)")
    add("--scale", default="miniature", choices=("miniature", "paper"),
        help="size: the study's miniature, or the paper's configs (default: miniature)")  # fmt: skip
    add("--seeds", nargs="+", type=int, metavar="N", help="seeds (default: the study's; at the paper's size 0)")
    add("--rows", nargs="+", default=[], metavar="ROW", help="rows to run (default: all rows of the study)")
    add("--workers", type=at_least_one, default=1, metavar="N",
        help="runs at the same time on this machine; they share its cores (default: 1)")  # fmt: skip
    add("--gpus", metavar="LIST", help="GPUs that each run uses, such as 0,1 (default: one process per run)")
    add_switch(parser, "--dry-run", False, "print every run with its cost and time, and train nothing")
    add("--from", dest="results", metavar="FILE", help="draw the report of this results.json again, and train nothing")
    add_switch(parser, "--sizes", False, "print the size of every row of the papers' tables beside the paper's, only")
    add_overrides(parser)


def run(arguments: Namespace) -> None:
    if arguments.results is not None:
        redraw(arguments)
        return
    if arguments.sizes:
        from ppdet_repro.studies.sizes import sizes_table

        print(sizes_table())
        return
    if arguments.study is None:
        raise UserError(
            "no study given: give a YAML file, the name of a packaged study, --from results.json, or --sizes"
        )

    from ppdet_repro.studies.plan import PAPER
    from ppdet_repro.studies.study import find_study

    study = find_study(arguments.study)
    paper = arguments.scale == PAPER
    seeds = list(dict.fromkeys(arguments.seeds or ([0] if paper else study.seeds)))
    if min(seeds) < 0:
        raise UserError("--seeds: a seed is at least 0")
    output = Path(arguments.output or f"output/studies/{study.name}{'_paper' if paper else ''}")
    if arguments.dry_run:
        from ppdet_repro.studies.cost import dry_run

        print(dry_run(study, arguments.scale, output, arguments.data, seeds, arguments.opt, arguments.rows))
        return

    from ppdet_repro.studies.plan import make_plan
    from ppdet_repro.studies.report import write_report
    from ppdet_repro.studies.results import collect
    from ppdet_repro.studies.worker import run_study

    plan = make_plan(study, arguments.scale, output, arguments.data, seeds, arguments.opt, arguments.rows)
    run_study(plan, arguments.workers, arguments.gpus)
    print(write_report(collect(plan), output))
    print(f"\n{output}: results.json, report.html, bars.png, curves.png")


def redraw(arguments: Namespace) -> None:
    """Write the report of a results.json into --output, or beside the file."""
    from ppdet_repro.studies.report import write_report
    from ppdet_repro.studies.results import read_results

    path = Path(arguments.results)
    print(write_report(read_results(path), Path(arguments.output or path.parent)))
