"""Compute the average precision of trained weights on the config's EvalDataset.

    ppdet-repro eval -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH --classwise
    ppdet-repro eval -c CONFIG -o weights=PATH --tide --report output/report

`python -m paddle.distributed.launch --gpus 0,1 tools/eval.py ...` shares the images among several processes; the
result is the same.
"""

from argparse import ArgumentParser, Namespace
from typing import Optional

from ppdet_repro.cli import read_config
from ppdet_repro.runtime.options import add_slice_flags
from ppdet_repro.utils.cli import add_config, add_offline, add_slim_config, add_switch


def add_arguments(parser: ArgumentParser, report: Optional[str] = None) -> None:
    """Add the flags; `report` is the default of --report."""
    add_config(parser)
    add_slim_config(parser)
    parser.add_argument("--output_eval", metavar="DIR", help="write the detections to DIR/bbox.json")
    text = "evaluate the bbox.json that an earlier run wrote to --output_eval; no model runs (default: False)"
    add_switch(parser, "--json_eval", False, text)
    add_switch(parser, "--classwise", False, "also print the average precision per class (default: False)")
    add_switch(parser, "--bias", False, "box width = x2 - x1 + 1, as some published weights need (default: False)")
    add_switch(parser, "--save_prediction_only", False, "write the detections without evaluating (default: False)")
    add_switch(parser, "--tide", False, "print the AP lost per kind of error, needs tidecv (default: False)")
    text = f"write DIR/report.html: curves, confused classes, the worst images (default: {report or 'no report'})"
    parser.add_argument("--report", metavar="DIR", default=report, help=text)
    add_slice_flags(parser)
    add_offline(parser)


def run(arguments: Namespace) -> None:
    names = ("classwise", "tide", "save_prediction_only", "output_eval", "report")
    values = {name: getattr(arguments, name) for name in names}
    cfg = read_config(arguments, bias=1 if arguments.bias else None, **values)

    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.evaluation.evaluate import evaluate, evaluate_file
    from ppdet_repro.engine.models import load_trained
    from ppdet_repro.runtime.slicing import slices_of_flags
    from ppdet_repro.slim.qat import note_simulation

    if arguments.json_eval:
        evaluate_file(cfg)
        return
    start(cfg.run.use_gpu)
    note_simulation(cfg.run.slim)
    evaluate(load_trained(cfg, arguments.offline), cfg, slices=slices_of_flags(arguments))
