"""Serve an exported model: a web page to try it with your own images, and a JSON API.

    ppdet-repro serve --model_dir=output_inference/yolof_r50_c5_1x_coco    # http://127.0.0.1:8000

By default only this machine can reach the server; --host changes that. See docs/deploy_run.md.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.runtime.options import add_engine_flags, add_model_flags
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError

LOCAL = ["127.0.0.1", "localhost"]
CONNECTIONS = 64  # open at the same time, including those that are still uploading


def add_arguments(parser: ArgumentParser) -> None:
    add_model_flags(parser)
    add_engine_flags(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=at_least_one, default=8000, help="port to listen on (default: 8000)")
    add("--max_mb", type=at_least_one, default=10, metavar="N", help="largest upload, in MiB (default: 10)")
    add("--max_megapixels", type=at_least_one, default=25, metavar="N",
        help="largest image, in millions of pixels after decoding (default: 25)")  # fmt: skip
    add("--timeout", type=at_least_one, default=30, metavar="SECONDS",
        help="time limit for an upload, and for an answer, in seconds (default: 30)")  # fmt: skip
    add("--queue", type=at_least_one, default=8, metavar="N", help="requests that may wait or run at once (default: 8)")


def run(arguments: Namespace) -> None:
    from ppdet_repro.runtime.engines import open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder

    model = open_model_folder(arguments.model_dir, arguments.use_fd_format, arguments.engine)
    try:
        import uvicorn

        from ppdet_repro.serve.app import create_app
        from ppdet_repro.serve.detector import Limits, QueuedDetector
    except ModuleNotFoundError as error:
        raise UserError(f"the server needs {error.name}; pip install 'ppdet-repro[serve]'") from error
    limits = Limits(arguments.max_mb * 2**20, arguments.max_megapixels * 10**6, arguments.timeout, arguments.queue)
    detector = QueuedDetector(open_pipeline(model, arguments), model.labels, limits)
    hosts = LOCAL if arguments.host in LOCAL else ["*"]
    app = create_app(detector, model.arch, model.draw_threshold, hosts)
    print(f"http://{arguments.host}:{arguments.port}", flush=True)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", limit_concurrency=CONNECTIONS)
