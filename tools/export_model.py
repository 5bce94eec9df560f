"""Export trained weights as a Paddle inference model for deploy/python/infer.py.

python tools/export_model.py -c configs/yolof/yolof_r50_c5_1x_coco.yml -o weights=PATH
"""
from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppdet_repro.core.config import load_config  # noqa: E402
from ppdet_repro.utils.cli import add_switch, config_parser  # noqa: E402
from ppdet_repro.utils.errors import run_command  # noqa: E402


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--output_dir", metavar="DIR", default="output_inference", help="the model goes to DIR/NAME"
    )
    add_switch(parser, "--offline", False, "take weights that are a URL from the cache only")
    arguments = parser.parse_args()
    cfg = load_config(arguments.config, arguments.opt)

    import paddle

    from ppdet_repro.engine.export import export_model
    from ppdet_repro.engine.trained import load_trained

    paddle.set_device("cpu")
    export_model(load_trained(cfg, arguments.offline), cfg, arguments.output_dir)


if __name__ == "__main__":
    run_command(main)
