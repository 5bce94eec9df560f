"""The HTTP server: uvicorn with limits of connections and of time."""

from __future__ import annotations

import functools
from typing import Optional

import uvicorn
from starlette.types import ASGIApp

from ppdet_repro.serve.connections import Connections, GuardedProtocol, Patience
from ppdet_repro.serve.limits import Limits

CONNECTIONS = 64  # that wait for their clients at the same time
BACKLOG = 128  # connections that the system keeps until they are accepted; also the most accepted at a time
SHUTDOWN = 10  # seconds for the requests that are running when the server is stopped


def make_server(
    app: ASGIApp,
    host: str,
    port: int,
    limits: Limits,
    connections_per_address: int,
    patience: Optional[Patience] = None,
) -> uvicorn.Server:
    """A server of the application. `run()` serves until a signal."""
    patience = patience or Patience(answer=2 * limits.timeout + Patience().reading)
    most = max(CONNECTIONS, connections_per_address)
    guarded = Connections(most, connections_per_address)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(GuardedProtocol, guarded=guarded, patience=patience),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_level="error",  # a line per broken request would let clients fill the log
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN,
    )
    return uvicorn.Server(config)
