"""A page to try an exported detector on one's own pictures, and a JSON API.

    python tools/serve.py --model_dir=output_inference/yolof_r50_c5_1x_coco    # http://127.0.0.1:8000

Only this machine can reach it, unless --host says otherwise. See docs/deploy_run.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "python"), str(ROOT / "deploy")]

from ppdet_repro.runtime.engines import open_pipeline  # noqa: E402
from ppdet_repro.runtime.model_folder import open_model_folder  # noqa: E402
from ppdet_repro.runtime.options import add_engine_flags, add_model_flags  # noqa: E402
from ppdet_repro.utils.cli import at_least_one  # noqa: E402
from ppdet_repro.utils.errors import UserError, run_command  # noqa: E402

LOCAL = ["127.0.0.1", "localhost"]
CONNECTIONS = 64  # at a time, those that only upload included


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_flags(parser)
    add_engine_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=at_least_one, default=8000)
    parser.add_argument("--max_mb", type=at_least_one, default=10, help="largest upload")
    parser.add_argument("--max_megapixels", type=at_least_one, default=25, help="largest picture, decoded")
    parser.add_argument("--timeout", type=at_least_one, default=30, help="seconds for upload and for answer")
    parser.add_argument("--queue", type=at_least_one, default=8, help="requests that may wait or run")
    flags = parser.parse_args()
    model = open_model_folder(flags.model_dir, flags.use_fd_format, flags.engine)
    try:
        import uvicorn

        from ppdet_repro.serve.app import create_app
        from ppdet_repro.serve.detector import Limits, QueuedDetector
    except ModuleNotFoundError as error:
        raise UserError(f"the server needs {error.name}; pip install 'ppdet-repro[serve]'") from error
    limits = Limits(flags.max_mb * 2**20, flags.max_megapixels * 10**6, flags.timeout, flags.queue)
    detector = QueuedDetector(open_pipeline(model, flags), model.labels, limits)
    hosts = LOCAL if flags.host in LOCAL else ["*"]
    app = create_app(detector, model.arch, model.draw_threshold, hosts)
    print(f"http://{flags.host}:{flags.port}", flush=True)
    uvicorn.run(app, host=flags.host, port=flags.port, log_level="warning", limit_concurrency=CONNECTIONS)


if __name__ == "__main__":
    run_command(main)
