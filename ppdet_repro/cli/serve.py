"""Serve an exported model: a web page to try it with your own images, and a JSON API.

    ppdet-repro serve --model_dir=output_inference/yolof_r50_c5_1x_coco    # http://127.0.0.1:8000

By default only this machine can reach the server; --host changes that. See docs/deploy_run.md.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from urllib.parse import urlsplit

from ppdet_repro.runtime.options import add_engine_flags, add_model_flags
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError


def origin(text: str) -> str:
    """Parse the origin of web pages, such as https://example.org or http://10.0.0.5:8080."""
    parts = urlsplit(text.lower())
    if parts.scheme not in ("http", "https") or text.lower() != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
        raise ArgumentTypeError(f"{text!r} is not an origin such as https://example.org, without a path")
    return text.lower()


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
    add("--connections_per_address", type=at_least_one, default=32, metavar="N",
        help="connections of one address that may wait for it; more behind a proxy (default: 32)")  # fmt: skip
    add("--allow_origin", type=origin, nargs="+", default=[], metavar="ORIGIN",
        help="origins of other web pages that may use the server, such as https://example.org")  # fmt: skip


def run(arguments: Namespace) -> None:
    from ppdet_repro.data.transform.jpeg_end import allowed_share
    from ppdet_repro.runtime.engines import open_pipeline
    from ppdet_repro.runtime.model_folder import open_model_folder

    allowed_share()  # an invalid value ends the start of the server, not a request
    model = open_model_folder(arguments.model_dir, arguments.use_fd_format, arguments.engine)
    try:
        from ppdet_repro.serve.app import create_app
        from ppdet_repro.serve.browsers import names_of
        from ppdet_repro.serve.decoding import DecodingProcess
        from ppdet_repro.serve.detector import Limits, QueuedDetector
        from ppdet_repro.serve.memory import return_large_allocations
        from ppdet_repro.serve.server import make_server
    except ModuleNotFoundError as error:
        raise UserError(f"the server needs {error.name}; pip install 'ppdet-repro[serve]'") from error
    return_large_allocations()
    limits = Limits(arguments.max_mb * 2**20, arguments.max_megapixels * 10**6, arguments.timeout, arguments.queue)
    decode = DecodingProcess(limits.max_pixels, limits.timeout)
    detector = QueuedDetector(open_pipeline(model, arguments), model.labels, limits, decode)
    app = create_app(detector, model.arch, model.draw_threshold, names_of(arguments.host), arguments.allow_origin)
    server = make_server(app, arguments.host, arguments.port, limits, arguments.connections_per_address)
    print(f"http://{arguments.host}:{arguments.port}", flush=True)
    try:
        server.run()
    finally:
        decode.close()
