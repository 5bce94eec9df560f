"""Average precision of trained weights on the config's EvalDataset.

    python tools/eval.py -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH --classwise
    python tools/eval.py -c CONFIG -o weights=PATH --tide --report output/report

Runs on several processes under `python -m paddle.distributed.launch`; the result is that of one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_slim_config, add_switch, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    add_slim_config(parser)
    parser.add_argument("--output_eval", metavar="DIR", help="write the detections to DIR/bbox.json")
    add_switch(parser, "--json_eval", False, "judge the bbox.json of an earlier run in --output_eval; no model runs")
    add_switch(parser, "--classwise", False, "report every class")
    add_switch(parser, "--bias", False, "count pixels: width = x2 - x1 + 1, as some published weights want")
    add_switch(parser, "--save_prediction_only", False, "write the detections and judge nothing")
    add_switch(parser, "--tide", False, "say what kinds of errors cost most (needs tidecv)")
    parser.add_argument("--report", metavar="DIR", help="write DIR/report.html: curves, confusions, worst images")
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()

    overrides = [f"{name}=true" for name in ("classwise", "tide", "save_prediction_only") if getattr(arguments, name)]
    overrides += ["bias=1"] if arguments.bias else []
    overrides += [f"output_eval={arguments.output_eval}"] if arguments.output_eval else []
    overrides += [f"report={arguments.report}"] if arguments.report else []
    cfg = load_config(arguments.config, [*arguments.opt, *overrides], arguments.slim_config)

    from ppdet_repro.engine.distributed import start
    from ppdet_repro.engine.evaluation.evaluate import evaluate, evaluate_file
    from ppdet_repro.engine.models import load_trained

    if arguments.json_eval:
        evaluate_file(cfg)
        return
    start(cfg.run.use_gpu)
    evaluate(load_trained(cfg, arguments.offline), cfg)


if __name__ == "__main__":
    run_command(main)
